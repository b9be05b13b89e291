"""Two methods step by step on each surface: what differs between their spectra, and since when.

Made for runs that are one run until a step, as a baseline and a run with a single reset: before the
reset nothing may differ, at it only what moving weights within their cells can change, after it
whatever training makes of that. `forked` gives the differences of spectra with their intervals,
`causes` what the logs say changed beside them: masked weights, scales, distance from the grid,
codes.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.claims.facts import Fact, groups
from analysis.claims.pairs import quantities
from analysis.comparable import check_comparable
from spectra.errors import UsageError

QUANTITIES = ("spectral_norm", "rms_eigenvalue", "near_zero_0.1", "wasserstein")
CAUSES = ("masked_fraction", "scale_norm", "quant_error_ratio", "code_change", "loss", "eval_loss")


def forked(records: pd.DataFrame, other: str, base: str = "baseline") -> pd.DataFrame:
    """Return `other` less `base`, for each width, seed, surface and step that both have.

    Args:
        records: Rows of `analysis.load`.
        other: Method, as `analysis.labels.method_name` has it.
        base: What it is held against.

    Returns:
        Columns `w_bits`, `seed`, `surface`, `step`, `quantity`, `a` (value of the base), `value`,
        `lower`, `upper` of the difference.

    Raises:
        UsageError: If no records of the two are of one checkpoint step.
    """
    rows: list[dict[str, Any]] = []
    for group in groups(records)[0]:
        there = {f.place: f for f in group.facts if f.in_place or f.toward == 0}
        for fact in group.facts:
            if fact.method == other and (fact.in_place or fact.toward == 0):
                place = (fact.bits, base, *fact.place[2:])
                if place in there:
                    rows += _rows(there[place], fact)
    if not rows:
        raise UsageError(
            f"no records of {base} and {other} are of one width, seed, surface and step; estimate "
            "both at the same checkpoints."
        )
    return pd.DataFrame(rows).sort_values(["w_bits", "seed", "surface", "quantity", "step"])


def _rows(a: Fact, b: Fact) -> list[dict[str, Any]]:
    try:
        check_comparable(a.spectrum, b.spectrum)
    except UsageError:
        return []
    found = quantities(a, b, QUANTITIES)
    norm = max(-a.spectrum.extremes()[0].value, a.spectrum.extremes()[1].value)
    values = {"spectral_norm": norm}
    return [
        {
            "w_bits": b.bits,
            "seed": b.seed,
            "surface": b.surface,
            "step": b.step,
            "quantity": name,
            "a": values.get(name, math.nan),
            "value": found[name][0],
            "lower": found[name][1],
            "upper": found[name][2],
        }
        for name in QUANTITIES
        if name in found
    ]


def causes(training: pd.DataFrame, other: str, base: str = "baseline") -> pd.DataFrame:
    """Return what was logged of both methods at each step, side by side.

    Args:
        training: Rows of `analysis.load_training`.
        other: Method.
        base: What it is held against.

    Returns:
        Columns `w_bits`, `seed`, `step`, and for each cause NAME the columns `NAME` (of the base)
        and `NAME_other`.
    """
    setting = (
        *("model", "quantizer", "a_bits", "base_learning_rate", "schedule", "max_steps"),
        *("train_data", "eval_data", "seq_len", "batch_size", "optimizer"),
    )
    keys = ["w_bits", "seed", "step", *(name for name in setting if name in training)]
    names = [name for name in CAUSES if name in training]
    first, second = (
        training.loc[training["method"] == method, [*keys, *names]] for method in (base, other)
    )
    return first.merge(second, on=keys, suffixes=("", "_other")).sort_values(keys)
