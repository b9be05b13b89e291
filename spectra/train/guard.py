"""Stop a run whose gradients are no longer numbers, before they reach the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainerCallback

from spectra.errors import NumericalError
from spectra.train.saving import last_complete


class FiniteGuard(TrainerCallback):  # type: ignore[misc]
    """Raises at the first optimizer step whose gradients are NaN or infinite.

    The Trainer hides a NaN loss from its log and goes on. Gradients are looked at after they were
    averaged over ranks, so all ranks stop together. Under float16 loss scaling infinite gradients
    are part of the method; there the logged loss is watched instead.
    """

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the gradients of the step that is about to be taken."""
        del control
        if args.fp16:
            return
        found = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(found) if found else torch.zeros(())
        if not math.isfinite(float(norm)):
            raise self._stop(args, state.global_step + 1, "the gradient")

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the logged loss."""
        del control
        loss = (kwargs.get("logs") or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise self._stop(args, state.global_step, "the training loss")

    def _stop(self, args: Any, step: int, what: str) -> NumericalError:
        good = last_complete(args.output_dir)
        kept = (
            f"the last checkpoint from before it is {good}"
            if good is not None
            else "no checkpoint had been saved"
        )
        return NumericalError(
            f"{what} at step {step} is NaN or infinite, so training stops before it reaches the "
            f"weights; {kept}: lower --learning_rate or --noise_std, or set --max_grad_norm."
        )
