"""Claims as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from analysis.claims.rules import Claim

QUANTITIES = {
    "near_zero_resolved": "change of the mass within the finest ±τ resolved",
    "rms_eigenvalue": "change of the rms eigenvalue",
    "spectral_norm": "change of max |λ|",
}


def quantity(claim: Claim) -> str:
    """Return what was measured, in words."""
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


def measured(claim: Claim) -> str:
    """Return the measured values with their intervals, one a seed, and their mean where known."""
    seeds = "; ".join(_one(value) for value in claim.values)
    return seeds if claim.mean is None else f"{_one(claim.mean)}, mean of {seeds}"


def _one(value: tuple[float, float, float]) -> str:
    middle, lower, upper = value
    if math.isinf(middle):
        return "never"
    shown = _digits(middle)
    return shown if lower == middle == upper else f"{shown} [{_digits(lower)}, {_digits(upper)}]"


def _digits(x: float) -> str:
    return f"{x:.3g}".replace("-", "−")
