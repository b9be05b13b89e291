"""Batches as they come: a list of them, one alone, token ids or any nest of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from spectra.errors import UsageError


def as_batches(data: Any) -> tuple[Any, ...]:
    """Return `data` as a tuple of batches; one batch alone is accepted.

    Raises:
        UsageError: If there is none.
    """
    one = isinstance(data, (torch.Tensor, Mapping)) or hasattr(data, "input_ids")
    if not one and not isinstance(data, Iterable):
        raise UsageError(f"data is {type(data).__name__}; pass a list of batches.")
    batches = (data,) if one else tuple(data)
    if not batches:
        raise UsageError("data holds 0 batches; pass at least one.")
    return batches


def move(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return `batch` with its tensors on `device` and its floating tensors in `dtype`."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, dtype if batch.is_floating_point() else None)
    if isinstance(batch, Mapping):
        return {key: move(value, device, dtype) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move(value, device, dtype) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(move(value, device, dtype) for value in batch)
    return batch
