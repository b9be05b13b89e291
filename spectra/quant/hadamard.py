"""Orthonormal Walsh-Hadamard rotation of blocks of a row.

    H_1 = 1,   H_{2n} = (H_n  H_n; H_n  −H_n) / √2,   x = (x₁, …, x_k)  ↦  (H_n x₁, …, H_n x_k)

H_n is symmetric and its own inverse. It is applied by n log₂ n additions rather than as a matrix:
those are elementwise, so neither autocast nor a setting for the precision of matrix products
reaches them, and multiplying x by a power of two multiplies the result by it, bit for bit.
"""

from __future__ import annotations

import torch

from spectra.errors import UsageError


def block_size(width: int, largest: int) -> int:
    """Return the largest power of two up to `largest` that divides `width`."""
    return min(width & -width, largest)


def check_power_of_two(name: str, value: int) -> None:
    """Refuse a block size that is no power of two.

    Raises:
        UsageError: If `value` is no positive power of two.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value & (value - 1):
        raise UsageError(f"{name}={value!r} is no power of two; pass 128, or 1 for no rotation.")


def hadamard(x: torch.Tensor, largest: int) -> torch.Tensor:
    """Return the rotated `x`, (..., width), in its dtype; computed at least in float32.

    Args:
        x: Rows.
        largest: Size of a block, a power of two; where it does not divide the width, the largest
            power of two that does.
    """
    size = block_size(x.shape[-1], largest)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    y = wide.reshape(*x.shape[:-1], -1, size)
    half = 1
    while half < size:
        pairs = y.reshape(*y.shape[:-1], size // (2 * half), 2, half)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        y = torch.stack((low + high, low - high), dim=-2).reshape(y.shape)
        half *= 2
    rotated: torch.Tensor = y * size**-0.5
    return rotated.reshape(x.shape).to(x.dtype)
