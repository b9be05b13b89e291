"""What a study in the same place says of its results.

A study whose purpose is a search tries many settings to choose some: of its runs nothing is
claimed, since the best of many looks better than it is. Its runs and records carry `search`, and
what it chose is measured on other seeds, by a study of its own.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from spectra.errors import InputWarning
from spectra.record.digest import KEY
from spectra.record.jsonfile import read_json

FILE = "study.json"
EARLIER = "earlier"  # what a study has been asked for before it grew
ABOVE = 4  # directories between a study and what belongs to it
SEARCH = "search"


class RecordWarning(InputWarning):
    """A file of results was left out because it cannot be read."""


def study_of(root: Path) -> dict[str, Any]:
    """Return the settings of the study whose results are below `root`; empty if there is none."""
    path = root / FILE
    if not path.exists():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError):
        content = None
    plain = (str, int, float, list, type(None))
    if not isinstance(content, dict) or not all(isinstance(v, plain) for v in content.values()):
        warnings.warn(
            f"left out: {str(path)!r} is damaged; the settings of the study are not known.",
            RecordWarning,
            stacklevel=2,
        )
        return {}
    content.pop(KEY, None)
    return content


def studies_below(root: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of the studies at `root` or one level below it, by place."""
    places = [root, *sorted(path.parent for path in root.glob(f"*/{FILE}"))]
    found = {place.relative_to(root).as_posix(): study_of(place) for place in places}
    return {
        place: {"purpose": "claims"} | {k: v for k, v in study.items() if k != "version"}
        for place, study in found.items()
        if study
    }


def searched(place: Path) -> bool:
    """Return whether a run or record is of a search."""
    whole = place.absolute()
    for folder in (whole, *whole.parents)[: ABOVE + 1]:
        try:
            version = (folder / FILE).stat().st_mtime_ns
        except OSError:
            continue
        return _is_search(folder, version)
    return False


@lru_cache
def _is_search(folder: Path, version: int) -> bool:
    del version
    return study_of(folder).get("purpose") == SEARCH


def without_search(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are of no search."""
    return rows[~rows[SEARCH]] if SEARCH in rows else rows
