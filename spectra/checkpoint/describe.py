"""What a checkpoint is, told from headers and configuration: no weight is read.

The model is built on torch's meta device, where tensors have names and shapes but no memory, so
that parameters are counted and selected as in the loaded model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from spectra.checkpoint import architecture
from spectra.checkpoint.bounds import PACKED, check_fits
from spectra.checkpoint.formats import gguf
from spectra.checkpoint.locate import Location, locate
from spectra.checkpoint.plan import Plan
from spectra.checkpoint.qat import Asked, Qat
from spectra.checkpoint.quantization import make_plan, match_layers, training_step, what_runs
from spectra.checkpoint.quiet import quiet
from spectra.checkpoint.tensors import TensorInfo, float_types, list_tensors
from spectra.checkpoint.tokenizer import tokenizer_directory
from spectra.checkpoint.verify import refuse_scales
from spectra.errors import SpectraError
from spectra.quant.swap import prepare


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
        why: What its quantization was recognised by; empty for a float checkpoint.
        qat: Its quantization, None for a float checkpoint or one that would be refused.
        refusal: The sentence with which loading would refuse its quantization, or an empty string.
        notes: Sentences worth printing.
        skeleton: The model on the meta device, with quantized layers where `qat` says so.
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
    why: str
    qat: Qat | None
    refusal: str
    notes: tuple[str, ...]
    skeleton: Any = field(repr=False, compare=False)


def describe(
    path: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantizer: str | None = None,
    w_bits: float | None = None,
    a_bits: float | None = None,
    kv_bits: float | None = None,
    initialize_scales: bool = False,
) -> Description:
    """Say what the checkpoint at `path` is without reading its weights.

    Args:
        path: As for `load_checkpoint`; so are the others.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Whether Python code that comes with the checkpoint may run.
        quantizer: Name of the weight quantizer.
        w_bits: Width of the weights.
        a_bits: Width of the inputs of the quantized layers.
        kv_bits: Width of keys and values.
        initialize_scales: Whether scales may be derived from the weights.

    Raises:
        UsageError: If an argument is wrong.
        CheckpointError: If it is missing, damaged as far as headers tell, or no causal language
            model. A quantization that `load_checkpoint` would refuse is described, not refused.
    """
    asked = Asked(quantizer, w_bits, a_bits, kv_bits, initialize_scales)
    location = locate(path, revision=revision, weights=False)
    with quiet(bars=location.format == "gguf"):
        raw = architecture.read_json(location)
        tensors = None if location.format in ("gguf", "hub") else list_tensors(location)
        stored = _stored(location, tensors, raw)
        config = architecture.configuration(location, trust_remote_code=trust_remote_code)
        model = architecture.skeleton(
            location,
            config,
            trust_remote_code=trust_remote_code,
            stored=_count(location, tensors),
        )
    if tensors:
        check_fits(location, model, PACKED * sum(math.prod(t.shape) for t in tensors))
    text = config.get_text_config()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    parameters, linear = sum(p.numel() for p in model.parameters()), _linear(model, head)
    plan, refusal = _quantize(location, model, tensors, raw, asked)
    qat = plan.qat if plan else None
    return Description(
        path=location.name,
        format=location.format,
        stored_dtype=stored,
        architecture=type(model).__name__,
        parameters=parameters,
        hidden=getattr(text, "hidden_size", None),
        layers=getattr(text, "num_hidden_layers", None),
        vocab=getattr(text, "vocab_size", None),
        context=getattr(text, "max_position_embeddings", None),
        tied=head is not None and embedding is not None and head.weight is embedding.weight,
        linear=linear,
        step=training_step(location, qat),
        revision=location.revision,
        tokenizer=location.format == "gguf" or tokenizer_directory(location) is not None,
        weight_bytes=sum(file.stat().st_size for file in location.weights),
        why=plan.why if plan else "",
        qat=qat,
        refusal=refusal,
        notes=location.notes + ((what_runs(plan.qat), *plan.notes) if plan else ()),
        skeleton=model,
    )


def _count(location: Location, tensors: list[TensorInfo] | None) -> int | None:
    if location.format == "gguf":
        return gguf.read_gguf_header(location.weights[0]).tensors
    return None if tensors is None or location.format == "hub" else len(tensors)


def _stored(location: Location, tensors: list[TensorInfo] | None, config: dict[str, Any]) -> str:
    if location.format == "gguf":
        return ", ".join(gguf.read_gguf_header(location.weights[0]).types)
    if tensors is None:
        return str(config.get("dtype") or config.get("torch_dtype") or "unknown")
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in float_types(tensors))


def _quantize(
    location: Location,
    model: Any,
    tensors: list[TensorInfo] | None,
    config: dict[str, Any],
    asked: Asked,
) -> tuple[Plan | None, str]:
    """Return the plan, carried out on the skeleton, or the sentence that refuses it."""
    known = [] if location.format == "gguf" else tensors
    try:
        plan = make_plan(location, known, config, asked, lambda: architecture.linear_shapes(model))
        _refuse_leftovers(location, model, tensors or [], plan)
        if plan is None:
            return None, ""
        match_layers(location, model, plan, {t.name: t.shape for t in tensors or ()})
        prepare(model, plan.qat.spec)
    except SpectraError as error:
        return None, str(error)
    return plan, ""


def _refuse_leftovers(
    location: Location, model: Any, tensors: list[TensorInfo], plan: Plan | None
) -> None:
    known = {name for name, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
    prefix = f"{model.base_model_prefix}."
    places = known | {name.removeprefix(prefix) for name in known}
    expected = plan.expected if plan else frozenset()
    refuse_scales(location, [t.name for t in tensors if t.name not in places | expected])


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
