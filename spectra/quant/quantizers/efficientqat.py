"""EfficientQAT (arXiv 2407.11062): uniform, asymmetric, one step and zero point for each group.

A row is cut into groups of `group_size` neighbouring weights. With q = 2^b − 1, for each group

    Ŵ = s · (clip(⌊w/s⌉ + ⌊z⌉, 0, q) − ⌊z⌉)                                     (paper, 1 and 2)
    s₀ = (max w − min w) / q,    z₀ = −⌊min w / s₀⌉

s is clamped to [1e-4, 1e4] and ⌊z⌉ to [0, q], both with the gradient passing. Written with the
integer bounds l = −⌊z⌉ and h = q − ⌊z⌉ it is LSQ with bounds of its own in each group:

    r = ⌊w/s⌉,     Ŵ = s · clip(r, l, h),     pass where  l ≤ r ≤ h
    ∂Ŵ/∂w = 1 and 0,     ∂Ŵ/∂s = r − w/s and clip(r, l, h),     ∂Ŵ/∂z = 0 and −s   (inside, outside)

The mask lies on the rounded code, bounds included: w/s up to half a step beyond h passes, which
ParetoQ and LSQ mask. No gradient is rescaled: κ = 1. All is linear in ∂L/∂Ŵ with coefficients read
off at the point, so that second derivatives in (w, s, z) are symmetric.

The second phase, E2E-QP, has integers instead of weights: Ŵ = s·k, k fixed, and ∂Ŵ/∂s = k. That is
`codes="fixed"`: whoever moves s keeps w = s·k. Packed files multiply by their steps as they are:
`clamp_steps=False`.

Rows shorter than `group_size` are one group. `scale` is either the steps alone, (out, groups), with
the zero point in the middle, z = 2^{b−1}, or (2, out, groups): steps, then zero points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from spectra.errors import UsageError
from spectra.quant.quantizer import FULL_BITS, Quantizer
from spectra.quant.registry import register

STEP_MIN, STEP_MAX = 1e-4, 1e4
_CODES = ("trained", "fixed")
_PAIR = 3  # dimensions of steps and zero points together


@register
@dataclass(frozen=True)
class EfficientQAT(Quantizer):
    """Group-wise asymmetric grid with learned steps and zero points.

    Attributes:
        group_size: Weights of a row that share a step; −1 for whole rows.
        codes: "trained": integers follow the weights; "fixed": they stay, and ∂Ŵ/∂s is the integer.
        clamp_steps: Whether steps are kept in [1e-4, 1e4].
    """

    name: ClassVar[str] = "efficientqat"
    supported_bits: ClassVar[tuple[float, ...]] = (2, 3, 4)
    has_zero: ClassVar[bool] = True

    group_size: int = 64
    codes: str = "trained"
    clamp_steps: bool = True

    def __post_init__(self) -> None:
        size = self.group_size
        if isinstance(size, bool) or not isinstance(size, int) or not (size > 0 or size == -1):
            raise UsageError(
                f"group_size={size!r} is no number of weights; pass 64 or 128, or -1 "
                "for whole rows."
            )
        if self.codes not in _CODES:
            raise UsageError(f"codes={self.codes!r} is not known; pass 'trained' or 'fixed'.")

    def grid(self, bits: float) -> tuple[float, ...]:
        """Return the levels in units of the step for the zero point in the middle, ascending."""
        middle = 2 ** (round(bits) - 1)
        return tuple(float(code) for code in range(-middle, middle))

    def groups(self, columns: int) -> int:
        """Return how many groups a row of `columns` weights has.

        Raises:
            UsageError: If the groups do not fill it.
        """
        size = columns if self.group_size == -1 else min(self.group_size, columns)
        if columns % size:
            raise UsageError(
                f"group_size={size} does not divide a row of {columns} weights; pass a divisor, or "
                "-1 for whole rows."
            )
        return columns // size

    def start(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Return (max w − min w)/q, clamped, (out, groups)."""
        low, high = self._extremes(weight)
        step: torch.Tensor = (high - low) / (2 ** round(bits) - 1)
        return step.clamp(STEP_MIN, STEP_MAX)

    def scale_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Return (out, groups)."""
        return rows, self.groups(columns)

    @property
    def scale_floor(self) -> float:
        """The least step that works as itself."""
        return STEP_MIN if self.clamp_steps else -math.inf

    def initial_zero(self, weight: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return −⌊min w / s⌉, (out, groups), as the public code: not clamped, integers."""
        self.check_bits(bits)
        wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        zero: torch.Tensor = -(self._extremes(wide)[0] / self.steps(scale.detach())).round()
        return zero

    def code(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ/s for w/s, the zero point in the middle."""
        middle = 2 ** (round(bits) - 1)
        return s.round().clamp(-middle, middle - 1)

    def inside(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return where the gradient passes, the zero point in the middle."""
        return s.round() == self.code(s, bits)

    def value(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ, not differentiable."""
        ratio, low, high, step = self._parts(x, scale, bits)
        return (ratio.round().clamp(low, high) * step).reshape(x.shape)

    def mask(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return M, boolean, the shape of `x`."""
        self.check_bits(bits)
        if bits == FULL_BITS:
            return torch.ones_like(x, dtype=torch.bool)
        dtype = torch.promote_types(x.dtype, scale.dtype)
        ratio, low, high, _ = self._parts(x.to(dtype), scale.to(dtype), bits)
        rounded = ratio.round()
        return ((rounded >= low) & (rounded <= high)).reshape(x.shape)

    def level(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the stored code, 0 to q, the shape of `x`."""
        ratio, low, high, _ = self._parts(x, scale, bits)
        return (ratio.round().clamp(low, high) - low).reshape(x.shape)

    def at_level(self, level: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ of these codes, 0 to q, the inverse of `level`."""
        grouped, low, _, step = self._parts(level.to(scale.dtype), scale, bits, raw=True)
        return ((grouped + low) * step).reshape(level.shape)

    def slope(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return ∂Ŵ/∂s, the shape of `x`."""
        ratio, low, high, _ = self._parts(x, scale, bits)
        rounded = ratio.round()
        code = rounded.clamp(low, high)
        if self.codes == "trained":
            code = torch.where(rounded == code, code - ratio, code)
        return code.reshape(x.shape)

    def scale_gradient(
        self, x: torch.Tensor, scale: torch.Tensor, bits: float, g: torch.Tensor
    ) -> torch.Tensor:
        """Return ∂L/∂s, or ∂L/∂s and ∂L/∂z stacked, the shape of `scale`, for g = ∂L/∂Ŵ."""
        ratio, low, high, step = self._parts(x, scale, bits)
        grouped = g.reshape(ratio.shape)
        steps = (self.slope(x, scale, bits) * g).reshape(ratio.shape).sum(-1)
        if scale.ndim < _PAIR:
            return steps.sum_to_size(scale.shape)
        rounded = ratio.round()
        outside = (rounded < low) | (rounded > high)
        zeros = torch.where(outside, -step * grouped, 0.0).sum(-1)
        return torch.stack([steps, zeros]).sum_to_size(scale.shape)

    def gradient_scale(self, size: int, bits: float) -> float:
        """Return 1: gradients are not rescaled."""
        del size, bits
        return 1.0

    def _extremes(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = weight.shape
        grouped = weight.reshape(rows, self.groups(columns), -1)
        return grouped.amin(dim=-1), grouped.amax(dim=-1)

    def steps(self, step: torch.Tensor) -> torch.Tensor:
        """Return the steps as they are multiplied with."""
        return step.clamp(STEP_MIN, STEP_MAX) if self.clamp_steps else step

    def _parts(
        self, x: torch.Tensor, scale: torch.Tensor, bits: float, *, raw: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return w/s (out, groups, size), or w if `raw`, and l, h, s, (out, groups, 1)."""
        top = 2 ** round(bits) - 1
        if scale.ndim == _PAIR:
            step, zero = scale[0], scale[1].round().clamp(0, top)
        else:
            step, zero = scale, torch.full_like(scale, 2 ** (round(bits) - 1))
        step = self.steps(step)[..., None]
        grouped = x.reshape(x.shape[0], scale.shape[-1], -1)
        ratio = grouped if raw else grouped / torch.where(step == 0, 1.0, step)
        return ratio, -zero[..., None], top - zero[..., None], step
