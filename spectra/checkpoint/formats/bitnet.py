"""BitNet b1.58 (arXiv 2402.17764) as transformers stores it: packed ternary codes, or masters.

Packed, a linear layer (out, in) is `weight`, uint8 (⌈out/4⌉, in), with row i·⌈out/4⌉ + r of the
matrix in bits 2i and 2i+1 of packed row r, stored as code + 1, and `weight_scale` (1,). What
weight_scale means, the class of the layer decides, which only the `quantization_config` says:

    linear_class           W
    bitlinear (default)    code / weight_scale     weight_scale = 1/γ
    autobitlinear          code · weight_scale     weight_scale = γ

Masters (`quantization_mode` online) are plain weights, quantized in every forward by the quantizer
`bitnet`: γ = mean|W|, activations of 8 bits per token. Their packed counterparts cannot be put
through it: mean|W| of ternary weights is below γ. So they are loaded as they are, in layers that
quantize activations alone. The estimator of BitNet passes everywhere, so the surfaces ste and
quantized are both defined, and the same; latent is at the same weights with activations off.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from spectra.checkpoint.formats.packed import Linear, Stored, check_tensor, unpack_fields
from spectra.checkpoint.locate import Location, shorten
from spectra.checkpoint.plan import Layer, Packed, Plan
from spectra.checkpoint.qat import Asked, Qat
from spectra.checkpoint.tensors import FLOATS
from spectra.errors import CheckpointError, UsageError
from spectra.quant import quantizer_names, spec
from spectra.quant.quantizer import FULL_BITS, TERNARY

QUANTIZER = "bitnet"
A_BITS = 8
CLASSES = ("bitlinear", "autobitlinear")
MODES = ("offline", "online")


def plan(
    location: Location, stored: Stored, config: dict[str, Any], asked: Asked, linear: Linear
) -> Plan | None:
    """Return how it is read, None for another format.

    Raises:
        UsageError: If the caller asks for another quantization than the stored one.
        CheckpointError: If tensors are missing or do not fit, or the configuration does not say,
            or contradicts itself.
    """
    said = config.get("quantization_config")
    method = said.get("quant_method") if isinstance(said, dict) else None
    scaled = (n.removesuffix(".weight_scale") for n in stored if n.endswith(".weight_scale"))
    packed = sorted(n for n in scaled if _is_packed(stored, n))
    if method not in (None, QUANTIZER) or not (packed or method):
        return None
    if not isinstance(said, dict):
        raise CheckpointError(
            f"ckpt={location.name!r} stores packed ternary weights (as {packed[0]}.weight), and "
            "nothing says whether weight_scale multiplies or divides them; add the "
            "quantization_config of its config.json with its linear_class."
        )
    kind, mode = _settings(location, said)
    if not packed:
        return _masters(location, mode, asked)
    if mode == "online":
        raise CheckpointError(
            f"ckpt={location.name!r} has quantization_mode online, which quantizes full weights, "
            f"and stores packed ones (as {packed[0]}.weight); use the config.json saved with it."
        )
    shapes = linear()
    for name in packed:
        if name not in shapes:
            raise CheckpointError(
                f"ckpt={location.name!r} stores packed weights of no linear layer: {name}; use "
                "the config.json saved with it."
            )
        out, columns = shapes[name]
        rows = (math.ceil(out / 4), columns)
        check_tensor(location, stored, f"{name}.weight", (torch.uint8,), rows)
        check_tensor(location, stored, f"{name}.weight_scale", FLOATS, (1,))
    _check_unscaled(location, stored)

    def unpack(name: str, tensors: dict[str, torch.Tensor]) -> Layer:
        return _unpack(location, name, tensors, shapes[name][0], kind)

    does = "divides" if kind == "bitlinear" else "multiplies"
    stated = "says" if "linear_class" in said else "means, saying nothing,"
    return Plan(
        qat=_qat(location, asked),
        packed=Packed({n: (f"{n}.weight", f"{n}.weight_scale") for n in packed}, unpack),
        why=f"BitNet's packed uint8 weights; weight_scale {does}, since its quantization_config "
        f"{stated} {kind}",
        notes=(
            "its latent weights are not stored: its ternary weights are loaded as they are, and "
            "since BitNet's estimator passes everywhere, ste and quantized agree",
        ),
    )


def _is_packed(stored: Stored, name: str) -> bool:
    weight = stored.get(f"{name}.weight")
    return weight is None or weight.dtype not in FLOATS


def _check_unscaled(location: Location, stored: Stored) -> None:
    bare = sorted(
        n
        for n, info in stored.items()
        if info.dtype == torch.uint8
        and n.endswith(".weight")
        and f"{n.removesuffix('.weight')}.weight_scale" not in stored
    )
    if bare:
        raise CheckpointError(
            f"ckpt={location.name!r} lacks the weight_scale of {len(bare)} packed weights: "
            f"{shorten(bare)}; copy it again."
        )


def _settings(location: Location, said: dict[str, Any]) -> tuple[str, str]:
    kind, mode = said.get("linear_class", CLASSES[0]), said.get("quantization_mode", MODES[0])
    for key, value, known in (("linear_class", kind, CLASSES), ("quantization_mode", mode, MODES)):
        if value not in known:
            raise CheckpointError(
                f"ckpt={location.name!r} has {key}={value!r} in its quantization_config, which is "
                f"neither {known[0]} nor {known[1]}; correct it."
            )
    if said.get("use_rms_norm"):
        raise CheckpointError(
            f"ckpt={location.name!r} has use_rms_norm in its quantization_config, a norm inside "
            "each linear layer, which is not read; pass the checkpoint it was made from."
        )
    return kind, mode


def _masters(location: Location, mode: str, asked: Asked) -> Plan | None:
    if mode == "offline" and asked.quantizer is None and asked.w_bits != FULL_BITS:
        raise CheckpointError(
            f"ckpt={location.name!r} says quantization_mode offline, which means packed weights, "
            f"and stores full ones; pass --quantizer {QUANTIZER} --w_bits {TERNARY} if they are "
            f"masters, or --w_bits {FULL_BITS} to run them as they are."
        )
    known = QUANTIZER in quantizer_names()
    if not known and asked.quantizer is None and asked.w_bits != FULL_BITS:
        raise CheckpointError(
            f"ckpt={location.name!r} holds the master weights of BitNet, and there is no quantizer "
            f"{QUANTIZER!r} here; pass --w_bits {FULL_BITS} to run them in full precision."
        )
    name = QUANTIZER if known else "rtn"  # at 16 bits all are one
    found = asked.spec(quantizer=name, w_bits=TERNARY, a_bits=A_BITS)
    return Plan(
        qat=Qat(spec=found, source="bitnet", scales=None, method="bitnet", step=location.step),
        why=f"BitNet's quantization_config, {mode}, and full-precision master weights",
        plain_config=True,
    )


def _qat(location: Location, asked: Asked) -> Qat:
    if asked.quantizer not in (None, QUANTIZER) or asked.w_bits not in (None, TERNARY):
        wanted = asked.quantizer or f"{asked.w_bits:g} bits"
        raise UsageError(
            f"ckpt={location.name!r} is quantized differently from what is asked: it stores "
            f"packed ternary weights, not weights for {wanted}; leave --quantizer and --w_bits out."
        )
    name = QUANTIZER if QUANTIZER in quantizer_names() else "rtn"  # at 16 bits all are one
    a_bits = A_BITS if asked.a_bits is None else asked.a_bits
    kv_bits = FULL_BITS if asked.kv_bits is None else asked.kv_bits
    found = spec(name, w_bits=FULL_BITS, a_bits=a_bits, kv_bits=kv_bits)
    return Qat(
        spec=found,
        source="bitnet",
        scales=None,
        method="bitnet",
        step=location.step,
        packed_bits=TERNARY,
    )


def _unpack(
    location: Location, name: str, tensors: dict[str, torch.Tensor], out: int, kind: str
) -> Layer:
    weight, scale = tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"].float()
    rows = weight.shape[0]
    fields = unpack_fields(location, f"{name}.weight", weight.reshape(1, -1), 2, 4)
    codes = fields.reshape(4 * rows, -1)[:out]
    if bool((codes > 2).any()):
        raise CheckpointError(
            f"ckpt={location.name!r}: the tensor {name}.weight holds {int((codes > 2).sum())} "
            "codes outside {0, 1, 2}; it is damaged: copy it again."
        )
    ternary = codes.float() - 1
    if kind == "bitlinear" and not bool(scale != 0):
        raise CheckpointError(
            f"ckpt={location.name!r}: {name}.weight_scale is 0 and divides; copy it again."
        )
    return Layer(ternary / scale if kind == "bitlinear" else ternary * scale)
