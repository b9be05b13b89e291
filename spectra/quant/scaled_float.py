"""Weights in an 8-bit floating-point format with one scale for a tensor, and what goes with it.

    Ŵ = a · round(W/a),   ∂Ŵ/∂W = 1        round: to the format's nearest value

The scale is that of `spectra.quant.scaling`: with the layer's history where there is one, else of
the weights themselves. It has no floor: gradients and E5M2 need scales far below 1e-5. `a_bits` 8
puts the inputs of the layers into the same format, `g_bits` 8 the gradients of their outputs, both
tensor by tensor; 16 leaves them. Gradients are quantized in training mode alone: they are part of
how a step is taken, not of the loss, and its curvature knows nothing of them.

`only` and `exclude` are globs over the names of the linear layers, separated by commas; what they,
`skip_first` or `skip_last` (blocks) leave out stays a plain layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch

from spectra.errors import UsageError, nearest
from spectra.quant.delayed import DelayedScaling
from spectra.quant.floats import Format
from spectra.quant.quantizer import FULL_BITS, Quantizer
from spectra.quant.scaling import (
    POLICIES,
    SATURATE,
    WINDOWS,
    Scaling,
    largest,
)

WIDTH = 8
MOST_HISTORY, MOST_MARGIN = 65_536, 16
ROUNDINGS = ("nearest", "stochastic")


@dataclass(frozen=True)
class ScaledFloat(Quantizer):
    """Base of the floating-point quantizers; subclasses name their formats.

    Attributes:
        policy: What of the history sets the scale: max, most_recent, mean, or current.
        history: Entries of the history.
        window: What an entry is: steps, or calls.
        target: Where the largest entry lands; 0 for the format's own.
        margin: Powers of two kept free above it.
        saturate: What overflows becomes: format (its largest value), target, or none (infinity).
        g_bits: Width of the gradients of the outputs: 8, or 16 for none.
        g_rounding: How they are rounded: nearest, or stochastic (the hybrid rule).
        only: Globs of the layers that are quantized; empty for all.
        exclude: Globs of layers that are not.
        skip_first: Blocks at the beginning that are not quantized.
        skip_last: Blocks at the end that are not quantized.
    """

    supported_bits: ClassVar[tuple[float, ...]] = (WIDTH,)
    learns_scale: ClassVar[bool] = False
    own_a_bits: ClassVar[tuple[int, ...]] = (WIDTH,)
    format: ClassVar[Format]
    gradient_format: ClassVar[Format]

    policy: str = "max"
    history: int = 64
    window: str = "steps"
    target: float = 0.0
    margin: int = 0
    saturate: str = "format"
    g_bits: int = FULL_BITS
    g_rounding: str = "nearest"
    only: str = ""
    exclude: str = ""
    skip_first: int = 0
    skip_last: int = 0

    def __post_init__(self) -> None:
        choices = {"policy": POLICIES, "window": WINDOWS, "saturate": SATURATE}
        for name, known in (choices | {"g_rounding": ROUNDINGS}).items():
            value = getattr(self, name)
            if value not in known:
                raise UsageError(
                    f"{name}={value!r} is not one of {', '.join(known)}{nearest(str(value), known)}"
                )
        for name, least in (("history", 1), ("skip_first", 0), ("skip_last", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{name}={value!r} is no count; pass an integer from {least}.")
        if self.history > MOST_HISTORY:
            raise UsageError(
                f"history={self.history} entries are kept for every tensor; pass at most "
                f"{MOST_HISTORY}, as 64."
            )
        if not 1 <= (self.target or self.format.target) <= self.format.largest:
            raise UsageError(
                f"target={self.target:g} is outside the range of {self.format.name}; pass a number "
                f"from 1 to {self.format.largest:g}, or leave it out for {self.format.target:g}."
            )
        if abs(self.margin) > MOST_MARGIN:
            raise UsageError(
                f"margin={self.margin} binades leave nothing of the range of {self.format.name}; "
                f"pass a number between -{MOST_MARGIN} and {MOST_MARGIN}, as 0."
            )
        if self.g_bits not in (WIDTH, FULL_BITS):
            raise UsageError(f"g_bits={self.g_bits!r} is not defined; pass {WIDTH} or {FULL_BITS}.")
        if self.g_rounding == "stochastic" and not self.gradient_format.stochastic:
            raise UsageError(
                f"g_rounding='stochastic' is not defined for {self.gradient_format.name}; pass "
                "'nearest'."
            )
        if self.saturate == "none" and not self.format.infinite:
            raise UsageError(
                f"saturate='none' needs a format with infinity that is read so; {self.format.name} "
                "saturates: pass 'format' or 'target'."
            )

    def selects(self, name: str, block: int | None, blocks: int) -> bool:
        """Return whether the layer `name` of block `block` among `blocks` is quantized."""
        if self.only and not _matches(name, self.only):
            return False
        if self.exclude and _matches(name, self.exclude):
            return False
        return block is None or self.skip_first <= block < blocks - self.skip_last

    def scaling(self) -> Scaling:
        """Return how weights and inputs are scaled."""
        return self._scaling(self.format, self.target)

    def gradient_scaling(self) -> Scaling:
        """Return how gradients are scaled."""
        same = self.gradient_format is self.format
        return self._scaling(self.gradient_format, self.target if same else 0.0)

    def layer_state(self, like: torch.Tensor, w_bits: float, a_bits: float) -> DelayedScaling:
        """Return the histories of a layer with weight `like`."""
        return DelayedScaling(
            like,
            weights=None if w_bits == FULL_BITS else self.scaling(),
            inputs=None if a_bits == FULL_BITS else self.scaling(),
            gradients=None if self.g_bits == FULL_BITS else self.gradient_scaling(),
            stochastic=self.g_rounding == "stochastic",
        )

    def grid(self, bits: float) -> tuple[float, ...]:
        """Return the levels in units of the scale, ascending."""
        del bits
        top = self.scaling().target if self.saturate == "target" else self.format.largest
        return tuple(level for level in self.format.levels() if abs(level) <= top)

    def start(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Return a of the weights themselves, the same for every row, (out, 1)."""
        del bits
        scaling = self.scaling()
        return scaling.step(scaling.limit(largest(weight))).expand(*weight.shape[:-1], 1)

    def initial_scale(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the scale (out, 1) of a full-precision weight, at least in float32, no floor."""
        self.check_bits(bits)
        wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        return torch.ones_like(wide[..., :1]) if bits == FULL_BITS else self.start(wide, bits)

    def units(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Return s = x/a."""
        return x / scale

    def value(self, x: torch.Tensor, scale: torch.Tensor, bits: float) -> torch.Tensor:
        """Return Ŵ, not differentiable."""
        return self.code(x / scale, bits) * scale

    def code(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the rounded s."""
        del bits
        return self.scaling().codes(s)

    def inside(self, s: torch.Tensor, bits: float) -> torch.Tensor:
        """Return all true: the gradient passes everywhere."""
        del bits
        return torch.ones_like(s, dtype=torch.bool)

    def _scaling(self, chosen: Format, target: float) -> Scaling:
        return Scaling(
            chosen,
            target=target or chosen.target,
            margin=self.margin,
            policy=self.policy,
            history=self.history,
            window=self.window,
            saturate=self.saturate,
        )


def _matches(name: str, globs: str) -> bool:
    return any(fnmatchcase(name, glob.strip()) for glob in globs.split(",") if glob.strip())
