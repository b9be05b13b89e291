"""Checkpoint on disk -> verified model in memory.

The stored numbers reach the model unchanged or rounded once: float32 (the default) holds what
float32, bfloat16 and float16 files store exactly. For float64 the weights are loaded in the widest
stored type and converted afterwards, buffers included. Quantizers are put in last, on the final
latent weights; their scales are never held below float32.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cache, reduce
from pathlib import Path
from typing import Any

import torch

from spectra.checkpoint import architecture, verify
from spectra.checkpoint.bounds import PACKED, check_fits
from spectra.checkpoint.formats import gguf
from spectra.checkpoint.locate import Location, locate
from spectra.checkpoint.meta import Checkpoint, CheckpointMeta, content_hash
from spectra.checkpoint.placement import parse_device, parse_dtype
from spectra.checkpoint.plan import Plan
from spectra.checkpoint.qat import Asked
from spectra.checkpoint.quantization import (
    make_plan,
    match_layers,
    quantize_model,
    training_step,
)
from spectra.checkpoint.quiet import first_line, quiet
from spectra.checkpoint.renaming import module_names
from spectra.checkpoint.tensors import FLOATS, TensorInfo, float_types, list_tensors
from spectra.checkpoint.tokenizer import load_tokenizer
from spectra.checkpoint.unpack import Unpacked, unpack
from spectra.errors import CheckpointError, OutOfMemoryError
from spectra.quant.saved import FILE


def load_checkpoint(
    path: str | Path,
    *,
    revision: str | None = None,
    tokenizer: Any | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    trust_remote_code: bool = False,
    quantizer: str | None = None,
    w_bits: float | None = None,
    a_bits: float | None = None,
    kv_bits: float | None = None,
    initialize_scales: bool = False,
) -> Checkpoint:
    """Load a causal language model and verify it.

    Args:
        path: A directory, a `checkpoint-N` of a run, a .gguf file, a hub id, or "tiny".
        revision: Branch, tag or commit of a hub id.
        tokenizer: None for the checkpoint's own; else a directory, a hub id, or a tokenizer.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", "mps".
        dtype: "float32", "float64", "bfloat16", "float16", or "auto" for the stored type.
        trust_remote_code: Whether Python code that comes with the checkpoint may run.
        quantizer: Name of the weight quantizer; with it and the widths below, a float checkpoint
            is quantized on loading, the state before the first step of training. For a quantized
            checkpoint, None takes what it says, and a value must agree with that.
        w_bits: Width of the weights: 1.58 is ternary, 16 full precision.
        a_bits: Width of the inputs of the quantized layers; None is 16 for a float checkpoint
            (8 for the floating-point quantizers, hif8 and fp8).
        kv_bits: Width of keys and values; None is 16 for a float checkpoint.
        initialize_scales: Whether scales that a quantized checkpoint has lost may be derived from
            its latent weights.

    Returns:
        The model in evaluation mode on one device, its tokenizer or None, its quantization or None,
        and where it came from. A quantized model holds `spectra.quant.QuantLinear` layers.

    Raises:
        UsageError: If an argument is wrong, the device is absent, or the checkpoint is quantized
            differently from what is asked.
        CheckpointError: If the checkpoint is missing, damaged, incomplete, in a quantized format
            that is not read, not finite, or not a causal language model.
        OutOfMemoryError: If the model does not fit.
    """
    chosen, place = parse_dtype(dtype), parse_device(device)
    asked = Asked(quantizer, w_bits, a_bits, kv_bits, initialize_scales)
    location = locate(path, revision=revision)
    is_gguf = location.format == "gguf"
    with quiet(bars=is_gguf):
        tensors = None if is_gguf else list_tensors(location)
        header = gguf.read_gguf_header(location.weights[0]) if is_gguf else None

        @cache
        def empty() -> Any:
            return architecture.skeleton(
                location,
                architecture.configuration(location, trust_remote_code=trust_remote_code),
                trust_remote_code=trust_remote_code,
                stored=header.tensors if header else len(tensors or ()),
            )

        def linear() -> dict[str, tuple[int, int]]:
            return architecture.linear_shapes(empty())

        plan = make_plan(location, tensors or (), architecture.read_json(location), asked, linear)
        if plan:
            plan = plan.by_module(lambda: module_names(empty()))
        expected = plan.expected if plan else frozenset()
        stored, kinds, notes = _types(location, tensors, expected)
        config = architecture.configuration(location, trust_remote_code=trust_remote_code)
        check_fits(location, empty(), header.values if header else _held(tensors or [], plan))
        unpacked = unpack(location, tensors or [], plan)
        if plan and (plan.packed or plan.plain_config):
            architecture.forget_quantization(config)
        final = chosen or stored[0]
        # Through the widest stored type, so that the conversion below is the only rounding.
        first = reduce(torch.promote_types, stored) if final == torch.float64 else final
        model, found = _load(
            location, config, first, trust_remote_code, expected, unpacked, type(empty())
        )
        if plan:
            layers = match_layers(location, model, plan, {t.name: t.shape for t in tensors or ()})
        notes += found + _rounding(stored, final)
        model = _move(model, location, place, final)
        verify.check_finite(location, model, kinds)
        words, remarks = load_tokenizer(location, tokenizer, trust_remote_code=trust_remote_code)
    notes += remarks + _tying(model) + _vocabulary(model, words)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if plan:
        notes += quantize_model(location, model, plan, layers, unpacked)
        if _rounding(stored, final):
            notes += ("latent weights were rounded before quantization: some may change level",)
    qat = plan.qat if plan else None
    meta = CheckpointMeta(
        path=location.name,
        revision=location.revision,
        sha256=content_hash(_hashed(location)),
        stored_dtype=", ".join(kinds),
        step=training_step(location, qat),
        w_bits=qat.w_bits if qat else None,
        a_bits=qat.spec.a_bits if qat else None,
        method=qat.method if qat else None,
        architecture=type(model).__name__,
        format=location.format,
        parameters=parameters,
        notes=location.notes + notes,
        kv_bits=qat.spec.kv_bits if qat else None,
        quantizer=qat.spec.quantizer if qat else None,
        quantization=qat.metadata() if qat else None,
    )
    return Checkpoint(model=model, tokenizer=words, qat=qat, meta=meta)


def _hashed(location: Location) -> list[Path]:
    files = [*location.weights, *([location.config] if location.config else [])]
    quantization = location.directory / FILE
    return files + [quantization] * (location.format != "gguf" and quantization.is_file())


def _held(tensors: list[TensorInfo], plan: Plan | None) -> int:
    """Return how many values of the model are stored; of packed layers, at most."""
    fields = PACKED if plan and plan.packed else 1
    return fields * sum(math.prod(tensor.shape) for tensor in tensors)


def _types(
    location: Location, tensors: list[TensorInfo] | None, expected: Collection[str]
) -> tuple[list[torch.dtype], list[str], tuple[str, ...]]:
    """Return the types of the weights to load and of all that is stored, and notes."""
    if tensors is None:
        header = gguf.read_gguf_header(location.weights[0])
        kinds = list(header.types)
        note = f"weights were dequantized from {', '.join(kinds)} blocks of a GGUF file"
        return [torch.float32], kinds, (note,)
    stored = float_types(tensor for tensor in tensors if tensor.name not in expected)
    strange = [str(dtype).removeprefix("torch.") for dtype in stored if dtype not in FLOATS]
    if strange or not stored:
        what = f"weights of type {', '.join(strange)}" if strange else "no floating-point weights"
        raise CheckpointError(
            f"ckpt={location.name!r} stores {what}; expected float32, bfloat16, float16 or float64."
        )
    return stored, [str(dtype).removeprefix("torch.") for dtype in float_types(tensors)], ()


def _load(
    location: Location,
    config: Any,
    dtype: torch.dtype,
    trust_remote_code: bool,
    expected: Collection[str],
    unpacked: Unpacked | None,
    own: type,
) -> tuple[Any, tuple[str, ...]]:
    from transformers import AutoModelForCausalLM

    family: Any = AutoModelForCausalLM
    if location.format == "gguf":
        arguments = gguf.load_arguments(location.weights[0])
    elif unpacked is not None:
        # Without files, only the class of the model itself takes tensors.
        family, arguments = own, {"state_dict": unpacked.state}
    else:
        arguments = {"use_safetensors": "safetensors" in location.format}
    try:
        if unpacked is None:
            arguments["trust_remote_code"] = trust_remote_code
        model, report = family.from_pretrained(
            None if unpacked is not None else location.directory,
            config=config,
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused below by name
            weights_only=True,
            **arguments,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise OutOfMemoryError(
            f"ckpt={location.name!r} does not fit into memory as {dtype}; use dtype=bfloat16 or a "
            "larger machine."
        ) from None
    except Exception as error:  # transformers and the readers below it raise what they like
        raise CheckpointError(
            f"ckpt={location.name!r} could not be loaded: {first_line(error)}."
        ) from None
    if expected:  # transformers tells of unexpected tensors by the names it has given them
        name = module_names(model)
        expected = {*expected, *map(name, expected)}
    notes = verify.check_report(location, report, expected)
    if location.format == "gguf":
        gguf.forget_blocks(model)
    return model.eval(), notes


def _move(model: Any, location: Location, device: torch.device, dtype: torch.dtype) -> Any:
    try:
        model = model.to(device)
        # Half types keep the few modules that transformers holds in float32 for them.
        return model.to(dtype) if dtype == torch.float64 else model
    except torch.OutOfMemoryError:
        size = sum(p.numel() * dtype.itemsize for p in model.parameters()) / 2**30
        name = str(dtype).removeprefix("torch.")
        raise OutOfMemoryError(
            f"ckpt={location.name!r} needs {size:.1f} GiB as {name}, more than {device} has free; "
            "use dtype=bfloat16 or --device cpu."
        ) from None


def _rounding(stored: list[torch.dtype], final: torch.dtype) -> tuple[str, ...]:
    exact = all(torch.promote_types(dtype, final) == final for dtype in stored)
    name = str(final).removeprefix("torch.")
    return () if exact else (f"stored weights were rounded to {name}",)


def _tying(model: Any) -> tuple[str, ...]:
    if not getattr(model.config, "tie_word_embeddings", False):
        return ()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embedding is None or head.weight is embedding.weight:
        return ()
    return ("config.json ties head and embedding, but two different tensors are stored: not tied",)


def _vocabulary(model: Any, tokenizer: Any | None) -> tuple[str, ...]:
    embedding = model.get_input_embeddings()
    try:
        entries, rows = len(tokenizer or ()), len(embedding.weight)
    except (TypeError, AttributeError):
        return ()
    if entries <= rows:
        return ()
    return (f"the tokenizer has {entries:,} entries, the embedding {rows:,} rows",)
