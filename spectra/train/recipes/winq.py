"""WinQ (arXiv 2605.17471): resets toward the grid, gradients at noise-injected weights.

Every K optimizer steps the weights move the fraction f of the way to their quantized values,
W ← (1−f) W + f Q(W), with scales, optimizer moments and learning rate as they are; in between, the
gradient of L(Q(W + U)), U ~ N(0, σ²), is applied to W. With frozen scales Q(W) is the same before
and after a reset, so the loss does not move at it, and ‖W − Q(W)‖ shrinks by exactly 1 − f.

f is the paper's α. The public training callback computes W ← αW + (1−α)Q(W), so its α is 1 − f and
the 0.2 of its scripts is f = 0.8; `from_public_alpha` accepts that number.

A reset follows the optimizer step whose number K divides, the last step of a run included (it
changes nothing that is evaluated). The Trainer saves after that, so a checkpoint of such a step
holds the weights after the reset. With `save_before_reset` a reset is instead the first thing of
the next step: the checkpoint holds the weights that the optimizer left, all later numbers are the
same, and a run that ends at a multiple of K ends without a reset.

`reset_from` and `reset_until` keep resets to a stretch of the run: they happen at the multiples of
K between the two, both included.

The noise of micro-batch i on rank r of R is that of global micro-batch iR + r, the order in which
the Trainer deals batches out: any number of ranks takes the step that one would take.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from spectra.errors import InputWarning, UsageError
from spectra.quant import Noise, NoiseState, reset_, set_noise
from spectra.train.recipes.recipe import Recipe, Resets

SHARE = 3  # a reset every third of a run, where nothing else is asked: the paper's 80K of 240K


class WinQ(Recipe):
    """Periodic resets and weight noise.

    Args:
        reset_every: K, optimizer steps between resets; None for a third of the run.
        reset_fraction: f, how far toward the grid; 0 switches resets off.
        noise: What is perturbed in training; None for nothing.
        save_before_reset: Whether a checkpoint of a reset step holds the weights before it.
        reset_from: First step that may have a reset; None for the first.
        reset_until: Last step that may have one; None for the last.

    Raises:
        UsageError: If `reset_every` is not positive, `reset_fraction` outside [0, 1], or the
            stretch empty.
    """

    name = "winq"

    def __init__(
        self,
        reset_every: int | None = None,
        reset_fraction: float = 0.4,
        noise: Noise | None = Noise(),  # noqa: B008 - frozen
        *,
        save_before_reset: bool = False,
        reset_from: int | None = None,
        reset_until: int | None = None,
    ) -> None:
        if reset_every is not None and reset_every < 1:
            raise UsageError(
                f"reset_every={reset_every} is no number of steps; pass at least 1, or "
                "reset_fraction=0 for no resets."
            )
        if not 0 <= reset_fraction <= 1:
            raise UsageError(
                f"reset_fraction={reset_fraction!r} is outside [0, 1]; pass the fraction of the "
                "way toward the grid, such as 0.4."
            )
        if min(reset_from or 0, reset_until or 0) < 0 or (
            reset_until is not None and reset_until < (reset_from or 1)
        ):
            raise UsageError(
                f"reset_from={reset_from}, reset_until={reset_until} leave no step to reset at; "
                "pass steps of the run, the first before the last."
            )
        self.reset_every, self.reset_fraction = reset_every, reset_fraction
        self.noise, self.save_before_reset = noise, save_before_reset
        self.reset_from, self.reset_until = reset_from, reset_until
        self._state: NoiseState | None = None

    @staticmethod
    def from_public_alpha(alpha: float) -> float:
        """Return the reset fraction that the public callback's `alpha` means, 1 − alpha."""
        if not 0 <= alpha <= 1:
            raise UsageError(f"winq_alpha={alpha!r} is outside [0, 1]; the public scripts use 0.2.")
        warnings.warn(
            f"winq_alpha={alpha:g} is the public WinQ callback's, which keeps that share of the "
            f"weights: reset_fraction={1 - alpha:g} of the way toward the grid (the paper's α).",
            InputWarning,
            stacklevel=3,
        )
        return 1 - alpha

    @property
    def moves_weights(self) -> bool:
        """Whether there are resets."""
        return self.reset_fraction > 0

    def setup(self, model: nn.Module, seed: int) -> None:
        """Give the quantized layers their noise."""
        self._state = set_noise(model, self.noise)
        self._state.seed = seed

    def plan(self, total_steps: int) -> None:
        """Settle the interval of a run of `total_steps`."""
        if self.reset_every is None:
            self.reset_every = max(1, total_steps // SHARE)
        if self.reset_fraction > 0 and self._count(total_steps) == 0:
            stretch = f", from {self.reset_from or 1} until {self.reset_until or total_steps},"
            raise UsageError(
                f"reset_every={self.reset_every}"
                f"{stretch if self.reset_from or self.reset_until else ''} is beyond the run of "
                f"{total_steps} steps, so no reset would happen; pass fewer, or reset_fraction=0 "
                "for noise alone."
            )

    def settings(self) -> dict[str, Any]:
        """Return the settings of the recipe."""
        noise = self.noise or Noise(0.0, 0.0)
        return {
            "reset_every": self.reset_every if self.reset_fraction > 0 else None,
            "reset_fraction": self.reset_fraction,
            "reset_from": self.reset_from,
            "reset_until": self.reset_until,
            "save_before_reset": self.save_before_reset,
            "noise_std": noise.weight_std,
            "scale_noise_std": noise.scale_std,
            "noise_place": noise.place,
            "noise_frozen": noise.frozen,
            "noise_trainable": noise.trainable,
        }

    def resets(self, step: int) -> Resets:
        """Return the resets that a checkpoint saved at `step` has seen."""
        every = self._interval
        if every is None:
            return Resets(0, None)
        seen = step - 1 if self.save_before_reset and step > 0 else step
        count = self._count(seen)
        return Resets(count, step - self._last(seen) if count else None)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reset if it was put off to this step, and set the noise of its first micro-batch."""
        del control
        if self.save_before_reset and self._due(state.global_step):
            reset_(kwargs["model"], self.reset_fraction)
        noise = self._noise_state
        noise.step, noise.micro_batch = state.global_step, args.process_index
        noise.resets = self._count(state.global_step)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on to the noise of the next micro-batch."""
        del state, control, kwargs
        self._noise_state.micro_batch += args.world_size

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reset, unless that is put off to the next step."""
        del args, control
        if not self.save_before_reset and self._due(state.global_step):
            reset_(kwargs["model"], self.reset_fraction)

    @property
    def _interval(self) -> int | None:
        return self.reset_every if self.reset_fraction > 0 else None

    @property
    def _noise_state(self) -> NoiseState:
        if self._state is None:
            raise UsageError(
                "this WinQ recipe was added to a Trainer after it was made; use "
                "spectra.train.attach(trainer, recipe), or pass it as one of its callbacks."
            )
        return self._state

    def _due(self, step: int) -> bool:
        return step > 0 and self._count(step) > self._count(step - 1)

    def _last(self, step: int) -> int:
        """Return the last multiple of the interval up to `step` that the stretch allows."""
        every = self._interval or 1
        return min(step, self.reset_until or step) // every * every

    def _count(self, step: int) -> int:
        """Return the number of resets due up to `step`, it included."""
        if self._interval is None:
            return 0
        before = max(0, (self.reset_from or 1) - 1) // self._interval
        return max(0, self._last(step) // self._interval - before)
