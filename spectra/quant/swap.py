"""Into a model and out of it: plain linear layers to quantized ones and back.

Quantized are the linear layers of the transformer blocks (the outermost ModuleLists of the base
model): embeddings, head, norms and biases stay in full precision. The model's own file is not
touched, and parameter names stay: `...q_proj.weight`, and `...q_proj.scale` beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from spectra.errors import InputWarning, UsageError
from spectra.quant.layer import QuantLinear
from spectra.quant.quantizer import FULL_BITS
from spectra.quant.shared import Shared
from spectra.quant.spec import QuantSpec

_KEY_VALUE = ("k_proj", "v_proj")
_FUSED_NDIM = 3  # experts stacked into one tensor: (experts, out, in)


def prepare(
    model: nn.Module,
    spec: QuantSpec,
    *,
    scales: Mapping[str, torch.Tensor] | None = None,
    zeros: Mapping[str, torch.Tensor] | None = None,
) -> tuple[str, ...]:
    """Swap the linear layers of the transformer blocks for quantized ones, in place.

    Args:
        model: A transformers causal language model, or any module: then every linear layer in it.
        spec: What the layers do.
        scales: Learned scales by the name of the layer, for every layer; None derives them from
            the weights.
        zeros: Zero points likewise, for a quantizer that has them.

    Returns:
        Names of the swapped modules, in the order of the model.

    Raises:
        UsageError: If there is no linear layer, or one that cannot be quantized, the model is
            quantized already, `kv_bits` finds no separate key and value projections, or `scales`
            does not fit the layers.
    """
    found = selected_layers(model, spec)
    for given in (scales, zeros):
        if given is not None:
            _check_scales(given, found)
    keys = [name for name in found if name.rpartition(".")[2] in _KEY_VALUE]
    if spec.kv_bits != FULL_BITS and not keys:
        raise UsageError(
            f"kv_bits={spec.kv_bits} needs layers named {' and '.join(_KEY_VALUE)}, and "
            f"{type(model).__name__} has none (one projection may give keys and values together); "
            f"pass kv_bits={FULL_BITS}."
        )
    floor = spec.build().scale_floor
    shared = Shared(floor_told=scales is not None and _tell_floored(scales, floor))
    swapped: dict[str, nn.Module] = {}
    for index, (name, linear) in enumerate(found.items()):
        scale = None if scales is None else scales[name]
        zero = None if zeros is None else zeros[name]
        layer = QuantLinear.from_linear(linear, spec, scale=scale, zero=zero, name=name)
        layer.index, layer.shared = index, shared
        if layer.scaling is not None:
            layer.scaling.index, layer.scaling.moment = index, shared.moment
        layer.output_bits = spec.kv_bits if name in keys else FULL_BITS
        swapped[name] = layer
    # Only now: a layer that is refused leaves the model as it was.
    _replace(model, {id(found[name]): layer for name, layer in swapped.items()})
    return tuple(swapped)


def convert(model: nn.Module) -> tuple[str, ...]:
    """Fold Q(W) into plain layers of the original classes, in place.

    Args:
        model: A model that `prepare` changed.

    Returns:
        Names of the converted modules.

    Raises:
        UsageError: If the model has no quantized layer.
    """
    layers = quant_layers(model)
    if any(
        layer.spec.a_bits != FULL_BITS or layer.output_bits != FULL_BITS
        for layer in layers.values()
    ):
        warnings.warn(
            "a plain layer has no activation quantizer; the converted model keeps the quantized "
            "weights and runs with full-precision activations, keys and values.",
            InputWarning,
            stacklevel=2,
        )
    _replace(model, {id(layer): layer.to_plain() for layer in layers.values()})
    return tuple(layers)


def quant_layers(model: nn.Module) -> dict[str, QuantLinear]:
    """Return the quantized layers of `model` by name.

    Raises:
        UsageError: If there is none.
    """
    layers = {n: module for n, module in model.named_modules() if isinstance(module, QuantLinear)}
    if not layers:
        raise UsageError(
            f"{type(model).__name__} has no quantized layer; call prepare(model, spec) first."
        )
    return layers


def _replace(model: nn.Module, new: dict[int, nn.Module]) -> None:
    places = [(n, module) for n, module in model.named_modules(remove_duplicate=False) if n]
    for name, module in places:
        if id(module) in new:
            model.set_submodule(name, new[id(module)])


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of `model` that `prepare` swaps, by name, in the order of the model.

    Raises:
        UsageError: If there is none, or one that cannot be quantized.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    found: dict[str, nn.Module] = {}
    owners: dict[int, str] = {}
    for prefix, block in _blocks(model):
        for name, module in block.named_modules():
            where = f"{prefix}.{name}".strip(".")
            if isinstance(module, QuantLinear):
                raise UsageError(f"{where} is quantized already; convert(model) first.")
            if module is head or module in found.values():
                continue
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
                found[where] = module
                weight: Any = module._parameters.get("weight")
                twin = owners.setdefault(id(weight), where)
                if weight is not None and twin != where:
                    raise UsageError(
                        f"{where} and {twin} share one weight, which cannot have two scales; "
                        "untie them."
                    )
            else:
                _refuse_fused(where, module)
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no linear layer in its transformer blocks to quantize; "
            "pass a causal language model."
        )
    return found


def selected_layers(model: nn.Module, spec: QuantSpec) -> dict[str, nn.Module]:
    """Return the layers of `linear_layers` that the quantizer of `spec` does not leave out.

    Raises:
        UsageError: If it leaves out all, or as `linear_layers`.
    """
    quantizer, found = spec.build(), linear_layers(model)
    lists = {prefix: module for prefix, module in _blocks(model) if prefix}
    chosen = {}
    for name, layer in found.items():
        block, blocks = None, 0
        for prefix, module in lists.items():
            if name.startswith(f"{prefix}."):
                first = name.removeprefix(f"{prefix}.").partition(".")[0]
                block, blocks = int(first), len(list(module.children()))
        if quantizer.selects(name, block, blocks):
            chosen[name] = layer
    if not chosen:
        raise UsageError(
            f"the options of {spec.quantizer} ({_told(spec)}) leave out all {len(found)} linear "
            f"layers, of which the first is {next(iter(found))}; leave some to quantize."
        )
    return chosen


def _told(spec: QuantSpec) -> str:
    return ", ".join(f"{name}={value}" for name, value in spec.options)


def _check_scales(scales: Mapping[str, torch.Tensor], layers: Mapping[str, nn.Module]) -> None:
    lacking = [name for name in layers if name not in scales]
    strange = [name for name in scales if name not in layers]
    if lacking or strange:
        what = f"none for {lacking[0]}" if lacking else f"some for {strange[0]}, no such layer"
        raise UsageError(
            f"{len(scales)} scales were given for {len(layers)} layers, {what}; pass one for each "
            "layer, or none at all to derive them from the weights."
        )
    for name, scale in scales.items():
        if not bool(torch.isfinite(scale).all()):
            raise UsageError(f"the scales given for {name} are not finite; check the checkpoint.")


def _tell_floored(scales: Mapping[str, torch.Tensor], floor: float) -> bool:
    low = {name: count for name, s in scales.items() if (count := int((s <= floor).sum()))}
    if low:
        total = sum(scale.numel() for scale in scales.values())
        warnings.warn(
            f"{sum(low.values())} of {total} given scales are not above {floor:g} (the first in "
            f"{next(iter(low))}); they work as {floor:g}: check the checkpoint.",
            InputWarning,
            stacklevel=3,
        )
    return bool(low)


def _refuse_fused(where: str, module: nn.Module) -> None:
    if isinstance(module, nn.modules.conv._ConvNd):
        return
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim >= _FUSED_NDIM:
            raise UsageError(
                f"{where}.{name} of shape {tuple(parameter.shape)} holds several layers fused into "
                "one tensor, which would stay in full precision; load the model with separate "
                "linear layers."
            )


def _blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the outermost ModuleLists of the base model, or the whole of a plain module."""
    base: Any = getattr(model, "base_model", None)
    if not isinstance(base, nn.Module) or not hasattr(model, "config"):
        return [("", model)]
    root = next((name for name, module in model.named_modules() if module is base), "")
    found: list[tuple[str, nn.Module]] = []
    for name, module in base.named_modules():
        inside = any(name == outer or name.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, nn.ModuleList) and not inside:
            found.append((name, module))
    return [(f"{root}.{name}".strip("."), module) for name, module in found]
