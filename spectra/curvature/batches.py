"""Batches as they come: a list of them, one alone, token ids or any nest of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from spectra.errors import DataError, UsageError

IGNORED = -100  # a label that does not count


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


def unpack(batch: Any, model: nn.Module) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the inputs and the unshifted labels, (B, T), of one batch of token ids.

    Args:
        batch: An object with `input_ids` and `labels`; a mapping with `input_ids`, optional
            `labels` and whatever else the model takes (`attention_mask`, ...); or token ids (B, T).
            Without labels the inputs are the labels, where the attention mask is not 0.
        model: Whose embedding bounds the ids.

    Raises:
        DataError: If shapes or ids do not fit, or no label counts.
    """
    inputs: dict[str, Any]
    if isinstance(batch, Mapping):
        inputs = {k: v for k, v in batch.items() if k != "labels" and isinstance(v, torch.Tensor)}
        labels = batch.get("labels")
    elif isinstance(batch, torch.Tensor):
        inputs, labels = {"input_ids": batch}, None
    else:
        inputs, labels = {"input_ids": getattr(batch, "input_ids", None)}, batch.labels
    ids = inputs.get("input_ids")
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.is_floating_point():
        raise DataError("a batch has no input_ids of shape (B, T); pass token ids, or a loss=.")
    if labels is None:
        mask = inputs.get("attention_mask")
        labels = ids if mask is None else ids.masked_fill(mask == 0, IGNORED)
    if labels.shape != ids.shape:
        raise DataError(
            f"labels of shape {tuple(labels.shape)} do not fit input_ids of shape "
            f"{tuple(ids.shape)}; pass unshifted labels, one a token."
        )
    counted = labels[:, 1:][labels[:, 1:] != IGNORED]
    if not counted.numel():
        raise DataError("a batch has no label that counts; drop it, or unmask some labels.")
    _check_ids(torch.cat([ids.reshape(-1), counted.to(ids.device)]), model)
    return inputs, labels


def _check_ids(ids: torch.Tensor, model: nn.Module) -> None:
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    rows = getattr(embedding, "num_embeddings", None)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (rows is not None and high >= rows):
        raise DataError(
            f"a batch holds the token id {low if low < 0 else high}, outside the model's "
            f"vocabulary of {rows}; use the checkpoint's own tokenizer."
        )
