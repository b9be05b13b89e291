"""Runs and records of one setting each, so that no figure means over several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from analysis.claims.facts import groups
from analysis.claims.training import SETTING, told_apart

MOST = 6  # methods that curves in one panel can be told apart of
USUAL = ("baseline", "winq", "reset", "noise")


@dataclass(frozen=True)
class Part:
    """Rows of one setting.

    Attributes:
        words: What tells the setting from the others, empty if nothing does.
        end: Of the names of its figures.
        rows: The rows.
    """

    words: str
    end: str
    rows: pd.DataFrame


def training_parts(runs: pd.DataFrame, *, but: Iterable[str] = ()) -> list[Part]:
    """Return the runs by model, quantizer, rate, schedule, length and data, most runs first.

    Args:
        runs: Rows of `analysis.load_training`.
        but: Settings that may differ within a part. If there are none, of many methods the cells of
            the factorial alone are kept, or the first few if it has none of those.
    """
    names = [name for name in SETTING if name in runs and name not in set(but)]
    found = [rows for _, rows in runs.groupby(names, dropna=False)] if names else [runs]
    found.sort(key=lambda rows: -rows["path"].nunique())
    return [
        Part(told_apart(runs, rows.iloc[0], names), _end(number), rows if but else _few(rows))
        for number, rows in enumerate(found)
    ]


def record_parts(records: pd.DataFrame) -> list[Part]:
    """Return the records of quantized checkpoints by setting, most first, as claims have them."""
    return [
        Part(
            group.words,
            _end(number),
            records[records["path"].isin({fact.path for fact in group.facts})],
        )
        for number, group in enumerate(groups(records)[0])
    ]


def _end(number: int) -> str:
    return f"_{number + 1}" if number else ""


def _few(rows: pd.DataFrame) -> pd.DataFrame:
    names = sorted(rows["method"].dropna().unique())
    if len(names) <= MOST:
        return rows
    kept = [name for name in USUAL if name in names] or names[:MOST]
    return rows[rows["method"].isin(kept)]
