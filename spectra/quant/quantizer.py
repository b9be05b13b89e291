"""What a weight quantizer is: a grid in units of a scale, a clip mask, and the scale's slope.

Every weight quantizer here is a function of s = x/a alone,

    Ŵ = a · code(s),       M = inside(s),       d = ∂Ŵ/∂a = slope(s),

with one scale a for each output row, floored at 1e-5 as the public ParetoQ and WinQ code does (a
negative learned scale works as 1e-5). `code`, `inside` and `slope` are what a new quantizer
defines, in one file of `spectra.quant.quantizers`; everything else is inherited. Widths of 16 bits
mean no quantization for every quantizer.

Legend: x (out, in), scale (out, 1), or any shape that broadcasts against x.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from spectra.errors import UsageError
from spectra.quant.straight_through import StraightThrough

FULL_BITS = 16
SCALE_FLOOR = 1e-5
TERNARY = 1.58


@dataclasses.dataclass(frozen=True)
class Quantizer(ABC):
    """A grid with its straight-through estimator. Subclasses are frozen; fields are options.

    Attributes:
        name: Its name in specifications, flags and files.
        supported_bits: The widths it defines, 16 (none) aside.
        learns_scale: Whether the scale is a parameter; else it is a statistic of the weights.
        has_zero: Whether zero points are learned beside it: `scale` is then (2, *scale_shape).
    """

    name: ClassVar[str]
    supported_bits: ClassVar[tuple[float, ...]]
    learns_scale: ClassVar[bool] = True
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

    def initial_scale(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the scale (out, 1) of a full-precision weight, at least in float32, floored."""
        self.check_bits(bits)
        wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        if bits == FULL_BITS:
            return torch.ones_like(wide[..., :1])
        return self.start(wide, bits).clamp_min(SCALE_FLOOR)

    def scale_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the shape of the scale of an (out, in) matrix."""
        del columns
        return rows, 1

    @property
    def scale_floor(self) -> float:
        """The least scale that works as itself."""
        return SCALE_FLOOR

    def initial_zero(self, weight: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the zero points, the shape of `scale`; for quantizers that have them."""
        raise NotImplementedError(f"{self.name} has no zero points")

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
        """Return Ŵ = a · code(x/a), not differentiable."""
        a = floored(scale)
        return self.code(x / a, bits) * a

    def mask(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return M, boolean, the shape of `x`: where the gradient of Ŵ passes to x.

        A weight exactly on an inclusive bound a·Q passes if its quotient by a rounds to Q, which
        floating point decides: (7a)/a may come out one unit above 7.
        """
        self.check_bits(bits)
        if bits == FULL_BITS:
            return torch.ones_like(x, dtype=torch.bool)
        dtype = torch.promote_types(x.dtype, scale.dtype)
        return self.inside(x.to(dtype) / floored(scale.to(dtype)), bits)

    def slope(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return d = ∂Ŵ/∂a, elementwise, the shape of `x`."""
        return self.code_slope(x / floored(scale), bits)

    def level(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the index of each weight's level, ascending from 0, the shape of `x`."""
        code = self.code(x / floored(scale), bits)
        grid = torch.tensor(self.grid(bits), dtype=code.dtype, device=code.device)
        return torch.bucketize(code.contiguous(), (grid[1:] + grid[:-1]) / 2)

    def at_level(self, level: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ of these levels, the inverse of `level`."""
        grid = torch.tensor(self.grid(bits), dtype=scale.dtype, device=scale.device)
        return grid[level.long()] * floored(scale)

    def scale_gradient(
        self, x: torch.Tensor, scale: torch.Tensor, bits: float, g: torch.Tensor
    ) -> torch.Tensor:
        """Return ∂L/∂a = κ Σ d g, the shape of `scale`, for g = ∂L/∂Ŵ."""
        kappa = self.gradient_scale(x.numel(), bits)
        return (self.slope(x, scale, bits) * g * kappa).sum_to_size(scale.shape)

    def gradient_scale(self, size: int, bits: float) -> float:
        """Return κ = 1/√(size · Qp), with the size of the whole matrix."""
        return 1.0 / math.sqrt(size * self.positive_codes(bits))


def floored(scale: torch.Tensor) -> torch.Tensor:
    """Return the scale as the forward uses it: 1e-5 wherever it is not above 1e-5."""
    return torch.where(scale > SCALE_FLOOR, scale, torch.full_like(scale, SCALE_FLOOR))
