"""Models of torchao's quantization-aware training, before `convert` and after it.

Before, weights have their ordinary names, and scales are stored only where their range is learned:

    X.weight_fake_quantizer.scale         (out, groups), or (out,) or (out, 1) for whole rows
    X.weight_fake_quantizer.zero_point    likewise; of signed codes, −2^{b−1} … 2^{b−1} − 1

    Ŵ = s · (clip(⌊w/s⌉ + z, −2^{b−1}, 2^{b−1} − 1) − z),     pass where the rounded code is inside

which is the quantizer `efficientqat` with zero points z + 2^{b−1} and steps that are not clamped.
The width is nowhere in the file. Without learned ranges, nothing tells such a directory from a
float one; scales are recomputed in every forward, so pass --quantizer and --w_bits.

After, in the layers that are no tensor subclasses (8-bit activations, 4-bit weights):

    X.weight int8 (out, in),  X.scales (out, groups),  X.zeros (out, groups):   W = (q − z) · s

Tensor subclasses are refused: what they mean is known to the version of torchao that wrote them.
After conversion the latent weights are W itself, inside the mask, so ste is quantized.
"""

from __future__ import annotations

from typing import Any

import torch

from spectra.checkpoint.formats.packed import Linear, Stored, check_layers, check_tensor
from spectra.checkpoint.locate import Location
from spectra.checkpoint.plan import Layer, Packed, Plan
from spectra.checkpoint.qat import Asked, Qat
from spectra.checkpoint.tensors import FLOATS
from spectra.errors import CheckpointError, UsageError

LEARNED = ".weight_fake_quantizer."
WIDTHS = (2, 3, 4)
CONVERTED_BITS = 4
QUANTIZER = "efficientqat"
_NOTES = (
    "its latent weights are not stored: those loaded are its quantized weights",
    "its layers quantize activations per token, asymmetrically, to 8 bits, which is not applied "
    "(--a_bits 8 applies a symmetric one)",
)


def plan(
    location: Location, stored: Stored, config: dict[str, Any], asked: Asked, linear: Linear
) -> Plan | None:
    """Return how it is read, None for another format.

    Raises:
        UsageError: If the caller asks for another quantization than the stored one.
        CheckpointError: If tensors are missing or do not fit, the width is not told, or it holds
            tensor subclasses.
    """
    said = config.get("quantization_config")
    if isinstance(said, dict) and said.get("quant_method") == "torchao":
        raise CheckpointError(
            f"ckpt={location.name!r} has a quantization_config of method torchao, so it holds "
            "tensor subclasses, which are not read; pass the checkpoint before convert."
        )
    learned = sorted({n.partition(LEARNED)[0] for n in stored if LEARNED in n})
    integer = sorted(
        n.removesuffix(".weight")
        for n, info in stored.items()
        if n.endswith(".weight") and info.dtype == torch.int8
    )
    if not learned and not any(f"{n}.scales" in stored for n in integer):
        return None
    if asked.quantizer not in (None, QUANTIZER):
        raise UsageError(
            f"ckpt={location.name!r} is quantized differently from what is asked: it has the "
            f"scales of torchao, read as {QUANTIZER}, not of {asked.quantizer}; leave --quantizer "
            "out."
        )
    if learned:
        return _before(location, stored, learned, asked, linear)
    return _after(location, stored, integer, asked, linear)


def _before(
    location: Location, stored: Stored, layers: list[str], asked: Asked, linear: Linear
) -> Plan:
    if asked.w_bits not in WIDTHS:
        but = "" if asked.w_bits is None else f", not {asked.w_bits:g}"
        raise (CheckpointError if asked.w_bits is None else UsageError)(
            f"ckpt={location.name!r} stores the learned ranges of torchao ({layers[0]}{LEARNED}"
            "scale), and nothing in it says the width; pass --w_bits with one of 2, 3, 4"
            + but
            + "."
        )
    shapes = linear()
    check_layers(location, layers, list(shapes), "learned ranges")
    names: dict[str, tuple[str, ...]] = {}
    groups = {}
    for name in layers:
        scale, zero = f"{name}{LEARNED}scale", f"{name}{LEARNED}zero_point"
        groups[name] = _groups(location, stored, scale, shapes[name])
        check_tensor(location, stored, f"{name}.weight", FLOATS, shapes[name])
        check_tensor(location, stored, scale, FLOATS, stored[scale].shape)
        own = [f"{name}.weight", scale]
        if zero in stored:
            whole = (*FLOATS, torch.int32, torch.int64, torch.int8)
            check_tensor(location, stored, zero, whole, stored[scale].shape)
            own.append(zero)
        names[name] = tuple(own)
    bits = int(asked.w_bits)

    def unpack(name: str, tensors: dict[str, torch.Tensor]) -> Layer:
        s = tensors[f"{name}{LEARNED}scale"].float().reshape(shapes[name][0], -1)
        z = tensors.get(f"{name}{LEARNED}zero_point", torch.zeros(()))
        z = z.float().reshape(s.shape) if z.ndim else torch.zeros_like(s)
        shifted = _shifted(location, f"{name}{LEARNED}zero_point", z, bits)
        return Layer(tensors[f"{name}.weight"], s, shifted)

    others = tuple(
        sorted({n for n in stored if "fake_quantizer." in n}.difference(*names.values()))
    )
    notes: tuple[str, ...] = (
        "learned ranges of torchao, read as efficientqat with zero points of signed codes",
    )
    if others:
        notes += (f"{len(others)} stored tensors of other fake quantizers are not used",)
    return Plan(
        qat=_qat(location, asked, bits, _size(location, shapes, groups), "torchao"),
        ignored=others,
        packed=Packed(names, unpack),
        why="torchao's weight_fake_quantizer.scale, before convert; width by --w_bits",
        notes=notes,
    )


