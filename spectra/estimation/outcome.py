"""What an adaptive estimate reached: each asked interval, what its width is made of, why it ended.

    width ≤ resolution + probes      (scope "batches":    f·mean(U − L) + f·2h)
    width ≤ resolution + batches     (scope "population": f·mean(U − L) + f·t(s_L + s_U)/√B)

with f the unmasked share; less where the interval ends at 0 or 1. A mass counts as reached when the
width of its whole interval is at most 2·tol, and never before: the numbers are those of
`Spectrum.mass`, with the product error as it was measured last.

With tau="auto" the one threshold reported is the smallest of the ladder that is reached; its
interval, like every other of the ladder, holds at the same time as all of them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from spectra.errors import UsageError
from spectra.estimation.planner import allowed_band, run_bands
from spectra.estimation.target import SHARP, SOFT, Goal, Target
from spectra.quadrature import Estimate, Measure, mass, soft_mass
from spectra.quadrature.estimates import MIN_POPULATION, probe_halfwidth, student_halfwidth
from spectra.quadrature.gauss import Floats
from spectra.quadrature.mass import effective_runs
from spectra.quadrature.soft import DEFAULT_ORDER
from spectra.quadrature.steps import sharp_steps, soft_steps
from spectra.record import Spectrum


def conclude(spectrum: Spectrum, target: Target) -> dict[str, Any]:
    """Return what the section `adaptive` of a record says at the end.

    Args:
        spectrum: The record, every run in it.
        target: What was asked.
    """
    measure = spectrum.measure
    goals = _asked(measure, target)
    told = [_functional(measure, target, goal) for goal in goals]
    spent = int(spectrum.steps.sum())
    return {
        "stopped": _reason(measure, target, told, spent),
        "products": spent,
        "steps": [int(spectrum.steps.min()), int(spectrum.steps.max())],
        "functionals": told,
    }


def _asked(measure: Measure, target: Target) -> list[Goal]:
    goals = target.goals(measure.delta, max(abs(end) for end in measure.span))
    if target.tau is not None:
        return goals
    ladder = [g for g in goals if g.tau is not None]
    for goal in ladder:
        resolution, _ = _parts(measure, target, goal)
        if resolution <= 2 * target.tol >= _estimate(measure, target, goal).width:
            ladder = [goal]
            break
    return ladder[-1:] + [g for g in goals if g.tau is None]


def _estimate(measure: Measure, target: Target, goal: Goal, scope: str | None = None) -> Estimate:
    where: Any = {"scope": scope or target.scope, "confidence": target.confidence}
    if goal.name == SOFT and goal.tau is not None:
        return soft_mass(measure, goal.tau, **where)
    return mass(measure, goal.a, goal.b, closed=goal.name == SHARP, **where)


def _bounds(measure: Measure, goal: Goal) -> tuple[Floats, Floats]:
    """Return each batch's mean bounds on the unmasked block, two (B,)."""
    ends = [
        np.mean([run_bands(r.alphas, r.betas, [goal], measure.delta) for r in row], axis=0)[:, 0]
        for row in measure.runs
    ]
    low, high = np.array(ends).T
    return low, high


def _parts(measure: Measure, target: Target, goal: Goal) -> tuple[float, float]:
    """Return the width's two parts: resolution, and probes or batches."""
    low, high = _bounds(measure, goal)
    share = 1 - measure.masked_fraction
    if target.scope == "population":
        random = sum(student_halfwidth(side, target.confidence) for side in (low, high))
    else:
        runs = effective_runs(measure)
        random = 2 * probe_halfwidth(measure.dim_unmasked, runs, target.confidence)
    return share * float((high - low).mean()), share * random


def _functional(measure: Measure, target: Target, goal: Goal) -> dict[str, Any]:
    told: dict[str, Any] = {"name": goal.name, "tau": goal.tau}
    try:
        found = _estimate(measure, target, goal)
    except UsageError as error:  # the product error grew beyond τ
        return told | {"reached": False, "note": str(error)}
    resolution, random = _parts(measure, target, goal)
    population = target.scope == "population"
    told |= dataclasses.asdict(found) | {
        "width": found.width,
        "reached": found.width <= 2 * target.tol,
        "resolution": resolution,
        "probes": None if population else random,
        "batches": random if population else None,
    }
    return told if told["reached"] else told | _needed(measure, target, goal, resolution, random)


def _needed(
    measure: Measure, target: Target, goal: Goal, resolution: float, random: float
) -> dict[str, Any]:
    """Return about how many products, or batches, would have reached what was asked."""
    share = 1 - measure.masked_fraction
    needed: dict[str, Any] = {}
    limit = allowed_band(target, measure.dim_unmasked, effective_runs(measure), share)
    if limit > 0 and resolution > share * limit:
        if goal.name == SOFT and goal.tau is not None:
            steps = soft_steps(measure, goal.tau, DEFAULT_ORDER, limit)
        else:
            steps = sharp_steps(measure, goal.a, goal.b, limit)
        if steps is not None:
            needed["products_needed"] = steps * measure.num_runs
    elif target.scope == "batches" and random >= 2 * target.tol:  # half of the width for probes
        runs = measure.num_runs * (random / target.tol) ** 2
        needed["probes_needed"] = math.ceil(runs / measure.num_batches)
        needed["products_needed"] = math.ceil(runs * measure.steps)
    if target.scope == "population":
        rest = 2 * target.tol - min(resolution, share * limit)
        if random > rest > 0:
            needed["batches_needed"] = math.ceil(measure.num_batches * (random / rest) ** 2)
    return needed


def _reason(measure: Measure, target: Target, told: list[dict[str, Any]], spent: int) -> str:
    """Return why it ended: reached, budget, batches, probes, spectrum, or product error."""
    if all(row["reached"] for row in told):
        return "reached"
    if spent > target.max_hvps - measure.num_runs:
        return "budget"
    missed = [row for row in told if not row["reached"]]
    if any("width" not in row for row in missed):
        return "product error"
    if target.scope == "population":
        return "batches"
    if all(row["probes"] >= 2 * target.tol for row in missed):
        return "probes"
    return "product error" if measure.steps < measure.dim_unmasked else "spectrum"


def list_asked(spectrum: Spectrum, target: Target, metadata: dict[str, Any]) -> None:
    """Add the asked thresholds to the shares near zero of a record's summary, in place."""
    measure = spectrum.measure
    for told in metadata["adaptive"]["functionals"]:
        tau, soft = told["tau"], told["name"] == SOFT
        own = {"order": DEFAULT_ORDER} if soft else {"relative_tau": None}
        rows = metadata["summary"]["soft" if soft else "near_zero"]
        known = any(row["tau"] == tau and own.items() <= row.items() for row in rows)
        if tau is None or known or "width" not in told:
            continue
        row: dict[str, Any] = {"tau": tau, **own, "population": None}
        for scope in ("batches", "population"):
            if scope == "batches" or measure.num_batches >= MIN_POPULATION:
                goal = Goal(told["name"], -tau, tau, tau)
                row[scope] = dataclasses.asdict(_estimate(measure, target, goal, scope))
        rows.append(row)
        rows.sort(key=lambda entry: entry["tau"] if soft else 0)  # sharp ones keep their order
