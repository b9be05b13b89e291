"""Micro-batches: a batch cut into groups of rows, each with a graph of its own.

The loss of a batch is a mean over the labels that count, so a batch of rows {r} is
A = Σ_pieces (N_piece/N) A_piece, the same weighted mean that joins batches. Rows are sequences; a
sequence is never cut, because attention sees all of its tokens. Rows without a label that counts
drop out. The result is the whole batch's up to rounding.

Only a language model's own loss can be cut: what else a loss callable does with its rows is not
known. That no row reaches another (a scale taken over the whole batch would) is tried on two rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from spectra.curvature.batches import IGNORED, unpack
from spectra.curvature.loss import LanguageModelLoss, Loss
from spectra.curvature.point import Point
from spectra.errors import UsageError

_SAME = 1e-5  # relative; a scale shared by rows moves a loss by more, rounding by less
_SAME_LOW = 1e-2


def num_rows(batch: Any, point: Point, loss: Loss) -> int:
    """Return in how many rows a batch can be cut; 1 where it is not known how."""
    return len(_counting(batch, point)) if isinstance(loss, LanguageModelLoss) else 1


def cut(batch: Any, rows: int | None, point: Point, loss: Loss) -> tuple[Any, ...]:
    """Return `batch` in pieces of at most `rows` rows; whole where `rows` is None."""
    if rows is None or not isinstance(loss, LanguageModelLoss):
        return (batch,)
    inputs, labels = unpack(batch, point.model)
    places = _counting(batch, point)
    if len(places) <= rows:
        return (batch,)
    return tuple(_taken(inputs, labels, part) for part in places.split(rows))


def check_rows(micro_batch: int | None, batches: tuple[Any, ...], point: Point, loss: Loss) -> None:
    """Refuse a number of rows that cannot be, or rows that reach each other.

    Raises:
        UsageError: If `micro_batch` is below 1, the loss is a callable, or a loss of two rows is
            not that of each alone.
    """
    if micro_batch is None:
        return
    if micro_batch < 1:
        raise UsageError(f"micro_batch={micro_batch} is too small; pass at least 1, or none.")
    if not isinstance(loss, LanguageModelLoss):
        raise UsageError(
            f"micro_batch={micro_batch} cuts a batch into sequences, and how a loss callable joins "
            "them is not known; pass smaller batches with reduce='mean' and a loss that returns "
            "(sum, count)."
        )
    if not rows_are_apart(batches[0], point, loss):
        raise UsageError(
            f"micro_batch={micro_batch} would change the loss: in this model the sequences of a "
            "batch reach each other (a scale is taken over all of them); leave it out, or lower "
            "batch_size."
        )


def rows_are_apart(batch: Any, point: Point, loss: Loss) -> bool:
    """Return whether the loss of two rows is that of each alone, up to rounding."""
    inputs, labels = unpack(batch, point.model)
    places = _counting(batch, point)[:2]
    if len(places) < 2:
        return True
    leaves = point.leaves()

    def of(part: torch.Tensor) -> tuple[float, float]:
        mean, count = point.call(loss, leaves, _taken(inputs, labels, part), grad=False)
        return float(mean) * count, count

    together, count = of(places)
    apart = of(places[:1])[0] + of(places[1:])[0]
    allowed = _SAME if point.dtype.itemsize >= 4 else _SAME_LOW
    return abs(together - apart) <= allowed * (abs(together) + count * 1e-6)


def _counting(batch: Any, point: Point) -> torch.Tensor:
    """Return the rows with a label that counts."""
    _, labels = unpack(batch, point.model)
    return (labels[:, 1:] != IGNORED).any(1).nonzero().squeeze(1).cpu()


def _taken(
    inputs: Mapping[str, torch.Tensor], labels: torch.Tensor, places: torch.Tensor
) -> dict[str, torch.Tensor]:
    rows = len(labels)
    return {
        key: value.index_select(0, places.to(value.device)) if _by_row(value, rows) else value
        for key, value in (inputs | {"labels": labels}).items()  # type: ignore[operator]
    }


def _by_row(value: torch.Tensor, rows: int) -> bool:
    return value.ndim > 0 and value.shape[0] == rows
