"""Directories of EfficientQAT (arXiv 2407.11062): integers packed into int32, steps, zero points.

For a linear layer (out, in) with c = ⌊32/b⌋ codes in a word and G groups of in/G weights:

    qweight  int32  (⌈in/c⌉, out)    codes of c consecutive inputs, lowest bits first
    qzeros   int32  (G, ⌈out/c⌉)     zero points, packed likewise along the outputs
    scales   float  (G, out)
    g_idx    int32  (in,)            the group of each column, checked: neighbours, or all zero

    W = (q − z) · s

At 3 bits c = 10 and two bits of each word stay empty (GPTQ packs 3 bits densely), and nothing is
subtracted from the zero points before packing (GPTQ's first format stores z − 1). No key of
config.json says so: the shapes tell the width, since ⌈out/c⌉ differs, and in/G the group.

The latent weights are gone after training; those loaded here are W itself. Every one lies inside
its mask, so the surface ste is quantized, and all three are taken at the same point.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from spectra.checkpoint.formats.packed import (
    Linear,
    Stored,
    check_layers,
    check_tensor,
    unpack_fields,
)
from spectra.checkpoint.locate import Location
from spectra.checkpoint.plan import Layer, Packed, Plan
from spectra.checkpoint.qat import Asked, Qat
from spectra.checkpoint.tensors import FLOATS
from spectra.errors import CheckpointError, UsageError

PARTS = ("qweight", "qzeros", "scales")
WIDTHS = (2, 3, 4)
FOLDER = re.compile(r"(?<![A-Za-z0-9])w(?P<bits>\d)g(?P<group>-?\d+)(?![0-9])")
SUFFIX = ".qweight"
INDEX = (torch.int32, torch.int64)


def plan(
    location: Location, stored: Stored, config: dict[str, Any], asked: Asked, linear: Linear
) -> Plan | None:
    """Return how it is unpacked, None for another format.

    Raises:
        UsageError: If the caller asks for another quantization than the stored one.
        CheckpointError: If tensors are missing or do not fit, or the width is not told.
    """
    layers = sorted(name.removesuffix(SUFFIX) for name in stored if name.endswith(SUFFIX))
    if not layers:
        return None
    method = config.get("quantization_config")
    if method:
        named = method.get("quant_method", "unnamed") if isinstance(method, dict) else method
        raise CheckpointError(
            f"ckpt={location.name!r} stores qweight with a quantization_config of method {named}, "
            "whose packing differs from EfficientQAT's, which writes none; pass the checkpoint it "
            "was made from."
        )
    shapes = linear()
    check_layers(location, layers, shapes, "packed weights")
    fits = [bits for bits in WIDTHS if all(_fits(stored, n, shapes[n], bits) for n in layers)]
    bits, why = _width(location, fits, asked)
    groups = {name: _check(location, stored, name, shapes[name], bits) for name in layers}
    size = _group_size(location, shapes, groups)
    spec = asked.spec(quantizer="efficientqat", w_bits=bits, group_size=size, clamp_steps=False)
    names = {n: tuple(f"{n}.{part}" for part in PARTS) for n in layers}
    for name in layers:
        if f"{name}.g_idx" in stored:
            check_tensor(location, stored, f"{name}.g_idx", INDEX, shapes[name][1:])
            names[name] += (f"{name}.g_idx",)

    def unpack(name: str, tensors: dict[str, torch.Tensor]) -> Layer:
        return _unpack(location, name, tensors, shapes[name], bits)

    return Plan(
        qat=Qat(
            spec=spec,
            source="efficientqat",
            scales="stored",
            method="efficientqat",
            step=location.step,
        ),
        packed=Packed(names, unpack),
        why=f"EfficientQAT's packed tensors qweight, qzeros, scales; {bits} bits by {why}, groups "
        f"of {'a row' if size == -1 else size} by the shape of scales",
        notes=("its latent weights are not stored: those loaded are its quantized weights",),
    )


def _fits(stored: Stored, name: str, shape: tuple[int, int], bits: int) -> bool:
    """Whether the packed tensors of a layer, if they are there, have the shapes of `bits`."""
    (out, columns), fields = shape, 32 // bits
    weight, zeros = stored.get(f"{name}.qweight"), stored.get(f"{name}.qzeros")
    return (weight is None or weight.shape == (math.ceil(columns / fields), out)) and (
        zeros is None or zeros.shape[1:] == (math.ceil(out / fields),)
    )


def _width(location: Location, fits: list[int], asked: Asked) -> tuple[int, str]:
    """Return the width, and what tells it."""
    if asked.quantizer not in (None, "efficientqat"):
        raise UsageError(
            f"ckpt={location.name!r} is quantized differently from what is asked: it is packed by "
            f"EfficientQAT, not by {asked.quantizer}; leave --quantizer out."
        )
    named = FOLDER.search(location.directory.resolve().name) or FOLDER.search(location.name)
    shown = " or ".join(str(bits) for bits in fits)
    if asked.w_bits is not None:
        if asked.w_bits in fits:
            return int(asked.w_bits), "--w_bits"
        raise UsageError(
            f"ckpt={location.name!r} is quantized differently from what is asked: its packed "
            f"tensors have shapes of {shown or 'no known'} bits, not {asked.w_bits:g}; leave "
            "--w_bits out."
        )
    if named and int(named["bits"]) in fits:
        return int(named["bits"]), "the name of its folder"
    if named and fits:
        raise CheckpointError(
            f"ckpt={location.name!r} is named {named[0]}, but its packed tensors have shapes of "
            f"{shown} bits; pass --w_bits {shown} to read it so."
        )
    if not fits:
        raise CheckpointError(
            f"ckpt={location.name!r}: the shapes of its qweight and qzeros are those of none of "
            "2, 3 and 4 bits for the layers of its config.json; use the config.json saved with it."
        )
    if len(fits) > 1:
        raise CheckpointError(
            f"ckpt={location.name!r} is packed by EfficientQAT at a width that its shapes leave "
            f"open; pass --w_bits {shown}."
        )
    return fits[0], "the shapes of qweight and qzeros"


def _check(location: Location, stored: Stored, name: str, shape: tuple[int, int], bits: int) -> int:
    """Check the tensors of a layer; return its number of groups."""
    (out, columns), fields = shape, 32 // bits
    found = stored.get(f"{name}.scales")
    groups = found.shape[0] if found is not None and found.shape else 1
    check_tensor(location, stored, f"{name}.scales", FLOATS, (groups, out))
    whole = (torch.int32,)
    packed = (math.ceil(columns / fields), out)
    check_tensor(location, stored, f"{name}.qweight", whole, packed)
    check_tensor(location, stored, f"{name}.qzeros", whole, (groups, math.ceil(out / fields)))
    if groups == 0 or columns % groups:
        raise CheckpointError(
            f"ckpt={location.name!r}: {name}.scales has {groups} groups, which do not divide rows "
            f"of {columns} weights; use the config.json saved with it."
        )
    return int(groups)


def _group_size(location: Location, shapes: Any, groups: dict[str, int]) -> int:
    if all(count == 1 for count in groups.values()):
        return -1
    sizes = {shapes[name][1] // count for name, count in groups.items()}
    # A row shorter than a group is one group.
    largest = max(sizes)
    odd = [n for n, c in groups.items() if shapes[n][1] // c != largest and c != 1]
    if odd:
        raise CheckpointError(
            f"ckpt={location.name!r} has groups of {shapes[odd[0]][1] // groups[odd[0]]} weights "
            f"in {odd[0]} and of {largest} elsewhere; one size is needed: save it again."
        )
    return int(largest)


def _unpack(
    location: Location,
    name: str,
    tensors: dict[str, torch.Tensor],
    shape: tuple[int, int],
    bits: int,
) -> Layer:
    out, columns = shape
    q = unpack_fields(location, f"{name}.qweight", tensors[f"{name}.qweight"], bits, columns)
    zeros = tensors[f"{name}.qzeros"].T.contiguous()
    z = unpack_fields(location, f"{name}.qzeros", zeros, bits, out).float()  # (out, G)
    s = tensors[f"{name}.scales"].T.float()
    order = tensors.get(f"{name}.g_idx")
    size = columns // s.shape[1]
    if (
        order is not None
        and bool(order.any())
        and bool((order != torch.arange(columns) // size).any())
    ):
        raise CheckpointError(
            f"ckpt={location.name!r}: {name}.g_idx puts columns into groups that are not "
            "neighbours, and EfficientQAT's are; it is another packing, or damaged: get it anew."
        )
    k = q.T.reshape(out, s.shape[1], -1) - z[..., None]
    return Layer((k * s[..., None]).reshape(out, columns), s, z)
