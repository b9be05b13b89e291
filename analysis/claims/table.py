"""Claims as a table."""

from __future__ import annotations

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
            "quantity": quantity(claim),
            "measured": measured(claim),
            "paper": claim.paper,
            "these runs": claim.here,
            "verdict": claim.verdict,
        }
        for claim in found
    ]
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["claim"])


def measured(claim: Claim) -> str:
    """Return the measured values with their intervals, one a seed."""
    return "; ".join(
        f"{_digits(value)} [{_digits(lower)}, {_digits(upper)}]"
        for value, lower, upper in claim.values
    )


def _digits(x: float) -> str:
    return f"{x:.3g}".replace("-", "−")
