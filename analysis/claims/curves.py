"""Curves of training runs, paired by seed, and the claim that a number has one sign over seeds."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.claims.rules import SEEDS, Claim, student, verdict_of_training
from analysis.speedup import first_reach

Curve = tuple["pd.Series[Any]", str]


def curves(
    runs: pd.DataFrame, method: str, column: str = "eval_loss"
) -> tuple[dict[int, Curve], list[str]]:
    """Return a column against the step, and the path, of each seed's run; and what was left out."""
    mine = runs[(runs["method"] == method) & runs["seed"].notna() & runs[column].notna()]
    found, notes = {}, []
    for _, one in mine.groupby("seed"):
        number = int(one["seed"].iloc[0])
        paths = sorted(one["path"].unique())
        if len(paths) > 1:
            notes.append(
                f"seed {number} left out: {len(paths)} runs of {method}: {', '.join(paths)}"
            )
            continue
        found[number] = (one.set_index("step")[column].sort_index(), str(paths[0]))
    return found, notes


def paired(
    base: dict[int, Curve], other: dict[int, Curve], name: str = "baseline"
) -> tuple[dict[int, tuple[Curve, Curve]], list[str]]:
    """Return (base, other) of the seeds whose runs end at the same step, at common steps.

    `name` is what the notes call the base.
    """
    found, notes = {}, []
    if base and other:
        for seed in sorted(set(base) ^ set(other)):
            which = f"the {name}" if seed in base else "what is held against it"
            notes.append(f"seed {seed} left out: only {which} has a finished run")
    for seed in base:
        if seed not in other:
            continue
        (a, a_path), (b, b_path) = base[seed], other[seed]
        ends = [int(curve.index[-1]) for curve in (a, b)]
        if ends[0] != ends[1]:
            notes.append(
                f"seed {seed} left out: the {name} was last evaluated at step {ends[0]}, the "
                f"other at step {ends[1]}"
            )
            continue
        common = a.index.intersection(b.index)
        found[seed] = ((a.loc[common], a_path), (b.loc[common], b_path))
    return found, notes


def over_seeds(numbers: dict[int, float], side: int, **claim: Any) -> Claim:
    """Return a claim on one number a seed; seeds without a number (NaN) are left out and named."""
    lost = [seed for seed, value in numbers.items() if math.isnan(value)]
    notes = tuple(f"seed {seed} left out: it has no such number" for seed in lost)
    claim["notes"] = (*claim.get("notes", ()), *notes)
    numbers = {seed: value for seed, value in numbers.items() if seed not in lost}
    values = list(numbers.values())
    whole = len(values) >= SEEDS and not any(map(math.isinf, values))
    return Claim(
        **claim,
        values=tuple((v, v, v) for v in values),
        seeds=tuple(numbers),
        side=side,
        mean=student(values) if whole else None,
        verdict=verdict_of_training(values, side),
    )


def first(curve: pd.Series[Any]) -> float:
    """Return the value at the beginning."""
    return float(curve.iloc[0])


def last(curve: pd.Series[Any]) -> float:
    """Return the value at the end."""
    return float(curve.iloc[-1])


def middle(curve: pd.Series[Any]) -> float:
    """Return the mean over the middle third of a run."""
    end = curve.index[-1]
    return float(curve[(curve.index > end / 3) & (curve.index <= 2 * end / 3)].mean())


def log_speedup(base: pd.Series[Any], other: pd.Series[Any]) -> float:
    """Return log of T/t: when `base` first had its final loss, and when `other` first had that.

    −∞ if it never has.
    """
    step, _ = first_reach(other, last(base))
    own, _ = first_reach(base, last(base))
    return -math.inf if math.isnan(step) else math.log(max(own, 1.0) / max(step, 1.0))
