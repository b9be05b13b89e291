"""The numbers every record states about its spectrum, each with its interval.

*Shares near zero* are soft shares (spectra.quadrature.soft) on the fixed ladder: those that the run
knows, from the finest threshold upward. Their intervals hold for the whole ladder at once, as the
thresholds are chosen by looking. Where the ladder is known from, and how many Lanczos steps the
finest usual threshold would need, stands beside them.

*Sharp shares* are given at absolute thresholds (1.5e-3 is that of arXiv 2605.17471), and at ones
relative to the spectral radius, because an absolute threshold changes its meaning when the loss is
rescaled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from spectra.errors import UsageError
from spectra.quadrature.estimates import MIN_POPULATION, Estimate
from spectra.quadrature.extremes import extremes
from spectra.quadrature.mass import mass
from spectra.quadrature.measure import Measure
from spectra.quadrature.moments import moment
from spectra.quadrature.soft import (
    DEFAULT_ORDER,
    LADDER,
    NARROW,
    RUNGS,
    effective_dimension,
    resolution,
    soft_band,
)
from spectra.quadrature.steps import soft_steps

ABSOLUTE_TAUS = (1.5e-3, 1e-2, 1e-1)
RELATIVE_TAUS = (1e-4, 1e-3, 1e-2)
SOFT_TAUS = (1.5e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)  # in every record, so that records compare
DIMENSION_TAUS = (1e-2, 1e-1, 1.0)


def summarize(measure: Measure) -> dict[str, Any]:
    """Return the `summary` section of a record: nested plain dictionaries of estimates.

    Every quantity has the keys `batches` and `population` (None with fewer than three batches).
    Thresholds narrower than the product error are listed with None for their mass.
    """
    entries: dict[str, Any] = {
        "mean_eigenvalue": _scopes(measure, lambda scope: moment(measure, 1, scope=scope))
    }
    if measure.steps >= 2:
        entries["mean_square_eigenvalue"] = _scopes(
            measure, lambda scope: moment(measure, 2, scope=scope)
        )
    if measure.spherical:
        entries["lambda_min"] = _scopes(measure, lambda s: extremes(measure, scope=s)[0])
        entries["lambda_max"] = _scopes(measure, lambda s: extremes(measure, scope=s)[1])
        edge = -measure.delta
        entries["negative_mass"] = _scopes(
            measure, lambda s: mass(measure, -float("inf"), edge, closed=False, scope=s)
        )
        entries["near_zero"] = _near_zero(measure)
        entries |= soft_summary(measure)
    return entries


def soft_summary(measure: Measure) -> dict[str, Any]:
    """Return the entries `soft`, `resolution` and `effective_dimension` of a summary."""
    return {
        "soft": _soft(measure),
        "resolution": _resolution(measure),
        "effective_dimension": _effective_dimension(measure),
    }


def _soft(measure: Measure) -> list[dict[str, Any]]:
    """Return the soft shares of order 2 at `SOFT_TAUS` and at what this run knows of the ladder."""
    found = resolution(measure)
    finest = math.inf if found is None else found[0]
    radius = max(abs(end) for end in measure.span)
    rungs = [tau for tau in LADDER if finest <= tau < 2 * radius and _round(tau)]
    taus = sorted({*SOFT_TAUS, *rungs})
    rows = _soft_rows(measure, taus, DEFAULT_ORDER)
    if found is not None and (found[1] != DEFAULT_ORDER or finest not in taus):
        rows += _soft_rows(measure, [finest], found[1])
    return sorted(rows, key=lambda row: (row["tau"], row["order"]))


def _soft_rows(measure: Measure, taus: list[float], order: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"tau": tau, "order": order} for tau in taus]
    for scope in ("batches", "population"):
        if scope == "population" and measure.num_batches < MIN_POPULATION:
            for row in rows:
                row[scope] = None
            continue
        together = scope == "batches"
        band = soft_band(
            measure, np.array(taus), order, scope=scope, simultaneous=together, events=RUNGS
        )
        for place, row in enumerate(rows):
            value, lower, upper = (float(e[place]) for e in (band.value, band.lower, band.upper))
            row[scope] = dataclasses.asdict(
                Estimate(value, math.nan, lower, upper, scope, band.confidence)
            ) | {"stderr": None}
    return rows


def _resolution(measure: Measure) -> dict[str, Any]:
    """Return from where on the ladder is known, and the steps that finer thresholds would need."""
    found = resolution(measure)
    needs = [
        {"tau": tau, "order": DEFAULT_ORDER, "steps": need}
        for tau in SOFT_TAUS
        if (found is None or tau < found[0])
        and (need := soft_steps(measure, tau, DEFAULT_ORDER, NARROW / 2)) is not None
    ]
    return {
        "width": NARROW,
        "tau": None if found is None else found[0],
        "order": None if found is None else found[1],
        "needed": needs,
    }


def _effective_dimension(measure: Measure) -> dict[str, Any]:
    """Return the effective dimension at the smallest of `DIMENSION_TAUS` that is known."""
    found = resolution(measure)
    known = [tau for tau in DIMENSION_TAUS if found is not None and tau >= found[0]]
    tau = known[0] if known else DIMENSION_TAUS[-1] if found is None else found[0]
    return {"tau": tau} | _scopes(measure, lambda s: effective_dimension(measure, tau, scope=s))


def _round(tau: float) -> bool:
    """Whether a rung is a power of ten or three times one."""
    return f"{tau:e}".startswith(("1.000", "3.000"))


def _near_zero(measure: Measure) -> list[dict[str, Any]]:
    radius = max(abs(end) for end in measure.span)
    thresholds: list[tuple[float, float | None]] = [(tau, None) for tau in ABSOLUTE_TAUS]
    thresholds += [(factor * radius, factor) for factor in RELATIVE_TAUS]
    rows = []
    for tau, relative in thresholds:
        row: dict[str, Any] = {"tau": tau, "relative_tau": relative}
        try:
            row |= _scopes(measure, lambda s, t=tau: mass(measure, -t, t, scope=s))  # type: ignore[misc]
        except UsageError as error:
            row |= {"batches": None, "population": None, "note": str(error)}
        rows.append(row)
    return rows


def _scopes(measure: Measure, estimate: Callable[[str], Estimate]) -> dict[str, Any]:
    enough = measure.num_batches >= MIN_POPULATION
    return {
        "batches": dataclasses.asdict(estimate("batches")),
        "population": dataclasses.asdict(estimate("population")) if enough else None,
    }
