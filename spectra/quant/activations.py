"""Activations and keys and values, per token: symmetric, scaled by the token's largest entry.

    x̂ = a · round(x/a),   a = max|x| / (2^{b−1} − 1) over the last dimension,   ∂x̂/∂x = 1

a is a constant of the backward: it is not differentiated, in training or in curvature, where its
derivative would be one of the maximum alone. Nothing exceeds the maximum, so nothing is masked.
(LLM-QAT, arXiv 2305.17888, has the same grid up to 1e-6 in a, and zeroes the gradient of entries
beyond ±2, a constant; the public ParetoQ and WinQ code has no activation quantizer.)

Keys and values are the outputs of their projections, quantized before rotary position embedding.
"""

from __future__ import annotations

from typing import Any

import torch

from spectra.errors import UsageError
from spectra.quant.widths import FULL_BITS

ACTIVATION_BITS = (2, 3, 4, 5, 6, 7, 8)


def check_activation_bits(name: str, bits: float) -> None:
    """Refuse a width of activations that is not defined.

    Raises:
        UsageError: If `bits` is neither 16 nor an integer from 2 to 8.
    """
    if bits != FULL_BITS and bits not in ACTIVATION_BITS:
        raise UsageError(
            f"{name}={bits:g} is not defined for activations; pass an integer from "
            f"{ACTIVATION_BITS[0]} to {ACTIVATION_BITS[-1]}, or {FULL_BITS} for full precision."
        )


def quantize_activations(x: torch.Tensor, bits: float) -> torch.Tensor:
    """Return x̂, the shape and dtype of `x` (..., features), computed at least in float32."""
    check_activation_bits("bits", bits)
    if bits == FULL_BITS:
        return x
    rounded: torch.Tensor = _Round.apply(x, 2 ** (round(bits) - 1) - 1)  # type: ignore[no-untyped-call]
    return rounded


class _Round(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, codes: int) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # A token of zeros has no scale of its own; any positive one leaves it zero.
        smallest = torch.finfo(wide.dtype).tiny * codes
        a = wide.abs().amax(dim=-1, keepdim=True).clamp_min(smallest) / codes
        return ((wide / a).round() * a).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        del ctx
        return grads[0], None
