"""What delayed scaling logged of each tensor, as one tidy table: a row a tensor and step.

`spectra train` writes a line a log into spectra_scaling.jsonl: for each tensor the largest ratio r
of its largest entry to what its amax window allowed, the share of calls with r > 1, the share of
entries beyond, the age of the window's maximum, and whether the detector fired
(`spectra.train.scaling` has the rule).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from spectra.errors import RecordError, printable
from spectra.record.jsonfile import parse_json, read_bounded

FILE = "spectra_scaling.jsonl"
LARGEST = 1 << 30  # bytes; a line a log, a hundred bytes a tensor
FIELDS = ("ratio", "exceeded", "clipped", "age", "saturated")


def load_scaling(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> pd.DataFrame:
    """Return what every run at or below `paths` logged of its tensors.

    Args:
        paths: A run, a directory that holds runs at any depth, or several of these.

    Returns:
        Columns `path`, `step`, `tensor` (the layer's name), `kind` (weights, inputs, gradients),
        `ratio`, `exceeded`, `clipped`, `age`, `saturated`.

    Raises:
        RecordError: If there is no such log, or one cannot be read.
    """
    roots = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    rows: list[dict[str, Any]] = []
    for root in map(Path, roots):
        for file in sorted(root.rglob(FILE)):
            rows += _rows(file)
    if not rows:
        asked = ", ".join(repr(str(root)) for root in roots) or "an empty list"
        raise RecordError(
            f"{asked} holds no log of delayed scaling ({FILE}); train with --quantizer hif8 or fp8."
        )
    return pd.DataFrame(rows)


def _rows(file: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        lines = read_bounded(file, largest=LARGEST).decode().splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text, or too large"
        raise RecordError(f"{str(file)!r} cannot be read: {reason}.") from None
    for line in lines:
        try:
            entry = parse_json(line)
            for name, values in entry["tensors"].items():
                layer, _, kind = name.rpartition(".scaling.")
                about = {"path": str(file.parent), "step": int(entry["step"])}
                about |= {"tensor": printable(layer), "kind": printable(kind)}
                if not all(isinstance(v, int | float | None) for v in values):
                    raise TypeError(name)
                rows.append(about | dict(zip(FIELDS, values, strict=True)))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise RecordError(
                f"{str(file)!r} holds a line that is no log of delayed scaling; delete that line."
            ) from None
    return rows
