"""The paper's claims one by one: what was measured, the paper's figure, and a verdict by a rule.

The rule is in `analysis.claims.rules`, and was written before looking.
"""

from __future__ import annotations

import pandas as pd

from analysis.claims.rules import SEEDS, VERDICTS, Claim
from analysis.claims.spectra import claims_on_spectra
from analysis.claims.table import claims_table, measured, quantity
from analysis.claims.training import claims_on_training

__all__ = ["SEEDS", "VERDICTS", "Claim", "claims", "claims_table", "measured", "quantity"]


def claims(records: pd.DataFrame | None, training: pd.DataFrame | None = None) -> list[Claim]:
    """Return the claims of WinQ (arXiv 2605.17471) as far as the runs speak to them.

    Args:
        records: Rows of `analysis.load`.
        training: Rows of `analysis.load_training`.
    """
    found = [] if records is None else claims_on_spectra(records)
    if training is not None and {"eval_loss", "w_bits", "method"} <= set(training.columns):
        found += claims_on_training(training)
    return found
