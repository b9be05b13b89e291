"""ParetoQ (arXiv 2502.02631), as its public code computes it, which is what WinQ trains with.

One learned scale a for each row; s = w/a.

    bits      Ŵ/a                                           a₀                pass where
    1         sign(s)                                        mean|w|           −1 ≤ s ≤ 1
    1.58      round(1.5 clip(s, ±.99)) / 1.5                 max|w|            |s| ≤ .99
    2         (round(2 clip(s, ±.99) − ½) + ½) / 2           max|w|            |s| ≤ .99
    3, 4      clip(round(s), Qn, Qp)                         max|w|/Qp         Qn ≤ s ≤ Qp

Qp = 2^{b−1} − 1, Qn = −2^{b−1}; rounding half to even; w = 0 stays 0 at 1 bit. ∂Ŵ/∂a is Ŵ/a − s
inside and the extreme level outside (1 bit: sign(s) everywhere), times κ = 1/√(numel · Qp), numel
that of the whole matrix, Qp = 1 at 1, 1.58 and 2 bits.

Where paper and code differ, the code is followed: it drops the shift of ½ at 1.58 bits (the formula
as printed has four levels there), and clips at .99 rather than 1 (at 1, s = 1 would round to 1.25
at 2 bits). At 1.58 bits it gives ∂Ŵ/∂a = ±1 outside, where the forward saturates at ±⅔:
`ternary_outside="saturation"` puts the derivative right.

Every level lies in its own rounding cell and cells are intervals, so (1−f)w + fŴ has the code of w:
with a frozen, a reset leaves Ŵ as it is. With a derived afresh from the moved weights it does not
at 1.58 and 2 bits, whose initial scale is a maximum that no level attains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from spectra.errors import UsageError
from spectra.quant.quantizer import TERNARY, Quantizer
from spectra.quant.registry import register

_CLIP = 0.99
_BINARY = 1
_STRETCHED = {TERNARY: (1.5, 0.0), 2: (2.0, 0.5)}  # levels on each side of zero, shift
_OUTSIDE = ("code", "saturation")


@register
@dataclass(frozen=True)
class ParetoQ(Quantizer):
    """Sign at 1 bit, stretched elastic at 1.58 and 2, LSQ at 3 and 4.

    Attributes:
        ternary_outside: ∂Ŵ/∂a of clipped weights at 1.58 bits: "code" (±1, the public code) or
            "saturation" (±⅔, the derivative of the forward).
    """

    name: ClassVar[str] = "paretoq"
    supported_bits: ClassVar[tuple[float, ...]] = (1, TERNARY, 2, 3, 4)

    ternary_outside: str = "code"

    def __post_init__(self) -> None:
        if self.ternary_outside not in _OUTSIDE:
            raise UsageError(
                f"ternary_outside={self.ternary_outside!r} is not known; pass 'code' (±1, as the "
                "public code) or 'saturation' (±2/3, as the forward)."
            )

    def grid(self, bits: float) -> tuple[float, ...]:
        """Return the levels in units of the scale, ascending."""
        if bits == _BINARY:
            return (-1.0, 1.0)
        if bits == TERNARY:
            return (-1 / 1.5, 0.0, 1 / 1.5)
        if bits in _STRETCHED:
            return (-0.75, -0.25, 0.25, 0.75)
        low, high = self._range(bits)
        return tuple(float(code) for code in range(low, high + 1))

    def start(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Return mean|w| at 1 bit, max|w| at 1.58 and 2, max|w|/Qp at 3 and 4, (out, 1)."""
        size = weight.abs()
        if bits == _BINARY:
            return size.mean(dim=-1, keepdim=True)
        return size.amax(dim=-1, keepdim=True) / self.positive_codes(bits)

    def positive_codes(self, bits: float) -> int:
        """Return Qp: 1 up to 2 bits, then 2^{b−1} − 1."""
        return 1 if bits == _BINARY or bits in _STRETCHED else super().positive_codes(bits)

    def code(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ/a for s = w/a."""
        if bits == _BINARY:
            return s.sign()
        if bits in _STRETCHED:
            half, shift = _STRETCHED[bits]
            return ((s.clamp(-_CLIP, _CLIP) * half - shift).round() + shift) / half
        return s.round().clamp(*self._range(bits))

    def inside(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return where the gradient passes; bounds included, tested on the unrounded s."""
        low, high = (-_CLIP, _CLIP) if bits in _STRETCHED else self._range(bits)
        return (s >= low) & (s <= high)

    def code_slope(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return ∂Ŵ/∂a: Ŵ/a − s inside, the extreme level outside; sign(s) at 1 bit."""
        if bits == _BINARY:
            return s.sign()
        code = self.code(s, bits)
        outside = code
        if bits == TERNARY and self.ternary_outside == "code":
            outside = s.sign()
        return torch.where(self.inside(s, bits), code - s, outside)

    def _range(self, bits: float) -> tuple[int, int]:
        if bits == _BINARY:
            return -1, 1
        high = self.positive_codes(bits)
        return -high - 1, high
