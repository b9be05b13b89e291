"""Names in a file and names in a model: transformers renames the parameters of many families.

`from_pretrained` turns stored names into those of the modules (`backbone.layers.0…` into
`model.layers.0…`), and `save_pretrained` turns them back. What is read beside it, such as scales,
histories and the weights that training goes on with, has to follow the same mapping, or it belongs
to no layer. The mapping is transformers' own, asked for the model at hand. Conversions that merge
or split tensors act on tensors, not on names, and are left to transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from spectra.checkpoint.locate import shorten
from spectra.errors import CheckpointError

Value = TypeVar("Value")


def module_names(model: nn.Module) -> Callable[[str], str]:
    """Return the function from a stored name to the name in `model`."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming

        transforms = [t for t in get_model_conversion_mapping(model) if _renames(t, WeightRenaming)]
    except (ImportError, AttributeError):  # not a model of transformers, or an older transformers
        transforms = []

    def name(stored: str) -> str:
        for transform in transforms:
            stored = transform.rename_source_key(stored)[0]
        return stored

    return name


def _renames(transform: Any, kind: type) -> bool:
    return isinstance(transform, kind) and hasattr(transform, "rename_source_key")


def renamed(entries: Mapping[str, Value], model: nn.Module) -> dict[str, Value]:
    """Return `entries` by names in the model; a name that the model has already stays."""
    name, own = module_names(model), _names(model)
    found: dict[str, Value] = {}
    for stored, value in entries.items():
        found[stored if _known(stored, own) else name(stored)] = value
    return found


def _names(model: nn.Module) -> set[str]:
    return {*model.state_dict(keep_vars=True), *(name for name, _ in model.named_modules())}


def _known(stored: str, own: set[str]) -> bool:
    """Whether a tensor, or the module it stands beside, has this name in the model."""
    return stored in own or stored.rpartition(".")[0] in own


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy stored tensors into a model in place; every one arrives and every parameter is filled.

    Args:
        model: The model, quantized layers included.
        state: Stored tensors by their stored names.
        where: The checkpoint, for messages.

    Raises:
        CheckpointError: If a stored tensor has no place in the model, a parameter or saved buffer
            is not stored, or a shape differs.
    """
    entries = renamed(state, model)
    try:
        result = model.load_state_dict(entries, strict=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{where!r} does not fit the model: {reason}.") from None
    filled = {id(t) for n, t in model.state_dict(keep_vars=True).items() if n in entries}
    missing = [n for n in result.missing_keys if not _tied(model, n, filled)]
    if missing or result.unexpected_keys:
        what = (
            f"lacks {len(missing)} of the model's tensors ({shorten(sorted(missing))})"
            if missing
            else f"holds {len(result.unexpected_keys)} tensors that the model has no place for "
            f"({shorten(sorted(result.unexpected_keys))})"
        )
        raise CheckpointError(
            f"{where!r} {what}; it was saved from another model, or by another transformers: "
            "begin anew with another --output."
        )


def _tied(model: nn.Module, name: str, filled: set[int]) -> bool:
    """Whether a tensor is stored under another of its names."""
    return id(model.state_dict(keep_vars=True)[name]) in filled
