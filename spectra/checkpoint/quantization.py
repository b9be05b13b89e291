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
from spectra.checkpoint.formats import bitnet, compressed, efficientqat, own, paretoq, torchao
from spectra.checkpoint.formats.packed import Linear, by_name
from spectra.checkpoint.histories import load_histories
from spectra.checkpoint.locate import Location, shorten
from spectra.checkpoint.plan import Plan, in_words, learns_scale, scales_of
from spectra.checkpoint.qat import Asked, Qat
from spectra.checkpoint.tensors import TensorInfo, read_tensors
from spectra.checkpoint.unpack import Unpacked
from spectra.errors import CheckpointError, UsageError
from spectra.quant import QuantSpec
from spectra.quant.quantizer import FULL_BITS
from spectra.quant.saved import FILE, read_saved
from spectra.quant.swap import linear_layers, prepare


def make_plan(
    location: Location,
    tensors: Iterable[TensorInfo] | None,
    config: dict[str, Any],
    asked: Asked,
    linear: Linear,
) -> Plan | None:
    """Return how the checkpoint is to be quantized, None for one that stays a float model.

    Args:
        location: The checkpoint.
        tensors: What its weight files hold; None where they are not on this machine.
        config: Content of config.json, empty for GGUF.
        asked: What the caller says.
        linear: Gives the linear layers of the model and their shapes, for packed formats.

    Raises:
        UsageError: If the caller asks for something else than the checkpoint has, or not for all
            that is needed.
        CheckpointError: If its format is not known, or its quantization is not told completely.
    """
    stored = None if tensors is None else by_name(list(tensors))
    names = None if stored is None else list(stored)
    saved = None if location.format == "gguf" else read_saved(location.directory)
    if saved is not None:
        if config.get("quantization_config"):
            raise CheckpointError(
                f"ckpt={location.name!r} has a {FILE}, and in its config.json a "
                "quantization_config besides, which would quantize the same weights again; remove "
                "the one that is not its own."
            )
        return own.plan(location, names, saved, asked)
    for read in (efficientqat.plan, torchao.plan, bitnet.plan, compressed.plan):
        if stored is not None and (found := read(location, stored, config, asked, linear)):
            return found
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
    return Plan(qat=qat, why="the flags: nothing in it tells of a quantizer")


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
    unpaired = sorted(n for n, stored in plan.stored.items() if plan.zeros and n not in plan.zeros)
    if unpaired or (not plan.zeros and plan.qat.spec.build().has_zero):
        raise CheckpointError(
            f"ckpt={location.name!r} lacks the zero points of "
            f"{len(unpaired or plan.stored)} of its quantized layers; save the checkpoint again."
        )
    strange = sorted(set(plan.stored.values()) - set(found.values()))
    if strange:
        raise CheckpointError(
            f"ckpt={location.name!r} stores {len(strange)} scales of no quantized layer: "
            f"{shorten(strange)}; use the config.json saved with it."
        )
    quantizer = plan.qat.spec.build()
    for layer, stored in found.items():
        wanted = quantizer.scale_shape(*_shape(layers[layer]))
        for name in (stored, *_zero_of(plan, stored)):
            if shapes[name] != wanted:
                what = "output row" if wanted[1] == 1 else "group of a row"
                raise CheckpointError(
                    f"ckpt={location.name!r}: {name} has shape {shapes[name]}; one scale for each "
                    f"{what} is needed: {wanted}."
                )
    return found


def quantize_model(
    location: Location,
    model: nn.Module,
    plan: Plan,
    layers: dict[str, str],
    unpacked: Unpacked | None = None,
) -> tuple[str, ...]:
    """Swap the model's linear layers for quantized ones, in place; return notes for the record.

    Args:
        location: The checkpoint.
        model: The loaded model, in its final type and on its device.
        plan: How to quantize it.
        layers: What `match_layers` returned.
        unpacked: What a packed checkpoint held.

    Raises:
        UsageError: If the model cannot be quantized so.
        CheckpointError: If a stored scale is not finite.
    """
    scales: dict[str, torch.Tensor] | None = None
    zeros: dict[str, torch.Tensor] | None = None
    notes = list(plan.notes)
    wide = torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32
    if layers:
        pairs = {layer: _zero_of(plan, stored) for layer, stored in layers.items()}
        read = read_tensors(location, [*layers.values(), *sum(pairs.values(), ())])
        scales = {layer: read[stored] for layer, stored in layers.items()}
        zeros = {layer: read[pair[0]] for layer, pair in pairs.items() if pair} or None
    elif unpacked is not None and unpacked.scales:
        scales, zeros = unpacked.scales, unpacked.zeros
    if scales is not None:
        scales = {layer: scale.to(wide) for layer, scale in scales.items()}
        for layer, scale in scales.items():
            _check_finite(location, layers.get(layer, f"{layer}, unpacked,"), scale)
        floor = plan.qat.spec.build().scale_floor
        low = sum(int((scale <= floor).sum()) for scale in scales.values())
        if plan.qat.source == "torchao":  # its scales divide the masters
            for layer, scale in scales.items():
                _check_positive(location, layers.get(layer, f"{layer}, unpacked,"), scale)
        if low:
            notes.append(f"{low} stored scales are not above {floor:g} and work as that")
    prepare(model, plan.qat.spec, scales=scales, zeros=zeros)
    notes += load_histories(location, model, plan.histories)
    return (what_runs(plan.qat), *notes)


def what_runs(qat: Qat) -> str:
    """Return a note for the record: which weights the loaded model computes with."""
    words = in_words(qat.spec)
    if qat.source == "initial":
        how = ", scales derived from its weights" if learns_scale(qat.spec) else ""
        return f"a float checkpoint quantized on loading ({words}{how}): step 0 of training"
    if qat.packed_bits is not None:
        return f"loaded with the weights that are packed in it, and {_rest(qat.spec)}"
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


def _rest(spec: QuantSpec) -> str:
    return in_words(spec).partition("weights")[2].strip(", ") or "activations as they are"


def _zero_of(plan: Plan, scale: str) -> tuple[str, ...]:
    """Return the name of the zero points that go with a stored scale, or nothing."""
    return tuple(
        plan.zeros[n] for n, stored in plan.stored.items() if stored == scale and plan.zeros
    )


def _shape(layer: nn.Module) -> tuple[int, int]:
    weight = layer._parameters["weight"]
    assert weight is not None
    out, columns = weight.shape if isinstance(layer, nn.Linear) else weight.shape[::-1]
    return int(out), int(columns)


def _check_positive(location: Location, name: str, scale: torch.Tensor) -> None:
    bad = int((scale <= 0).sum())
    if bad:
        raise CheckpointError(
            f"ckpt={location.name!r}: the scales {name} hold {bad} values among {scale.numel()} "
            "that are not positive; the file is damaged: get it anew."
        )


def _check_finite(location: Location, name: str, scale: torch.Tensor) -> None:
    bad = int((~torch.isfinite(scale)).sum())
    if bad:
        raise CheckpointError(
            f"ckpt={location.name!r}: the scales {name} hold {bad} values among {scale.numel()} "
            "that are NaN or Inf; use a checkpoint from before it diverged."
        )
