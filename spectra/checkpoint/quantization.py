"""Quantized checkpoints: what tells of them, what they lack, and the layers they are loaded into.

A quantization-aware checkpoint stores latent weights under plain names with its scales beside them,
so stock code loads it without a word, drops the scales, and evaluates it at the wrong point. Here
the scales are read from the same files and given to `spectra.quant.prepare`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from spectra.checkpoint import verify
from spectra.checkpoint.formats import own, paretoq
from spectra.checkpoint.histories import load_histories
from spectra.checkpoint.locate import Location, shorten
from spectra.checkpoint.plan import Plan, in_words, learns_scale, scales_of
from spectra.checkpoint.qat import Asked, Qat
from spectra.checkpoint.tensors import TensorInfo, read_tensors
from spectra.errors import CheckpointError, UsageError
from spectra.quant.quantizer import FULL_BITS, SCALE_FLOOR
from spectra.quant.saved import read_saved
from spectra.quant.swap import linear_layers, prepare


def make_plan(
    location: Location,
    tensors: Iterable[TensorInfo] | None,
    config: dict[str, Any],
    asked: Asked,
) -> Plan | None:
    """Return how the checkpoint is to be quantized, None for one that stays a float model.

    Args:
        location: The checkpoint.
        tensors: What its weight files hold; None where they are not on this machine.
        config: Content of config.json, empty for GGUF.
        asked: What the caller says.

    Raises:
        UsageError: If the caller asks for something else than the checkpoint has, or not for all
            that is needed.
        CheckpointError: If its format is not known, or its quantization is not told completely.
    """
    names = None if tensors is None else [tensor.name for tensor in tensors]
    saved = None if location.format == "gguf" else read_saved(location.directory)
    if saved is not None:
        return own.plan(location, names, saved, asked)
    verify.refuse_packed(location, names or (), config)
    if found := paretoq.plan(location, names, config, asked):
        return found
    if not asked.anything:
        if asked.initialize_scales:
            raise UsageError(
                "initialize_scales is for quantized weights, and nothing in "
                f"ckpt={location.name!r} says that it has any; pass --w_bits with their width too, "
                "or leave it out."
            )
        return None
    spec = asked.spec()
    # The step of a checkpoint's own directory is one of float training.
    qat = Qat(spec=spec, source="initial", scales=scales_of(spec, stored=False), step=0, resets=0)
    return Plan(qat=qat)


def match_layers(
    location: Location, model: nn.Module, plan: Plan, shapes: dict[str, tuple[int, ...]]
) -> dict[str, str]:
    """Return layer of the model -> name of its stored scale, checked; empty if none are stored.

    Args:
        location: The checkpoint, for messages.
        model: The plain model, or its skeleton.
        plan: What is stored.
        shapes: Shapes of the stored tensors by name.

    Raises:
        UsageError: If the model has no layer that can be quantized.
        CheckpointError: If a layer lacks its scale, a scale belongs to no layer, or has another
            shape than (out, 1).
    """
    if not plan.stored:
        return {}
    layers = linear_layers(model)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    # A file saved from the base model alone has the names without their prefix, as weights may.
    found = {
        layer: stored
        for layer in layers
        if (stored := plan.stored.get(layer) or plan.stored.get(layer.removeprefix(prefix)))
    }
    lacking = sorted(set(layers) - set(found))
    if lacking:
        raise CheckpointError(
            f"ckpt={location.name!r} lacks the scales of {len(lacking)} of its {len(layers)} "
            f"quantized layers: {shorten(lacking)}; save the checkpoint again."
        )
    strange = sorted(set(plan.stored.values()) - set(found.values()))
    if strange:
        raise CheckpointError(
            f"ckpt={location.name!r} stores {len(strange)} scales of no quantized layer: "
            f"{shorten(strange)}; use the config.json saved with it."
        )
    for layer, stored in found.items():
        wanted = (_rows(layers[layer]), 1)
        if shapes[stored] != wanted:
            raise CheckpointError(
                f"ckpt={location.name!r}: {stored} has shape {shapes[stored]}; one scale for each "
                f"output row is needed: {wanted}."
            )
    return found


def quantize_model(
    location: Location, model: nn.Module, plan: Plan, layers: dict[str, str]
) -> tuple[str, ...]:
    """Swap the model's linear layers for quantized ones, in place; return notes for the record.

    Args:
        location: The checkpoint.
        model: The loaded model, in its final type and on its device.
        plan: How to quantize it.
        layers: What `match_layers` returned.

    Raises:
        UsageError: If the model cannot be quantized so.
        CheckpointError: If a stored scale is not finite.
    """
    scales: dict[str, torch.Tensor] | None = None
    notes = list(plan.notes)
    if layers:
        wide = torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32
        read = read_tensors(location, layers.values())
        scales = {layer: read[stored].to(wide) for layer, stored in layers.items()}
        for layer, stored in layers.items():
            _check_finite(location, stored, scales[layer])
        low = sum(int((scale <= SCALE_FLOOR).sum()) for scale in scales.values())
        if low:
            notes.append(f"{low} stored scales are not above {SCALE_FLOOR:g} and work as that")
    prepare(model, plan.qat.spec, scales=scales)
    notes += load_histories(location, model, plan.histories)
    return (what_runs(plan.qat), *notes)


def what_runs(qat: Qat) -> str:
    """Return a note for the record: which weights the loaded model computes with."""
    words = in_words(qat.spec)
    if qat.source == "initial":
        how = ", scales derived from its weights" if learns_scale(qat.spec) else ""
        return f"a float checkpoint quantized on loading ({words}{how}): step 0 of training"
    if qat.spec.w_bits == FULL_BITS:
        return f"loaded with {words}"
    how = {
        "stored": ", with the scales it stores",
        "initial": ", with scales derived from its latent weights: none are stored",
        None: "",
    }[qat.scales]
    return (
        f"its latent weights are quantized on loading ({words}{how}); stock transformers would run "
        "them in full precision"
    )


def training_step(location: Location, qat: Qat | None) -> int | None:
    """Return the step of a record: that of the place, else that of the quantization."""
    return location.step if location.step is not None or qat is None else qat.step


def _rows(layer: nn.Module) -> int:
    weight = layer._parameters["weight"]
    assert weight is not None
    return int(weight.shape[0] if isinstance(layer, nn.Linear) else weight.shape[1])


def _check_finite(location: Location, name: str, scale: torch.Tensor) -> None:
    bad = int((~torch.isfinite(scale)).sum())
    if bad:
        raise CheckpointError(
            f"ckpt={location.name!r}: the scales {name} hold {bad} values among {scale.numel()} "
            "that are NaN or Inf; use a checkpoint from before it diverged."
        )
