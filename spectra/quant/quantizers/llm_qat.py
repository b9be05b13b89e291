"""LLM-QAT (arXiv 2305.17888), as its public code computes it.

    q = Qp / (max|w| + 1e-6) of the row,   Ŵ = round(q w) / (q + 1e-6),   Qp = 2^{b−1} − 1
    ∂Ŵ/∂w = 1 where −2 < w < 2, else 0

The largest entry decides the scale in every forward, so nothing is clipped by the grid; the mask is
a constant of the code, in units of the weights, and takes its bounds in. 2^b − 1 levels. The scale
is not differentiated. Here a = 1/q is the scale, and 1/(q + 1e-6) = a/(1 + 1e-6 a) what a code is
multiplied with.

Inputs of the layers, each token by its own largest entry, and keys and values, each token before
rotary position embedding, go through the same function with the same mask: entries beyond ±2, of
which there are many, pass no gradient.

`rtn` is this without the 1e-6 and the mask. The public code has branches for 1 and 2 bits besides,
which the paper does not speak of; they are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from spectra.quant.activations import check_activation_bits
from spectra.quant.quantizer import FULL_BITS, Quantizer
from spectra.quant.registry import register

BOUND = 2.0
_EPSILON = 1e-6


@register
@dataclass(frozen=True)
class LLMQAT(Quantizer):
    """Symmetric absolute-maximum grid with a constant mask."""

    name: ClassVar[str] = "llm-qat"
    supported_bits: ClassVar[tuple[float, ...]] = (3, 4, 5, 6, 7, 8)
    learns_scale: ClassVar[bool] = False
    floor: ClassVar[float] = 1e-12  # below what `_EPSILON` gives at any width

    def grid(self, bits: float) -> tuple[float, ...]:
        """Return the levels in units of `step`, ascending."""
        high = self.positive_codes(bits)
        return tuple(float(code) for code in range(-high, high + 1))

    def start(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Return (max|w| + 1e-6)/Qp, (out, 1)."""
        return (weight.abs().amax(dim=-1, keepdim=True) + _EPSILON) / self.positive_codes(bits)

    def step(self, scale: torch.Tensor) -> torch.Tensor:
        """Return 1/(1/a + 1e-6)."""
        a = self.floored(scale)
        return a / (1 + _EPSILON * a)

    def code(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the code for s = w/a."""
        high = self.positive_codes(bits)
        return s.round().clamp(-high, high)

    def inside(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return all true: in units of the scale nothing is clipped; see `mask`."""
        del bits
        return torch.ones_like(s, dtype=torch.bool)

    def mask(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return |x| < 2, boolean, the shape of `x`."""
        return super().mask(x, scale, bits) & ((x.abs() < BOUND) | (bits == FULL_BITS))

    def quantize_activations(self, x: torch.Tensor, bits: float) -> torch.Tensor:
        """Return x̂, the shape and dtype of `x` (..., features): rows are tokens."""
        check_activation_bits("bits", bits)
        if bits == FULL_BITS:
            return x
        rounded: torch.Tensor = _Round.apply(x, self, bits)  # type: ignore[no-untyped-call]
        return rounded

    def quantize_keys_values(self, x: torch.Tensor, bits: float) -> torch.Tensor:
        """Return keys or values, quantized as activations are."""
        return self.quantize_activations(x, bits)


class _Round(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, quantizer: LLMQAT, bits: float) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return quantizer.value(wide, quantizer.start(wide, bits), bits).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        del output
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.detach().abs() < BOUND), None, None
