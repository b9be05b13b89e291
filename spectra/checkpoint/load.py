"""Checkpoint on disk -> verified model in memory.

The stored numbers reach the model unchanged or rounded once: float32 (the default) holds what
float32, bfloat16 and float16 files store exactly. For float64 the weights are loaded in the widest
stored type and converted afterwards, buffers included.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import torch

from spectra.checkpoint import architecture, verify
from spectra.checkpoint.formats import gguf
from spectra.checkpoint.locate import Location, locate
from spectra.checkpoint.meta import Checkpoint, CheckpointMeta, content_hash
from spectra.checkpoint.placement import parse_device, parse_dtype
from spectra.checkpoint.quiet import first_line, quiet
from spectra.checkpoint.tensors import FLOATS, float_types, list_tensors
from spectra.checkpoint.tokenizer import load_tokenizer
from spectra.errors import CheckpointError, OutOfMemoryError


def load_checkpoint(
    path: str | Path,
    *,
    revision: str | None = None,
    tokenizer: Any | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Load a causal language model and verify it.

    Args:
        path: A directory, a `checkpoint-N` of a run, a .gguf file, a hub id, or "tiny".
        revision: Branch, tag or commit of a hub id.
        tokenizer: None for the checkpoint's own; else a directory, a hub id, or a tokenizer.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", "mps".
        dtype: "float32", "float64", "bfloat16", "float16", or "auto" for the stored type.
        trust_remote_code: Whether Python code that comes with the checkpoint may run.

    Returns:
        The model in evaluation mode on one device, its tokenizer or None, and where it came from.

    Raises:
        UsageError: If an argument is wrong or the device is absent.
        CheckpointError: If the checkpoint is missing, damaged, incomplete, quantized, not finite,
            or not a causal language model.
        OutOfMemoryError: If the model does not fit.
    """
    asked, place = parse_dtype(dtype), parse_device(device)
    location = locate(path, revision=revision)
    is_gguf = location.format == "gguf"
    with quiet(bars=is_gguf):
        stored, kinds, notes = _stored(location)
        config = architecture.configuration(location, trust_remote_code=trust_remote_code)
        final = asked or stored[0]
        # Through the widest stored type, so that the conversion below is the only rounding.
        first = reduce(torch.promote_types, stored) if final == torch.float64 else final
        model, found = _load(location, config, first, trust_remote_code)
        notes += found + _rounding(stored, final)
        model = _move(model, location, place, final)
        verify.check_finite(location, model, kinds)
        words, remarks = load_tokenizer(location, tokenizer, trust_remote_code=trust_remote_code)
    notes += remarks + _tying(model) + _vocabulary(model, words)
    hashed = [*location.weights, *([location.config] if location.config else [])]
    meta = CheckpointMeta(
        path=location.name,
        revision=location.revision,
        sha256=content_hash(hashed),
        stored_dtype=", ".join(kinds),
        step=location.step,
        w_bits=None,
        a_bits=None,
        method=None,
        architecture=type(model).__name__,
        format=location.format,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        notes=location.notes + notes,
    )
    return Checkpoint(model=model, tokenizer=words, qat=None, meta=meta)


def _stored(location: Location) -> tuple[list[torch.dtype], list[str], tuple[str, ...]]:
    if location.format == "gguf":
        header = gguf.read_gguf_header(location.weights[0])
        kinds = list(header.types)
        note = f"weights were dequantized from {', '.join(kinds)} blocks of a GGUF file"
        return [torch.float32], kinds, (note,)
    tensors = list_tensors(location)
    verify.refuse_quantized(
        location, (tensor.name for tensor in tensors), architecture.read_json(location)
    )
    stored = float_types(tensors)
    strange = [str(dtype).removeprefix("torch.") for dtype in stored if dtype not in FLOATS]
    if strange or not stored:
        what = f"weights of type {', '.join(strange)}" if strange else "no floating-point weights"
        raise CheckpointError(
            f"ckpt={location.name!r} stores {what}; expected float32, bfloat16, float16 or float64."
        )
    return stored, [str(dtype).removeprefix("torch.") for dtype in stored], ()


def _load(
    location: Location, config: Any, dtype: torch.dtype, trust_remote_code: bool
) -> tuple[Any, tuple[str, ...]]:
    from transformers import AutoModelForCausalLM

    if location.format == "gguf":
        arguments = gguf.load_arguments(location.weights[0])
    else:
        arguments = {"use_safetensors": "safetensors" in location.format}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            location.directory,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
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
    notes = verify.check_report(location, report)
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
