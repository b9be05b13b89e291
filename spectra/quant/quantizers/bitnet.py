"""BitNet b1.58 (arXiv 2402.17764): ternary weights at the mean of the matrix.

    γ = max(mean|W|, 1e-5) over the whole matrix,   Ŵ = γ · clip(round(W/γ), −1, 1)      (1 to 3)
    ∂Ŵ/∂W = 1, everywhere

γ follows the weights and is a constant of the backward, as in the code that the authors released.
Ŵ(cW) = c Ŵ(W) for c > 0. If autograd is let through γ instead, the estimator standing for round
alone, the derivative is M + (code − M W/γ) sign(W)ᵀ/n over the n weights, M the mask of the clip:
not symmetric, so that other gradients arrive and double backward is no longer a matrix between two
projectors. That variant is another method, and is not built.

γ is carried by no level, so a reset moves it, and with it Ŵ.

Activations: per token, x̂ = clip(round(127 x/m), −128, 127) · m/127 with m = max(max|x|, 1e-5), and
identity derivative; other widths than 8 alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from spectra.quant.activations import check_activation_bits
from spectra.quant.quantizer import FULL_BITS, SCALE_FLOOR, TERNARY, Quantizer
from spectra.quant.registry import register


@register
@dataclass(frozen=True)
class BitNet(Quantizer):
    """Ternary at the absolute mean of the whole matrix, identity estimator."""

    name: ClassVar[str] = "bitnet"
    supported_bits: ClassVar[tuple[float, ...]] = (TERNARY,)
    learns_scale: ClassVar[bool] = False

    def grid(self, bits: float) -> tuple[float, ...]:
        """Return the levels in units of the scale, ascending."""
        del bits
        return (-1.0, 0.0, 1.0)

    def start(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Return mean|w|, (1, 1)."""
        del bits
        return weight.abs().mean(dim=(-2, -1), keepdim=True)

    def code(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ/γ for s = w/γ."""
        del bits
        return s.round().clamp(-1, 1)

    def inside(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return all true: the gradient passes everywhere."""
        del bits
        return torch.ones_like(s, dtype=torch.bool)

    def quantize_activations(self, x: torch.Tensor, bits: float) -> torch.Tensor:
        """Return x̂, the shape and dtype of `x`, computed at least in float32."""
        check_activation_bits("bits", bits)
        if bits == FULL_BITS:
            return x
        rounded: torch.Tensor = _Round.apply(x, 2 ** (round(bits) - 1) - 1)  # type: ignore[no-untyped-call]
        return rounded

    def quantize_keys_values(self, x: torch.Tensor, bits: float) -> torch.Tensor:
        """Return keys or values, quantized as activations are."""
        return self.quantize_activations(x, bits)


class _Round(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, top: int) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        factor = top / wide.abs().amax(dim=-1, keepdim=True).clamp_min(SCALE_FLOOR)
        return ((wide * factor).round().clamp(-top - 1, top) / factor).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        del ctx
        return grads[0], None
