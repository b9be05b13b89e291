"""FP8 (arXiv 2209.05433): E4M3 for weights and activations, E5M2 for gradients, by torch's types.

    E4M3  exponents −6 … 8, 3 mantissa bits, largest 448, no infinity, subnormals down to 2^−9
    E5M2  exponents −14 … 15, 2 mantissa bits, largest 57344, subnormals down to 2^−16

Rounding is to nearest, ties to even. Values beyond the largest saturate, Inf included, which is how
delayed scaling uses the formats; NaN stays. The conversion starts from float32: a float64 is first
rounded to that.
"""

from __future__ import annotations

from functools import cache

import torch

E4M3_MAX = 448.0
E5M2_MAX = 57344.0


def round_e4m3(x: torch.Tensor) -> torch.Tensor:
    """Return the E4M3 values nearest to `x`, saturated, at least in float32."""
    return _through(x, torch.float8_e4m3fn, E4M3_MAX)


def round_e5m2(x: torch.Tensor) -> torch.Tensor:
    """Return the E5M2 values nearest to `x`, saturated, at least in float32."""
    return _through(x, torch.float8_e5m2, E5M2_MAX)


@cache
def finite_values(dtype: torch.dtype) -> tuple[float, ...]:
    """Return all finite values of an 8-bit type of torch, ascending."""
    every = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(dtype).float().tolist()
    return tuple(sorted({value + 0.0 for value in every if abs(value) <= E5M2_MAX}))


def _through(x: torch.Tensor, dtype: torch.dtype, largest: float) -> torch.Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide.clamp(-largest, largest).to(torch.float32).to(dtype).to(wide.dtype)
