"""Refuse a checkpoint that would load into a model other than the one that was saved.

transformers fills tensors that are missing, or of the wrong shape, with random numbers and warns;
a Hessian of such a model is a Hessian of noise. Of quantized formats that are not read, it would
load what has a familiar name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

import torch

from spectra.checkpoint.locate import Location, shorten
from spectra.errors import CheckpointError
from spectra.quant.saved import FILE

# Packed codes and step sizes of formats that are not read; never part of a float model.
PACKED = re.compile(r"(^|\.)(qweight|qzeros|g_idx|weight_scale(_inv)?|weight_fake_quantizer\.\w+)$")
# Ordinary models may have a scale; it tells a quantizer only where the model has no place for it.
SCALE = re.compile(r"(^|[._])scales?$|\.scaling\.\w+\.amax$|(^|\.)weight_clip_val(_list\.\d+)?$")


def refuse_packed(location: Location, names: Iterable[str], config: dict[str, Any]) -> None:
    """Raise CheckpointError if names or config.json tell of a quantized format that is not read."""
    found = sorted(name for name in names if PACKED.search(name))
    stated = config.get("quantization_config")
    if found:
        why = f"it stores {shorten(found, 2)}"
    elif stated:
        method = stated.get("quant_method", "unnamed") if isinstance(stated, dict) else stated
        why = f"its config.json has a quantization_config of method {method}"
    else:
        return
    raise CheckpointError(
        f"ckpt={location.name!r} is in a quantized format that is not read ({why}); loading it as "
        "float would give the spectrum of another model: pass the checkpoint it was made from."
    )


def refuse_scales(location: Location, unexpected: Iterable[str]) -> None:
    """Raise CheckpointError if a tensor that the model has no place for is a quantizer's scale."""
    scales = [name for name in unexpected if SCALE.search(name)]
    if scales:
        raise CheckpointError(
            f"ckpt={location.name!r} stores {shorten(scales, 2)}, scales of a quantizer that "
            f"nothing describes; add the {FILE} or config.json saved with it, since loading it as "
            "float would give the spectrum of another model."
        )


def check_report(
    location: Location, report: dict[str, Any], expected: Collection[str] = ()
) -> tuple[str, ...]:
    """Check what transformers says about names and shapes; return notes on unexpected tensors.

    Args:
        location: The checkpoint, for messages.
        report: The loading info of `from_pretrained`.
        expected: Names of stored tensors that the plain model has no place for and that are read
            otherwise.

    Raises:
        CheckpointError: If a tensor is missing or of the wrong shape, could not be converted, or
            belongs to a quantizer.
    """
    unexpected = sorted(set(report.get("unexpected_keys", ())) - set(expected))
    refuse_scales(location, unexpected)
    wrong = sorted(report.get("mismatched_keys", ()))
    if wrong:
        name, stored, wanted = wrong[0]
        more = f", and {len(wrong) - 1} more tensors differ" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"ckpt={location.name!r}: the tensor {name} is stored with shape {tuple(stored)}, but "
            f"config.json makes it {tuple(wanted)}{more}; use the config.json saved with it."
        )
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise CheckpointError(
            f"ckpt={location.name!r} lacks {len(missing)} of the model's tensors: "
            f"{shorten(missing)}; they would be random numbers, so save the checkpoint again."
        )
    failed = [*report.get("error_msgs", ()), *dict(report.get("conversion_errors") or {}).values()]
    if failed:
        reason = str(failed[0]).strip().splitlines()[0]
        raise CheckpointError(f"ckpt={location.name!r}: weights were not read: {reason}.")
    if not unexpected:
        return ()
    return (f"{len(unexpected)} stored tensors are not part of the model: {shorten(unexpected)}",)


def check_finite(location: Location, model: torch.nn.Module, stored: Collection[str]) -> None:
    """Raise CheckpointError if a parameter or saved buffer of `model` is NaN or infinite.

    Args:
        location: The checkpoint, for messages.
        model: The loaded model.
        stored: Names of the stored types; with none of them float16, an overflow is explained.
    """
    for name, tensor in model.state_dict().items():
        if not tensor.dtype.is_floating_point or bool(torch.isfinite(tensor).all()):
            continue
        nans, infs = int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum())
        counts = " and ".join(f"{n:,} {what}" for n, what in ((nans, "NaN"), (infs, "Inf")) if n)
        overflow = tensor.dtype == torch.float16 and "float16" not in stored and not nans
        cure = "load with dtype=float32" if overflow else "use a checkpoint from before it diverged"
        raise CheckpointError(
            f"ckpt={location.name!r}: the tensor {name} holds {counts} among {tensor.numel():,} "
            f"values; {cure}."
        )
