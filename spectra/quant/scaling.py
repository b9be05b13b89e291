"""Delayed tensor scaling: one scale for a tensor, from the largest entries of earlier steps.

A format of 8 bits has few digits, so a tensor x is moved to where they are:

    x̂ = a · round(x / a),   a = (amax + ε) 2^margin / target,   amax = policy(max|x| of the past H)

`target` is where the largest entry lands: 15 for HiF8, the top of its 3-bit tier (arXiv
2605.26189, with ε = 1e-12), the largest value for FP8 (Transformer Engine's delayed scaling, which
also has the margin; ε = 0). Policies: "max" of the window, "most_recent", "mean", or "current",
which looks at x itself. With an empty history every policy does (cold start). An amax that is not
finite or not positive works as 1. The scale is a constant of every derivative, and the estimator
passes all gradients: x̂ has derivative 1 where it saturates, too.

The window counts optimizer steps: an entry is the largest |x| of all micro-batches on all ranks,
and the scale stands still within a step. "calls" is what the public code of 2605.26189 does:
an entry a forward, eight of which may be one step.

Histories are written in training mode alone, so evaluation and second derivatives leave them as
they are. A weight, an input and (at g_bits 8) an output gradient of a layer have one each.

Legend: H entries of a history, newest first, −1 where there is none yet; limit = (amax + ε)
2^margin, beyond which x/a exceeds the target; r = max|x| / limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from spectra.quant.floats import Format

POLICIES = ("max", "most_recent", "mean", "current")
WINDOWS = ("steps", "calls")
SATURATE = ("format", "target", "none")
EMPTY = -1.0


@dataclass(frozen=True)
class Scaling:
    """How one kind of tensor is scaled and rounded.

    Attributes:
        format: The format.
        target: Where the largest entry lands.
        margin: Powers of two kept free above it.
        policy: What of the history counts, one of POLICIES.
        history: H.
        window: What an entry of the history is, "steps" or "calls".
        saturate: What becomes of what overflows: the format's largest value ("format"), the target
            of everything beyond it ("target"), or infinity ("none").
    """

    format: Format
    target: float
    margin: int = 0
    policy: str = "max"
    history: int = 64
    window: str = "steps"
    saturate: str = "format"

    def limit(self, amax: torch.Tensor) -> torch.Tensor:
        """Return the largest |x| that stays within the target, for an amax of any shape."""
        usable = torch.isfinite(amax) & (amax > 0)
        amax = torch.where(usable, amax, torch.ones_like(amax))
        return (amax + self.format.epsilon) * 2.0**self.margin

    def step(self, limit: torch.Tensor) -> torch.Tensor:
        """Return a, what divides x."""
        return (limit / self.target).clamp_min(torch.finfo(limit.dtype).tiny)

    def values(
        self, x: torch.Tensor, a: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Return x̂, at least in float32, not differentiable."""
        return self.codes(x.to(torch.promote_types(x.dtype, a.dtype)) / a, generator) * a

    def codes(self, s: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return the rounded s = x/a."""
        if self.saturate == "target":
            s = s.clamp(-self.target, self.target)
        return self.format.rounding(s, self.saturate != "none", generator)


class AmaxHistory(nn.Module):
    """The history of one tensor, saved with the model, and what happened since the last log.

    Attributes:
        scaling: How the tensor is scaled.
        amax: (H,), a buffer.
        pending: Largest |x| since the last step, 0-dimensional; None if there was no call.
        counts: Calls, calls with r > 1, entries, entries beyond the limit, since `forget_counts`.
        ratio: Largest r since then.
    """

    amax: torch.Tensor

    def __init__(self, scaling: Scaling, like: torch.Tensor) -> None:
        super().__init__()
        self.scaling = scaling
        wide = torch.promote_types(like.dtype, torch.float32)
        self.register_buffer(
            "amax", torch.full((scaling.history,), EMPTY, dtype=wide).to(like.device)
        )
        # No buffer: data-parallel training would overwrite it with another rank's.
        self.pending: torch.Tensor | None = None
        self.counts: torch.Tensor | None = None
        self.ratio: torch.Tensor | None = None

    def limit(self, current: torch.Tensor) -> torch.Tensor:
        """Return the limit for a tensor whose largest |x| is `current`, 0-dimensional."""
        if self.scaling.policy == "current":
            return self.scaling.limit(current)
        history = self.amax.to(torch.promote_types(self.amax.dtype, current.dtype))
        empty = history == EMPTY
        if self.scaling.policy == "max":
            known = history.max()
        elif self.scaling.policy == "most_recent":
            known = history[0]
        else:
            known = torch.where(empty, 0.0, history).sum() / (~empty).sum().clamp_min(1)
        return self.scaling.limit(torch.where(empty[0], current.to(known.dtype), known))

    @torch.no_grad()
    def step(self, x: torch.Tensor, *, record: bool) -> torch.Tensor:
        """Return a for the tensor `x`, 0-dimensional, and note its largest entry if told to."""
        current = largest(x)
        limit = self.limit(current)
        if record:
            self._observe(x, current, limit)
        return self.scaling.step(limit)

    @torch.no_grad()
    def advance(self, amax: torch.Tensor | None = None) -> None:
        """Begin a new entry, of `amax` or else of what is pending; nothing where that is empty."""
        entry = self.seen() if amax is None else amax
        self.pending = None
        if self.scaling.window == "steps":
            self._push(entry)

    def seen(self) -> torch.Tensor:
        """Return the largest |x| since the last step, 0-dimensional; −1 if there was no call."""
        empty = torch.full((), EMPTY, dtype=self.amax.dtype, device=self.amax.device)
        return empty if self.pending is None else self.pending.to(empty)

    @torch.no_grad()
    def clear(self) -> None:
        """Forget the history: the next call starts cold."""
        self.amax.fill_(EMPTY)
        self.pending = None

    def forget_counts(self) -> None:
        """Begin the counts anew."""
        self.counts = self.ratio = None

    def age(self) -> int | None:
        """Return for how many entries the maximum of the window has been in it, from 1."""
        known = self.amax[self.amax != EMPTY]
        if not len(known):
            return None
        return int((known == known.max()).int().argmax()) + 1

    def _push(self, entry: torch.Tensor) -> None:
        newest = entry.to(self.amax).reshape(1)
        # Decided on the device: looking would wait for it.
        moved = torch.cat([newest, self.amax[:-1]])
        self.amax.copy_(torch.where(newest == EMPTY, self.amax, moved))

    def _observe(self, x: torch.Tensor, current: torch.Tensor, limit: torch.Tensor) -> None:
        size = x.numel()
        beyond = (x.detach().abs() > limit).sum()
        counts = torch.stack(
            [torch.ones_like(beyond), current > limit, torch.full_like(beyond, size), beyond]
        )
        ratio = (current / limit).double()
        self.counts = counts if self.counts is None else self.counts + counts
        self.ratio = ratio if self.ratio is None else torch.maximum(self.ratio, ratio)
        self.pending = current if self.pending is None else torch.maximum(self.pending, current)
        if self.scaling.window == "calls":
            self._push(current)


def largest(x: torch.Tensor) -> torch.Tensor:
    """Return max|x|, 0-dimensional, at least in float32; 0 of nothing."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if x.numel() == 0:
        return torch.zeros((), dtype=wide, device=x.device)
    return x.detach().abs().amax().to(wide)
