"""The paper's claims one by one: what was measured, the paper's figure, and a verdict by a rule.

The rule is in `analysis.claims.rules`, and was written before looking.
"""

from __future__ import annotations

import warnings

import pandas as pd

from analysis.claims.rules import SEEDS, VERDICTS, Claim
from analysis.claims.spectra import claims_on_spectra
from analysis.claims.table import claims_table, measured, quantity, verdicts
from analysis.claims.training import claims_on_training
from analysis.studies import RecordWarning, without_search

__all__ = [
    "SEEDS",
    "VERDICTS",
    "Claim",
    "claims",
    "claims_table",
    "collect",
    "measured",
    "quantity",
    "verdicts",
]


def claims(records: pd.DataFrame | None, training: pd.DataFrame | None = None) -> list[Claim]:
    """Return the claims of WinQ (arXiv 2605.17471) as far as the runs speak to them.

    Warns of records that cannot be used.

    Args:
        records: Rows of `analysis.load`.
        training: Rows of `analysis.load_training`.
    """
    found, notes = collect(records, training)
    for note in notes:
        warnings.warn(note, RecordWarning, stacklevel=2)
    return found


def collect(
    records: pd.DataFrame | None, training: pd.DataFrame | None = None
) -> tuple[list[Claim], list[str]]:
    """Return the claims, and which records were left out and why.

    Nothing is claimed of a search (`analysis.studies`).
    """
    found: list[Claim] = []
    notes: list[str] = []
    if records is not None:
        found, notes = claims_on_spectra(without_search(records))
    if training is not None:
        found += claims_on_training(without_search(training))
    return found, notes
