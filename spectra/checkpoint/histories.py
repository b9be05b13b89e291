"""Histories of delayed scaling: what a checkpoint stores of them, put into the loaded layers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from spectra.checkpoint.locate import Location, shorten
from spectra.checkpoint.tensors import read_tensors
from spectra.errors import CheckpointError
from spectra.quant.model import amax_histories
from spectra.quant.scaling import EMPTY


@torch.no_grad()
def load_histories(location: Location, model: nn.Module, stored: Iterable[str]) -> tuple[str, ...]:
    """Fill the histories of a quantized model from its checkpoint; return notes for the record.

    Without any, each history starts cold: scales come from the tensors themselves.

    Raises:
        CheckpointError: If some are missing, belong to no layer, or have another length.
    """
    wanted = {f"{name}.amax": history.amax for name, history in amax_histories(model).items()}
    if not wanted:
        return ()
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    # A file saved from the base model alone has the names without their prefix, as weights may.
    short = {name.removeprefix(prefix): name for name in wanted}
    found = {short.get(name, name): name for name in stored}
    if not found:
        return ("no amax history is stored: scales come from each tensor itself (cold start)",)
    lacking, strange = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if lacking or strange:
        what = f"lacks {shorten(lacking, 2)}" if lacking else f"has {shorten(strange, 2)} besides"
        raise CheckpointError(
            f"ckpt={location.name!r} stores {len(found)} amax histories, its layers have "
            f"{len(wanted)}: it {what}; save the checkpoint again."
        )
    read = read_tensors(location, found.values())
    for name, place in wanted.items():
        history = read[found[name]]
        if history.shape != place.shape:
            raise CheckpointError(
                f"ckpt={location.name!r}: {found[name]} has {history.numel()} entries, and the "
                f"history of its quantization file has {place.numel()}; save the checkpoint again."
            )
        place.copy_(history)
    cold = sum(bool((place == EMPTY).all()) for place in wanted.values())
    return (f"{cold} of {len(wanted)} amax histories are empty and start cold",) if cold else ()
