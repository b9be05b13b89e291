"""Claims as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from analysis.claims.rules import Claim, side_of

SOONER = "winq_sooner"  # its −∞ is a loss that is never reached
QUANTITIES = {
    "rms_eigenvalue": "change of the rms eigenvalue",
    "spectral_norm": "change of max |λ|",
}


def quantity(claim: Claim) -> str:
    """Return what was measured, in words."""
    if claim.quantity.startswith("soft_"):
        return "change of the soft share"
    return QUANTITIES.get(claim.quantity, claim.quantity)


def claims_table(found: Iterable[Claim]) -> pd.DataFrame:
    """Return the claims as a table: one row each, numbers as text with their intervals."""
    rows = [
        {
            "claim": claim.statement,
            "bits": "" if claim.w_bits is None else f"{claim.w_bits:g}",
            "setting": claim.setting,
            "quantity": quantity(claim),
            "measured": measured(claim),
            "paper": claim.paper,
            "these runs": claim.here,
            "verdict": claim.verdict,
            "notes": "; ".join(claim.notes),
        }
        for claim in found
    ]
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["claim"])


def verdicts(found: Iterable[Claim]) -> pd.DataFrame:
    """Return the verdicts with a row for each claim and a column for each width.

    A cell is the verdict and what was measured: the mean over the seeds where there is one, else
    the range of the seeds' values, or what their intervals cover if one of them has zero. Claims
    on several widths at once are in the column "all".
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    widths: set[float] = set()
    for claim in found:
        column = "all" if claim.w_bits is None else f"{claim.w_bits:g}"
        widths |= set() if claim.w_bits is None else {claim.w_bits}
        cells = _free(rows, claim, column)
        cells[column] = f"{claim.verdict}: {_short(claim)}" if claim.values else claim.verdict
    columns = [f"{width:g}" for width in sorted(widths)]
    if any("all" in cells for cells in rows.values()):
        columns.append("all")
    return pd.DataFrame(
        [
            {"claim": statement, "setting": setting}
            | {column: cells.get(column, "") for column in columns}
            for (statement, setting), cells in rows.items()
        ],
        columns=["claim", "setting", *columns],
    )


def _free(rows: dict[tuple[str, str], dict[str, str]], claim: Claim, column: str) -> dict[str, str]:
    """Return the row of a claim in which its column is free: no verdict takes another's place."""
    setting, number = claim.setting, 1
    while column in rows.setdefault((claim.statement, setting), {}):
        number += 1
        setting = f"{claim.setting} ({number})".strip()
    return rows[claim.statement, setting]


def _short(claim: Claim) -> str:
    if claim.mean is not None:
        return _one(claim.mean, claim)
    if any(side_of(value) == 0 for value in claim.values):  # the middle of a band is nothing
        low, high = (
            _digits(end(value[k] for value in claim.values), claim)
            for k, end in ((1, min), (2, max))
        )
        return low if low == high else f"[{low}, {high}]"
    middles = sorted(value[0] for value in claim.values)
    low, high = (_digits(x, claim) for x in (middles[0], middles[-1]))
    return low if low == high else f"{low} … {high}"


def measured(claim: Claim) -> str:
    """Return the measured values with their intervals, one a seed, and their mean where known."""
    seeds = "; ".join(_one(value, claim) for value in claim.values)
    return seeds if claim.mean is None else f"{_one(claim.mean, claim)}, mean of {seeds}"


def _one(value: tuple[float, float, float], claim: Claim) -> str:
    middle, lower, upper = value
    shown = _digits(middle, claim)
    if lower == middle == upper:
        return shown
    return f"{shown} [{_digits(lower, claim)}, {_digits(upper, claim)}]"


def _digits(x: float, claim: Claim) -> str:
    if math.isinf(x):
        sign = "−" if x < 0 else ""
        return "never" if claim.key == SOONER else f"{sign}∞"
    return f"{x:.3g}".replace("-", "−")
