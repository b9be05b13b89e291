"""QuEST (arXiv 2502.05003): a Gaussian grid in Hadamard space, gradients where it can be trusted.

    z = H w,  H the block Hadamard rotation of a row (blocks of 128)
    a = c_b · RMS(row) / (n − 1),   s = z/a,   code(s) ∈ {−(n−1), −(n−3), …, n−1}
    Ŵ = Hᵀ a code(s)
    pass where |z − a code(s)| ≤ a, half a step;   ∂Ŵ/∂w = J = Hᵀ M H

n = 2^b levels, 3 at 1.58 bits, so that a is half a step and c_b · RMS the half-width of the grid,
without a zero where n is even. c_b is the half-width that is best for a standard Gaussian, which z
is nearly: the constants of the public code, as the paper has them, and at 5 to 7 bits, where the
minimum of the mean square error is computed. (At 8 bits the public 3.885 is 1 % below the minimum
at 3.922.) Only tails lie further from the grid than half a step, |s| > n: the mask cuts off
1 − erf(c_b (1 + 1/(n−1)) / √2) of a Gaussian, 11.1, 4.6, 1.9, 0.7 % at 1, 2, 3, 4 bits.

The RMS has 1e-8 added and is a constant of the backward. The masked gradient is rotated back, so
that the estimator's derivative is the orthogonal projector J and the straight-through Hessian is
J ∇²L(Ŵ) J. Leaving weights and activations in Hadamard space, as the paper's kernels do, is the
same function: H cancels between them, and in the rotated weights the operator is M H ∇²L Hᵀ M with
the same eigenvalues.

RMS(row) follows the weights, and no level carries it: a reset moves Ŵ.

Activations are quantized alike, each token by its own RMS, with the mask; keys and values, of which
the paper says nothing, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from spectra.errors import UsageError
from spectra.quant.activations import quantize_activations
from spectra.quant.hadamard import block_size, check_power_of_two, hadamard
from spectra.quant.quantizer import FULL_BITS, TERNARY, Quantizer
from spectra.quant.registry import register

# Half-width of the grid, in standard deviations.
HALF_WIDTHS = {
    1: 0.79788,
    TERNARY: 1.22401,
    2: 1.49353,
    3: 2.05107,
    4: 2.51393,
    5: 2.91615,
    6: 3.27798,
    7: 3.61110,
    8: 3.88494,
}
_EPSILON = 1e-8  # added to the root mean square, so that a row of zeros has a scale


@register
@dataclass(frozen=True)
class QuEST(Quantizer):
    """Gaussian-optimal uniform grid in Hadamard space with a trust mask.

    Attributes:
        block: Size of a Hadamard block, a power of two; 1 for no rotation.
    """

    name: ClassVar[str] = "quest"
    supported_bits: ClassVar[tuple[float, ...]] = tuple(HALF_WIDTHS)
    learns_scale: ClassVar[bool] = False
    rotates: ClassVar[bool] = True
    floor: ClassVar[float] = 1e-12  # below what `_EPSILON` gives at any width

    block: int = 128

    def __post_init__(self) -> None:
        check_power_of_two("block", self.block)

    def check_width(self, layer: str, width: int) -> None:
        """Refuse an odd number of inputs, which no Hadamard block divides."""
        if self.block > 1 and block_size(width, self.block) == 1:
            raise UsageError(
                f"{layer} has {width} inputs, an odd number, and a Hadamard block of 'quest' is a "
                "power of two that divides it; pass another quantizer, or its option block=1 for "
                "no rotation."
            )

    def grid(self, bits: float) -> tuple[float, ...]:
        """Return the levels in half steps, ascending."""
        top = self._top(bits)
        return tuple(float(code) for code in range(-top, top + 1, 2))

    def start(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Return half a step, c_b RMS / (n − 1), (out, 1); rotating leaves the RMS as it is."""
        rms = weight.square().mean(dim=-1, keepdim=True).sqrt()
        return (rms + _EPSILON) * (HALF_WIDTHS[bits] / self._top(bits))

    def code(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the nearest level, in half steps."""
        top = self._top(bits)
        odd = top % 2
        return (2 * ((s + odd) / 2).round() - odd).clamp(-top, top)

    def inside(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return where the nearest level is at most half a step away."""
        return s.abs() <= self._top(bits) + 1

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Return H x, (..., in)."""
        return hadamard(x, self.block)

    def unrotate(self, z: torch.Tensor) -> torch.Tensor:
        """Return Hᵀ z = H z, (..., in)."""
        return hadamard(z, self.block)

    def quantize_activations(self, x: torch.Tensor, bits: float) -> torch.Tensor:
        """Return x̂, (..., in): rows are tokens."""
        if bits == FULL_BITS:
            return x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.quantize(wide, self.initial_scale(wide, bits), bits).to(x.dtype)

    def quantize_keys_values(self, x: torch.Tensor, bits: float) -> torch.Tensor:
        """Return keys or values by the largest entry of each token, not rotated."""
        return quantize_activations(x, bits)

    def _top(self, bits: float) -> int:
        return 2 if bits == TERNARY else int(2**bits) - 1
