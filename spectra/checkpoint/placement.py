"""`--dtype` and `--device` -> torch objects, each wrong value in one sentence."""

from __future__ import annotations

import torch

from spectra.checkpoint.tensors import FLOATS
from spectra.errors import UsageError, nearest

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    """Return the type named `dtype`; None for "auto", the stored type.

    Raises:
        UsageError: If it is no floating-point type that a model can compute in.
    """
    name = str(dtype).removeprefix("torch.")
    if name == "auto":
        return None
    if name not in DTYPES:
        known = ", ".join(DTYPES)
        near = nearest(name, [*DTYPES, "auto"]).rstrip("?")
        raise UsageError(f"dtype={name!r} is not a type to load in; pass auto, {known}{near}.")
    return DTYPES[name]


def parse_device(device: str | torch.device) -> torch.device:
    """Return the torch device; "auto" is CUDA where there is one, else the CPU.

    Raises:
        UsageError: If it is no device, or one that this machine lacks.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError):
        raise UsageError(
            f"device={str(device)!r} is not a device; pass auto, cpu, cuda, cuda:0 or mps."
        ) from None
    if parsed.type == "cuda":
        _check_cuda(parsed)
    elif parsed.type == "mps":
        if not torch.backends.mps.is_available():
            raise UsageError("device='mps' is absent from this machine; pass cpu or auto.")
    elif parsed.type != "cpu":
        raise UsageError(f"device={str(device)!r} is not supported; pass auto, cpu, cuda or mps.")
    return parsed


def _check_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        why = "torch was built without CUDA" if torch.version.cuda is None else "no GPU is visible"
        raise UsageError(f"device={str(device)!r} is absent ({why}); pass --device cpu or auto.")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise UsageError(
            f"device={str(device)!r} is absent: {count} CUDA devices are visible; pass cuda:0 to "
            f"cuda:{count - 1}."
        )
