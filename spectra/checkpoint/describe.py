"""What a checkpoint is, told from headers and configuration: no weight is read.

The model is built on torch's meta device, where tensors have names and shapes but no memory, so
that parameters are counted and selected as in the loaded model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from spectra.checkpoint import architecture, verify
from spectra.checkpoint.formats import gguf
from spectra.checkpoint.locate import Location, locate
from spectra.checkpoint.quiet import quiet
from spectra.checkpoint.tensors import float_types, list_tensors
from spectra.checkpoint.tokenizer import tokenizer_directory


@dataclass(frozen=True)
class Description:
    """What `spectra info` prints.

    Attributes:
        path: As the caller gave it.
        format: As in CheckpointMeta; "hub" where the weights are not on this machine.
        stored_dtype: As in CheckpointMeta; what config.json says where weights are not here.
        architecture: Class of the model.
        parameters: Number of parameters, tied weights counted once.
        hidden: Width of the model; None where the configuration has no such entry. So below.
        layers: Number of blocks.
        vocab: Rows of the embedding.
        context: Positions the model was made for.
        tied: Whether head and embedding are one tensor.
        linear: (out, in) of the weight of every linear layer, the head excepted.
        step: Training step, if known.
        revision: As asked of the hub.
        tokenizer: Whether there is one.
        weight_bytes: Size of the weight files.
        quantized: What tells that it is a quantized checkpoint, or an empty string.
        notes: Sentences worth printing.
        skeleton: The model on the meta device.
    """

    path: str
    format: str
    stored_dtype: str
    architecture: str
    parameters: int
    hidden: int | None
    layers: int | None
    vocab: int | None
    context: int | None
    tied: bool
    linear: dict[str, tuple[int, int]]
    step: int | None
    revision: str | None
    tokenizer: bool
    weight_bytes: int
    quantized: str
    notes: tuple[str, ...]
    skeleton: Any = field(repr=False, compare=False)


def describe(
    path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Description:
    """Say what the checkpoint at `path` is without reading its weights.

    Args:
        path: As for `load_checkpoint`.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Whether Python code that comes with the checkpoint may run.

    Raises:
        UsageError: If an argument is wrong.
        CheckpointError: If it is missing, damaged as far as headers tell, or no causal language
            model. A quantized checkpoint is described, not refused.
    """
    location = locate(path, revision=revision, weights=False)
    with quiet(bars=location.format == "gguf"):
        stored, quantized = _stored(location)
        config = architecture.configuration(location, trust_remote_code=trust_remote_code)
        model = architecture.skeleton(location, config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return Description(
        path=location.name,
        format=location.format,
        stored_dtype=stored,
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        hidden=getattr(text, "hidden_size", None),
        layers=getattr(text, "num_hidden_layers", None),
        vocab=getattr(text, "vocab_size", None),
        context=getattr(text, "max_position_embeddings", None),
        tied=head is not None and embedding is not None and head.weight is embedding.weight,
        linear=_linear(model, head),
        step=location.step,
        revision=location.revision,
        tokenizer=location.format == "gguf" or tokenizer_directory(location) is not None,
        weight_bytes=sum(file.stat().st_size for file in location.weights),
        quantized=quantized,
        notes=location.notes,
        skeleton=model,
    )


def _stored(location: Location) -> tuple[str, str]:
    if location.format == "gguf":
        return ", ".join(gguf.read_gguf_header(location.weights[0]).types), ""
    raw = architecture.read_json(location)
    if location.format == "hub":
        stated = str(raw.get("dtype") or raw.get("torch_dtype") or "unknown")
        return stated, verify.quantization((), raw)
    tensors = list_tensors(location)
    kinds = [str(dtype).removeprefix("torch.") for dtype in float_types(tensors)]
    return ", ".join(kinds), verify.quantization((tensor.name for tensor in tensors), raw)


def _linear(model: Any, head: Any) -> dict[str, tuple[int, int]]:
    from transformers.pytorch_utils import Conv1D

    shapes = {}
    for name, module in model.named_modules():
        if module is head:
            continue
        if isinstance(module, torch.nn.Linear):
            shapes[name] = (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):  # stores its weight transposed
            shapes[name] = (module.weight.shape[1], module.weight.shape[0])
    return shapes
