"""What a weight quantizer is: a grid in units of a scale, a clip mask, and the scale's slope.

Every weight quantizer here is a function of s = x/a alone,

    Ŵ = a · code(s),       M = inside(s),       d = ∂Ŵ/∂a = slope(s),

with one scale a for each output row, floored at 1e-5 as the public ParetoQ and WinQ code does (a
negative learned scale works as 1e-5). `code`, `inside` and `slope` are what a new quantizer
defines, in one file of `spectra.quant.quantizers`; everything else is inherited. Widths of 16 bits
mean no quantization for every quantizer.

A quantizer may have its grid in another orthonormal basis, s = R x / a with `rotates = True`. Then
Ŵ = Rᵀ a · code(s), M is a mask of the rotated coordinates, and the estimator's derivative is the
orthogonal projector J = Rᵀ M R in the place of M: symmetric, of rank the number of ones in M.

It may also say how it quantizes activations, and keys and values; the others share one way.

Legend: x (out, in), scale (out, 1), or any shape that broadcasts against x.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch

from spectra.errors import UsageError
from spectra.quant.activations import quantize_activations
from spectra.quant.straight_through import StraightThrough
from spectra.quant.widths import FULL_BITS as FULL_BITS
from spectra.quant.widths import TERNARY as TERNARY

if TYPE_CHECKING:
    from spectra.quant.delayed import DelayedScaling

SCALE_FLOOR = 1e-5


@dataclasses.dataclass(frozen=True)
class Quantizer(ABC):
    """A grid with its straight-through estimator. Subclasses are frozen; fields are options.

    Attributes:
        name: Its name in specifications, flags and files.
        supported_bits: The widths it defines, 16 (none) aside.
        learns_scale: Whether the scale is a parameter; else it is a statistic of the weights.
        own_a_bits: Widths of activations that it quantizes itself; empty leaves them to
            `spectra.quant.activations`.
        rotates: Whether the grid lies in the basis of `rotate`.
        floor: What smaller scales work as.
        has_zero: Whether zero points are learned beside it: `scale` is then (2, *scale_shape).
    """

    name: ClassVar[str]
    supported_bits: ClassVar[tuple[float, ...]]
    learns_scale: ClassVar[bool] = True
    own_a_bits: ClassVar[tuple[int, ...]] = ()
    rotates: ClassVar[bool] = False
    floor: ClassVar[float] = SCALE_FLOOR
    has_zero: ClassVar[bool] = False

    @abstractmethod
    def grid(self, bits: float) -> tuple[float, ...]:
        """Return the levels in units of the scale, ascending."""

    @abstractmethod
    def start(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the scale (out, 1) that training starts from, before the floor."""

    @abstractmethod
    def code(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ/a for s = x/a."""

    @abstractmethod
    def inside(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return where the estimator passes the gradient, a boolean mask."""

    def code_slope(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return ∂Ŵ/∂a for s = x/a; zero unless the scale is learned."""
        del bits
        return torch.zeros_like(s)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Return R x, (..., in), in the basis of the grid."""
        return x

    def unrotate(self, z: torch.Tensor) -> torch.Tensor:
        """Return Rᵀ z, (..., in), back in the basis of the weights."""
        return z

    def step(self, scale: torch.Tensor) -> torch.Tensor:
        """Return what a code is multiplied with: the floored scale."""
        return self.floored(scale)

    def quantize_activations(self, x: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the quantized inputs of a layer, (..., in)."""
        return quantize_activations(x, bits)

    def quantize_keys_values(self, x: torch.Tensor, bits: float) -> torch.Tensor:
        """Return quantized keys or values, (..., out), as they leave their projection."""
        return quantize_activations(x, bits)

    def check_width(self, layer: str, width: int) -> None:  # noqa: B027 - most have no rule
        """Refuse a layer whose number of inputs, `width`, the quantizer cannot work on.

        Raises:
            UsageError: If it does not fit; the sentence names the layer.
        """

    def positive_codes(self, bits: float) -> int:
        """Return Qp, the largest integer code, which enters κ."""
        return int(2 ** (round(bits) - 1)) - 1

    def levels(self, bits: float) -> int:
        """Return how many values a weight can take."""
        return len(self.grid(bits))

    def check_bits(self, bits: float) -> None:
        """Refuse a width that this quantizer does not define.

        Raises:
            UsageError: If `bits` is neither 16 nor among `supported_bits`.
        """
        if bits == FULL_BITS or bits in self.supported_bits:
            return
        known = ", ".join(f"{b:g}" for b in self.supported_bits)
        ternary = bits == 0 or 1 < bits < 2
        hint = f" (ternary is {TERNARY})" if ternary and TERNARY in self.supported_bits else ""
        raise UsageError(
            f"w_bits={bits:g} is not defined by the quantizer {self.name!r}{hint}; pass one of "
            f"{known}, or {FULL_BITS} for full precision."
        )

    def selects(self, name: str, block: int | None, blocks: int) -> bool:
        """Return whether a linear layer is quantized at all.

        Args:
            name: Its name in the model.
            block: Number of its transformer block; None outside of blocks.
            blocks: How many there are.
        """
        del name, block, blocks
        return True

    def layer_state(
        self, like: torch.Tensor, w_bits: float, a_bits: float
    ) -> DelayedScaling | None:
        """Return what a layer with weight `like` has to remember, or None."""
        del like, w_bits, a_bits
        return None

    def units(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Return s = R x/a."""
        return self.rotate(x) / self.floored(scale)

    def initial_scale(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the scale (out, 1) of a full-precision weight, at least in float32, floored."""
        self.check_bits(bits)
        wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        if bits == FULL_BITS:
            return torch.ones_like(wide[..., :1])
        return self.start(wide, bits).clamp_min(self.floor)

    def scale_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the shape of the scale of an (out, in) matrix."""
        del columns
        return rows, 1

    @property
    def scale_floor(self) -> float:
        """The least scale that works as itself."""
        return self.floor

    def initial_zero(self, weight: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the zero points, the shape of `scale`; for quantizers that have them."""
        del weight, scale, bits
        raise UsageError(f"the quantizer {self.name!r} has no zero points; leave them out.")

    def quantize(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ, the shape of `x`, differentiable by the straight-through estimator.

        Args:
            x: Weights; the result has the wider of their dtype and the scale's.
            scale: What divides them; values not above 1e-5 work as 1e-5.
            bits: Width, one of `supported_bits`, or 16 for the identity.
        """
        self.check_bits(bits)
        if bits == FULL_BITS:
            return x
        dtype = torch.promote_types(x.dtype, scale.dtype)
        apply = StraightThrough.apply
        quantized: torch.Tensor = apply(x.to(dtype), scale.to(dtype), self, bits)  # type: ignore[no-untyped-call]
        return quantized

    def value(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ = Rᵀ a · code(R x/a), not differentiable."""
        return self.unrotate(self.code_of(x, scale, bits) * self.step(scale))

    def code_of(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the code of each coordinate in the basis of the grid, the shape of `x`."""
        return self.code(self.units(x, scale), bits)

    def mask(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return M, boolean, the shape of `x`, in the basis of the grid: where gradients pass.

        A weight exactly on an inclusive bound a·Q passes if its quotient by a rounds to Q, which
        floating point decides: (7a)/a may come out one unit above 7.
        """
        self.check_bits(bits)
        if bits == FULL_BITS:
            return torch.ones_like(x, dtype=torch.bool)
        dtype = torch.promote_types(x.dtype, scale.dtype)
        return self.inside(self.units(x.to(dtype), scale.to(dtype)), bits)

    def project(self, g: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return J g = Rᵀ M R g, (..., in): what of a gradient the estimator passes on.

        Args:
            g: Gradient in Ŵ.
            mask: M, as `mask` returns it.
        """
        return self.unrotate(mask.to(g.dtype) * self.rotate(g))

    def slope(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return d = R ∂Ŵ/∂a, elementwise in the basis of the grid, the shape of `x`."""
        return self.code_slope(self.units(x, scale), bits)

    def floored(self, scale: torch.Tensor) -> torch.Tensor:
        """Return the scale as the forward uses it: `floor` wherever it is not above that."""
        return floored(scale, self.floor)

    def level(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the index of each weight's level, ascending from 0, the shape of `x`."""
        code = self.code_of(x, scale, bits)
        grid = torch.tensor(self.grid(bits), dtype=code.dtype, device=code.device)
        return torch.bucketize(code.contiguous(), (grid[1:] + grid[:-1]) / 2)

    def at_level(self, level: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ of these levels, the inverse of `level`."""
        grid = torch.tensor(self.grid(bits), dtype=scale.dtype, device=scale.device)
        return self.unrotate(grid[level.long()] * self.step(scale))

    def scale_gradient(
        self, x: torch.Tensor, scale: torch.Tensor, bits: float, g: torch.Tensor
    ) -> torch.Tensor:
        """Return ∂L/∂a = κ Σ d g, the shape of `scale`, for g = ∂L/∂Ŵ."""
        kappa = self.gradient_scale(x.numel(), bits)
        return (self.slope(x, scale, bits) * self.rotate(g) * kappa).sum_to_size(scale.shape)

    def gradient_scale(self, size: int, bits: float) -> float:
        """Return κ = 1/√(size · Qp), with the size of the whole matrix."""
        return 1.0 / math.sqrt(size * self.positive_codes(bits))


def floored(scale: torch.Tensor, floor: float = SCALE_FLOOR) -> torch.Tensor:
    """Return the scale as the forward uses it: `floor` wherever it is not above that."""
    return torch.where(scale > floor, scale, torch.full_like(scale, floor))
