"""Runs and records of one setting each, so that no figure means over several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.claims.facts import groups
from analysis.claims.training import SETTING
from analysis.labels import known

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


def training_parts(runs: pd.DataFrame) -> list[Part]:
    """Return the runs by model, quantizer, rate, schedule and length, most runs first.

    Of many methods the cells of the factorial alone are kept.
    """
    names = [name for name in SETTING if name in runs]
    found = [rows for _, rows in runs.groupby(names, dropna=False)] if names else [runs]
    found.sort(key=lambda rows: -rows["path"].nunique())
    differing = [name for name in names if runs[name].nunique(dropna=False) > 1]
    return [
        Part(_words(rows.iloc[0], differing), _end(number), _few(rows))
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
    many = rows["method"].nunique() > MOST
    return rows[rows["method"].isin(USUAL)] if many else rows


def _words(row: pd.Series[Any], names: list[str]) -> str:
    shown = {
        "base_learning_rate": "rate {:g}",
        "max_steps": "{:g} steps",
        "a_bits": "A{:g}",
        "schedule": "{} rate",
    }
    return ", ".join(shown.get(n, "{}").format(row[n]) for n in names if known(row[n]))
