"""Round to nearest with the plain straight-through estimator.

    Ŵ = a · round(w/a),   a = max|w| / (2^{b−1} − 1) of the row,   ∂Ŵ/∂w = 1

The scale follows the weights and is not differentiated. Nothing is clipped at that scale, so the
mask is all ones and the code −2^{b−1} is never used: 2^b − 1 levels. (The clip below only acts on a
scale given from outside.)

The largest weight of a row sits on a level, where a reset leaves it: a, and with it Ŵ, is the same
after a reset, up to the rounding of (max/Qp)·Qp. Scales that no level carries, such as a mean over
a ternary row or a root mean square, do move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from spectra.quant.quantizer import Quantizer
from spectra.quant.registry import register


@register
@dataclass(frozen=True)
class RTN(Quantizer):
    """Symmetric absolute-maximum grid, scale recomputed from the weights."""

    name: ClassVar[str] = "rtn"
    supported_bits: ClassVar[tuple[float, ...]] = (2, 3, 4, 5, 6, 7, 8)
    learns_scale: ClassVar[bool] = False

    def grid(self, bits: float) -> tuple[float, ...]:
        """Return the levels in units of the scale, ascending."""
        high = self.positive_codes(bits)
        return tuple(float(code) for code in range(-high, high + 1))

    def start(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Return max|w|/Qp, (out, 1)."""
        return weight.abs().amax(dim=-1, keepdim=True) / self.positive_codes(bits)

    def code(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ/a for s = w/a."""
        high = self.positive_codes(bits)
        return s.round().clamp(-high, high)

    def inside(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return all true: the gradient passes everywhere."""
        del bits
        return torch.ones_like(s, dtype=torch.bool)
