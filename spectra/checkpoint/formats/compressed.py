"""Post-training quantization by llm-compressor, saved dense: weights on their grid, as floats.

config.json has a `quantization_config` of method compressed-tensors and format dense, and beside
each weight there are

    X.weight_scale (out, 1), (out, groups) or (1,),    X.weight_zero_point    of the same shape

    W = s · (q − z),    stored as W itself

So the weights are loaded as they are, and that they lie on the grid, W/s an integer, is checked:
the format says dense also of weights that nothing has quantized yet. There is no estimator and no
latent weight, so all three surfaces are taken at the same weights. Other formats of the method
hold packed integers and are refused: save with `save_compressed=False`.
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
from spectra.quant import spec
from spectra.quant.quantizer import FULL_BITS

METHOD = "compressed-tensors"
ON_GRID = 1e-2  # of a step: what rounding to half precision may leave at 8 bits


def plan(
    location: Location, stored: Stored, config: dict[str, Any], asked: Asked, linear: Linear
) -> Plan | None:
    """Return how it is read, None for another format.

    Raises:
        UsageError: If the caller asks for another quantization than the stored one.
        CheckpointError: If it is not dense, tensors are missing or do not fit, or activations are
            quantized too.
    """
    said = config.get("quantization_config")
    if not isinstance(said, dict) or said.get("quant_method") != METHOD:
        return None
    listed = said.get("config_groups") or {}
    groups = list(listed.values()) if isinstance(listed, dict) else []
    if said.get("format") != "dense" or len(groups) != 1:
        raise CheckpointError(
            f"ckpt={location.name!r} is of {METHOD}, format {said.get('format')!r} with "
            f"{len(groups)} groups of layers, and only one group, dense, is read; save it with "
            "save_compressed=False."
        )
    group = groups[0] if isinstance(groups[0], dict) else {}
    if group.get("input_activations") or group.get("output_activations"):
        raise CheckpointError(
            f"ckpt={location.name!r} quantizes activations as {METHOD} does, which is not read; "
            "quantize its weights alone."
        )
    weights = group.get("weights")
    bits = weights.get("num_bits") if isinstance(weights, dict) else None
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise CheckpointError(
            f"ckpt={location.name!r} has num_bits={bits!r} in its quantization_config, which is no "
            "width; correct it."
        )
    if asked.quantizer is not None or asked.w_bits not in (None, bits):
        wanted = asked.quantizer or f"{asked.w_bits:g}"
        raise UsageError(
            f"ckpt={location.name!r} is quantized differently from what is asked: its weights are "
            f"already of {bits} bits, not {wanted}; leave --quantizer and --w_bits out."
        )
    shapes = linear()
    scaled = [n.removesuffix(".weight_scale") for n in stored if n.endswith(".weight_scale")]
    check_layers(location, scaled, list(shapes), "weight_scale")
    for name in scaled:
        check_tensor(location, stored, f"{name}.weight", FLOATS, shapes[name])
        _check_scale(location, stored, name, shapes[name])

    def unpack(name: str, tensors: dict[str, torch.Tensor]) -> Layer:
        return _unpack(location, name, tensors)

    a_bits = FULL_BITS if asked.a_bits is None else asked.a_bits
    kv_bits = FULL_BITS if asked.kv_bits is None else asked.kv_bits
    return Plan(
        qat=Qat(
            spec=spec("rtn", w_bits=FULL_BITS, a_bits=a_bits, kv_bits=kv_bits),
            source="compressed-tensors",
            scales=None,
            step=location.step,
            packed_bits=bits,
        ),
        ignored=tuple(sorted(n for n in stored if n.endswith((".weight_zero_point", "_g_idx")))),
        packed=Packed({n: (f"{n}.weight", f"{n}.weight_scale") for n in scaled}, unpack),
        why=f"its quantization_config of {METHOD}, dense, {bits} bits",
        notes=(
            "quantized after training: it has neither latent weights nor an estimator, so all "
            "surfaces are taken at its quantized weights",
        ),
    )


def _check_scale(location: Location, stored: Stored, name: str, shape: tuple[int, int]) -> None:
    found = stored[f"{name}.weight_scale"]
    out, columns = shape
    groups = found.shape[-1] if found.shape else 0
    if found.shape not in ((1,), (out, groups)) or groups == 0 or columns % groups:
        raise CheckpointError(
            f"ckpt={location.name!r}: the tensor {name}.weight_scale is stored with shape "
            f"{found.shape}; one scale for the matrix, each row, or each group of its "
            f"({out}, {columns}) weights is needed: save the checkpoint again."
        )


def _unpack(location: Location, name: str, tensors: dict[str, torch.Tensor]) -> Layer:
    weight, scale = tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"].float()
    rows, groups = (1, 1) if scale.ndim == 1 else scale.shape
    ratio = weight.float().reshape(rows, groups, -1) / scale.reshape(rows, groups, 1)
    # Zeros are on any grid; of others, a scale of 0 or NaN gives no ratio that could be compared.
    on = ((ratio - ratio.round()).abs() <= ON_GRID) | (weight.reshape(ratio.shape) == 0)
    off = int((~on).sum())
    if off:
        raise CheckpointError(
            f"ckpt={location.name!r}: {off} of {weight.numel()} weights of {name} are not on the "
            "grid of its weight_scale, so they have not been quantized, or the columns were "
            "reordered; finish the quantization, with actorder static or none."
        )
    return Layer(weight)
