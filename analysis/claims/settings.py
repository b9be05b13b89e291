"""Claims on resets with other settings, and on resets against the best baseline at hand.

A lead over the baseline of the same rate and schedule says what resets and noise do there. Whoever
trains a model may choose the schedule as well, so runs with resets are also held against the
baseline whose rate and schedule end lowest, wherever runs of the same model, quantizer and length
have several.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.claims.ablations import spelled
from analysis.claims.curves import Curve, curves, last, over_seeds, paired
from analysis.claims.rules import Claim

RATE = ("base_learning_rate", "schedule")
KINDS = {"winq": "WinQ", "reset": "Resets alone"}


def claims_on_settings(mine: pd.DataFrame, bits: float, words: str) -> list[Claim]:
    """Return the claims that resets with other settings end lower than the baseline beside them."""
    base, twice = curves(mine, "baseline")
    return [
        _lower(
            base,
            mine,
            name,
            tuple(twice),
            key=f"lower_{name}",
            statement=f"{named(name)}: a lower final loss than the baseline's",
            w_bits=bits,
            setting=words,
        )
        for name in _methods(mine)
        if name not in KINDS and base  # which have claims of their own
    ]


def against_the_best(there: pd.DataFrame, bits: float, words: str) -> list[Claim]:
    """Return the claims that resets end lower than the best baseline of another rate or schedule.

    Args:
        there: Rows of one width, model, quantizer and length.
        bits: The width.
        words: What tells these runs from others.
    """
    keys = [name for name in RATE if name in there]
    groups = [one for _, one in there.groupby(keys, dropna=False)] if keys else []
    found = []
    for one in groups:
        here = _rate(one.iloc[0], keys)
        for name in _methods(one):
            best, count = _best(groups, curves(one, name)[0])
            if best is None or best is one:
                continue
            base, twice = curves(best, "baseline")
            which = f"of {count} baselines the one with the lowest end: {_rate(best.iloc[0], keys)}"
            found.append(
                _lower(
                    base,
                    one,
                    name,
                    (*twice, which),
                    key=f"best_{name}_{here}",
                    statement=f"{named(name)}, {here}: a lower final loss than the best baseline's",
                    w_bits=bits,
                    setting=words,
                )
            )
    return found


def _best(groups: list[pd.DataFrame], run: dict[int, Curve]) -> tuple[pd.DataFrame | None, int]:
    """Return the runs whose baseline ends lowest over the seeds of `run`, and of how many."""
    ends = []
    for one in groups:
        base = curves(one, "baseline")[0]
        if run and set(run) <= set(base):
            ends.append((sum(last(base[seed][0]) for seed in run) / len(run), one))
    if len(ends) < 2:
        return None, len(ends)
    return min(ends, key=lambda item: item[0])[1], len(ends)


def _methods(mine: pd.DataFrame) -> list[str]:
    names = sorted(set(mine["method"].dropna()))
    return [name for name in names if name.split("-")[0] in KINDS]


def named(name: str) -> str:
    """Return "WinQ with a reset fraction of 0.2"."""
    kind, *changes = name.split("-")
    words = spelled(name) if changes else "its usual setting" if kind == "winq" else "each third"
    return f"{KINDS[kind]} with {words}" if changes or kind == "winq" else f"{KINDS[kind]}, {words}"


def _rate(row: pd.Series[Any], keys: list[str]) -> str:
    """Return "constant rate of 0.001"."""
    schedule = f"{row['schedule']} " if "schedule" in keys else ""
    rate = f" of {row['base_learning_rate']:g}" if "base_learning_rate" in keys else ""
    return f"{schedule}rate{rate}"


def _lower(
    base: dict[int, Curve],
    mine: pd.DataFrame,
    name: str,
    notes: tuple[str, ...],
    **claim: Any,
) -> Claim:
    other, more = curves(mine, name)
    pairs, left = paired(base, other)
    return over_seeds(
        {seed: last(b) - last(a) for seed, ((a, _), (b, _)) in pairs.items()},
        -1,
        paper="",
        quantity="difference of final held-out losses, nats",
        notes=(*notes, *more, *left),
        sources=tuple(path for pair in pairs.values() for _, path in pair),
        **claim,
    )