def _after(
    location: Location, stored: Stored, layers: list[str], asked: Asked, linear: Linear
) -> Plan:
    if asked.w_bits not in (None, *WIDTHS):
        raise UsageError(
            f"ckpt={location.name!r} is quantized differently from what is asked: it stores "
            f"int8 codes of {CONVERTED_BITS} bits, not {asked.w_bits:g}; leave --w_bits out."
        )
    bits = CONVERTED_BITS if asked.w_bits is None else int(asked.w_bits)
    shapes = linear()
    check_layers(location, layers, list(shapes), "int8 codes")
    names: dict[str, tuple[str, ...]] = {}
    groups = {}
    for name in layers:
        check_tensor(location, stored, f"{name}.weight", (torch.int8,), shapes[name])
        groups[name] = _groups(location, stored, f"{name}.scales", shapes[name])
        for part in ("scales", "zeros"):
            kinds = FLOATS if part == "scales" else (*FLOATS, torch.int32, torch.int64, torch.int8)
            check_tensor(location, stored, f"{name}.{part}", kinds, (shapes[name][0], groups[name]))
        names[name] = (f"{name}.weight", f"{name}.scales", f"{name}.zeros")

    def unpack(name: str, tensors: dict[str, torch.Tensor]) -> Layer:
        q, s = tensors[f"{name}.weight"].float(), tensors[f"{name}.scales"].float()
        z, half = tensors[f"{name}.zeros"].float(), 2 ** (bits - 1)
        wrong = int(((q < -half) | (q >= half)).sum())
        if wrong:
            raise CheckpointError(
                f"ckpt={location.name!r}: the tensor {name}.weight holds {wrong} codes outside "
                f"[{-half}, {half - 1}], those of {bits} bits; pass the checkpoint before convert."
            )
        shifted = _shifted(location, f"{name}.zeros", z, bits)
        k = q.reshape(*s.shape, -1) - z[..., None]
        return Layer((k * s[..., None]).reshape(q.shape), s, shifted)

    return Plan(
        qat=_qat(location, asked, bits, _size(location, shapes, groups), "torchao"),
        packed=Packed(names, unpack),
        why="torchao's int8 weight with scales and zeros, after convert; "
        f"{bits} bits by {'its layer, which has no other' if asked.w_bits is None else '--w_bits'}",
        notes=_NOTES if asked.a_bits is None else _NOTES[:1],
    )


def _groups(location: Location, stored: Stored, name: str, shape: tuple[int, int]) -> int:
    out, columns = shape
    found = stored.get(name)
    if found is None:
        raise CheckpointError(f"ckpt={location.name!r} lacks the tensor {name}; copy it again.")
    groups = 1 if len(found.shape) == 1 else found.shape[-1]
    if found.shape not in ((out,), (out, groups)) or groups == 0 or columns % groups:
        raise CheckpointError(
            f"ckpt={location.name!r}: the tensor {name} is stored with shape {found.shape}; one "
            f"scale for each group of its ({out}, {columns}) weights is needed: use the "
            "config.json saved with it."
        )
    return groups


def _size(location: Location, shapes: Any, groups: dict[str, int]) -> int:
    if all(count == 1 for count in groups.values()):
        return -1
    sizes = sorted({shapes[name][1] // count for name, count in groups.items()})
    if len(sizes) > 1:
        raise CheckpointError(
            f"ckpt={location.name!r} has groups of {sizes[0]} and of {sizes[-1]} weights; one size "
            "is needed: save it again."
        )
    return int(sizes[0])


def _shifted(location: Location, name: str, z: torch.Tensor, bits: int) -> torch.Tensor:
    """Return zero points of codes from 0, for those of signed codes."""
    half = 2 ** (bits - 1)
    rounded, shifted = z.round(), torch.add(z, half)
    wrong = int(((rounded < -half) | (rounded >= half)).sum())
    if wrong:
        raise CheckpointError(
            f"ckpt={location.name!r}: the tensor {name} holds {wrong} zero points outside "
            f"[{-half}, {half - 1}], those of signed codes of {bits} bits; check --w_bits, or pass "
            "the checkpoint before convert."
        )
    return shifted


def _qat(location: Location, asked: Asked, bits: int, size: int, source: Any) -> Qat:
    spec = asked.spec(quantizer=QUANTIZER, w_bits=bits, group_size=size, clamp_steps=False)
    return Qat(spec=spec, source=source, scales="stored", method="torchao", step=location.step)
