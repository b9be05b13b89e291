"""A model quantized by `efficientqat` -> the packed directory that EfficientQAT's code reads.

The layout is that of efficientqat.py. Steps are stored in the type asked for; in float32 the packed
model computes with the same weights bit for bit, in float16, as the public code stores them, with
steps rounded.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from spectra.errors import UsageError
from spectra.quant import quant_layers
from spectra.quant.quantizers.efficientqat import EfficientQAT

NAME = "efficientqat"


def pack_fields(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Return int32 words (⌈rows/c⌉, columns) of codes (rows, columns), c = ⌊32/bits⌋, low first."""
    fields = 32 // bits
    words = math.ceil(codes.shape[0] / fields)
    padded = codes.new_zeros(words * fields, codes.shape[1], dtype=torch.int64)
    padded[: codes.shape[0]] = codes
    shifts = torch.arange(fields, device=codes.device) * bits
    packed = (padded.reshape(words, fields, -1) << shifts[None, :, None]).sum(1)
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)


@torch.no_grad()
def save_packed(model: Any, directory: str | Path, *, scales: torch.dtype = torch.float16) -> Path:
    """Write `model`, quantized by `efficientqat`, into `directory`, and return that.

    Args:
        model: A prepared transformers model; activations must not be quantized.
        directory: Where model.safetensors and config.json go; made if it does not exist.
        scales: Type of the stored steps.

    Raises:
        UsageError: If a layer is quantized otherwise, or stored transposed.
    """
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if getattr(model.config, "tie_word_embeddings", False):
        state.pop("lm_head.weight", None)
    for name, layer in quant_layers(model).items():
        spec = layer.spec
        if spec.quantizer != NAME or layer.scale is None or layer.zero is None or layer.transposed:
            raise UsageError(
                f"{name} is quantized by {spec.quantizer} at {spec.w_bits:g} bits, which "
                f"EfficientQAT's packing has no place for; train with --quantizer {NAME}."
            )
        bits = round(spec.w_bits)
        zero = layer.zero.cpu().round().clamp(0, 2**bits - 1).long()
        for part in ("weight", "scale", "zero"):
            del state[f"{name}.{part}"]
        assert isinstance(layer.quantizer, EfficientQAT)
        step = layer.quantizer.steps(layer.scale.cpu())
        state[f"{name}.qweight"] = pack_fields(layer.codes().cpu().long().T, bits)
        state[f"{name}.qzeros"] = pack_fields(zero, bits).T
        state[f"{name}.scales"] = step.T.to(scales)
        group = layer.in_features // zero.shape[1]
        state[f"{name}.g_idx"] = torch.arange(layer.in_features, dtype=torch.int32) // group
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(whole, place / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(place)
    return place
