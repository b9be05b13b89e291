"""Learned step size quantization (LSQ, arXiv 1902.08153).

    Ŵ = a · clip(round(s), Qn, Qp),   s = w/a,   a₀ = 2 mean|w| / √Qp            (paper, 1, 2, §2.1)
    ∂Ŵ/∂a = round(s) − s where Qn < s < Qp, else Qn or Qp, times 1/√(N · Qp)     (paper, 3, §2.2)
    ∂Ŵ/∂w = 1 where Qn < s < Qp, else 0                                          (paper, 5)

Qn = −2^{b−1}, Qp = 2^{b−1} − 1; ternary is Qn = −1, Qp = 1. N counts the weights of the layer. The
paper has one scale for a layer; here each output row has its own by default, as everywhere in
language models, and `quantize` takes a scale of either shape. It differs from the 3- and 4-bit
branch of `paretoq` in the starting scale and in the bounds, which are strict here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from spectra.quant.quantizer import TERNARY, Quantizer
from spectra.quant.registry import register


@register
@dataclass(frozen=True)
class LSQ(Quantizer):
    """Uniform symmetric grid with a learned step."""

    name: ClassVar[str] = "lsq"
    supported_bits: ClassVar[tuple[float, ...]] = (TERNARY, 2, 3, 4, 5, 6, 7, 8)

    def grid(self, bits: float) -> tuple[float, ...]:
        """Return the levels in units of the scale, ascending."""
        low, high = self._range(bits)
        return tuple(float(code) for code in range(low, high + 1))

    def start(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Return 2 mean|w| / √Qp, (out, 1)."""
        mean = weight.abs().mean(dim=-1, keepdim=True)
        return 2 * mean / math.sqrt(self.positive_codes(bits))

    def positive_codes(self, bits: float) -> int:
        """Return Qp: 1 at 1.58 bits, then 2^{b−1} − 1."""
        return 1 if bits == TERNARY else super().positive_codes(bits)

    def code(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ/a for s = w/a."""
        return s.round().clamp(*self._range(bits))

    def inside(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return where the gradient passes; bounds excluded."""
        low, high = self._range(bits)
        return (s > low) & (s < high)

    def code_slope(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return ∂Ŵ/∂a: round(s) − s inside, Qn or Qp outside."""
        code = self.code(s, bits)
        return torch.where(self.inside(s, bits), code - s, code)

    def _range(self, bits: float) -> tuple[int, int]:
        high = self.positive_codes(bits)
        return (-1, 1) if bits == TERNARY else (-high - 1, high)
