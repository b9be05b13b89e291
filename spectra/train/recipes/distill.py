"""Distillation from the float model, as in LLM-QAT (arXiv 2305.17888): its logits, nothing else.

    loss = Σ_b Σ_t Σ_v p_btv (log p_btv − log q_btv) / N       p the teacher's, q the student's

over all T positions of each of B sequences; labels play no part. N = B is "batchmean", what the
public code takes: a sum over positions, T times the mean. N = B T is "token". Adam does not care
for the factor; clipping at a fixed norm, and SGD, do.

The teacher is the model before quantization, or any float model with the same vocabulary; it is in
evaluation mode and has no gradient. Held-out loss stays the cross entropy of the text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from spectra.errors import UsageError, nearest
from spectra.train.recipes.recipe import Recipe

REDUCTIONS = ("batchmean", "token")


class Distill(Recipe):
    """The student's next-token distributions follow the teacher's.

    Args:
        teacher: A float causal language model; None for one that is set before training.
        distill_reduction: "batchmean" or "token".

    Raises:
        UsageError: If the reduction is not known.
    """

    name = "distill"

    def __init__(
        self, teacher: nn.Module | None = None, *, distill_reduction: str = "batchmean"
    ) -> None:
        if distill_reduction not in REDUCTIONS:
            raise UsageError(
                f"distill_reduction={distill_reduction!r} is not one of {', '.join(REDUCTIONS)}"
                f"{nearest(distill_reduction, REDUCTIONS)}"
            )
        self.teacher, self.distill_reduction = teacher, distill_reduction
        self.teacher_sha256: str | None = None
        self._joined = False

    def settings(self) -> dict[str, Any]:
        """Return the settings of the recipe."""
        return {
            "distill_reduction": self.distill_reduction,
            "teacher_sha256": self.teacher_sha256,
        }

    def join(self, trainer: Any) -> None:
        """Put the loss in the place of the Trainer's, in training only.

        Raises:
            UsageError: If there is no teacher, or its vocabulary is another.
        """
        teacher = self.teacher
        if teacher is None:
            raise UsageError("recipe='distill' has no teacher; pass Distill(teacher).")
        sizes = [m.get_input_embeddings().num_embeddings for m in (teacher, trainer.model)]  # type: ignore[operator]
        if sizes[0] != sizes[1]:
            raise UsageError(
                f"the teacher has a vocabulary of {sizes[0]} and the model one of {sizes[1]}; "
                "distillation compares them entry by entry: pass a teacher with the same tokens."
            )
        teacher.requires_grad_(False).eval().to(trainer.args.device)
        usual = trainer.compute_loss
        # The loss is a mean over the micro-batch, which the Trainer is to divide by their number.
        trainer.model_accepts_loss_kwargs = False

        def compute_loss(
            model: nn.Module,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            if not model.training:
                return usual(model, inputs, return_outputs, num_items_in_batch)
            ids = inputs["input_ids"]
            with torch.no_grad(), trainer.accelerator.autocast():
                target = teacher(input_ids=ids, use_cache=False).logits
            outputs = model(input_ids=ids, use_cache=False)
            loss = divergence(target, outputs.logits, self.distill_reduction)
            return (loss, outputs) if return_outputs else loss

        trainer.compute_loss = compute_loss
        self._joined = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse to train on another loss than this."""
        if not self._joined:
            raise UsageError(
                "this recipe was given to a Trainer as a callback, which cannot change its loss; "
                "use spectra.train.attach(trainer, recipe)."
            )
        super().on_train_begin(args, state, control, **kwargs)


def divergence(teacher: torch.Tensor, student: torch.Tensor, reduction: str) -> torch.Tensor:
    """Return KL(teacher ‖ student) of logits, a scalar at least in float32.

    Args:
        teacher: Logits (B, T, V), not differentiated.
        student: Logits (B, T, V).
        reduction: "batchmean" divides the sum by B, "token" by B T.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    p, q = (x.to(wide).log_softmax(dim=-1) for x in (teacher.detach(), student))
    total = nn.functional.kl_div(q, p, reduction="sum", log_target=True)
    return total / (len(student) if reduction == "batchmean" else student[..., 0].numel())
