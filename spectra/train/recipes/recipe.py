"""What a recipe is: a callback that changes the loop and tells what a checkpoint has seen of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import TrainerCallback


@dataclass(frozen=True)
class Resets:
    """Resets up to some step.

    Attributes:
        count: How many there were.
        steps_since: Steps since the last one, 0 right after it; None if there was none.
    """

    count: int
    steps_since: int | None


class Recipe(TrainerCallback):  # type: ignore[misc]
    """Base of the recipes. All state is a function of the step, so nothing has to be restored.

    Attributes:
        name: What `--recipe` calls it.
    """

    name: str

    @property
    def parts(self) -> tuple[Recipe, ...]:
        """The recipes that this one is made of: itself, unless several were combined."""
        return (self,)

    @property
    def moves_weights(self) -> bool:
        """Whether weights move otherwise than by the optimizer's step."""
        return False

    def check(self, arguments: Any) -> None:
        """Refuse `transformers.TrainingArguments` that the recipe cannot work with.

        Raises:
            UsageError: If a setting of the recipe does not go with them.
        """

    def setup(self, model: nn.Module, seed: int) -> None:
        """Change the model before its optimizer is made."""

    def join(self, trainer: Any) -> None:
        """Change the Trainer, before its optimizer is made."""

    def plan(self, total_steps: int) -> None:
        """Learn how many steps the run has.

        Raises:
            UsageError: If the settings do not fit such a run.
        """

    def settings(self) -> dict[str, Any]:
        """Return what decides a run's numbers, as JSON values."""
        return {}

    def resets(self, step: int) -> Resets:
        """Return the resets that a checkpoint saved at `step` has seen."""
        del step
        return Resets(0, None)

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Change the model of a Trainer that was given this recipe among its callbacks."""
        del state, control
        self.setup(kwargs["model"], args.seed)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Learn the length of the run."""
        del args, control, kwargs
        self.plan(state.max_steps)
