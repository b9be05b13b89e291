"""Several recipes in one run, "winq+cage": each does what it does alone, in the order of the name.

Within an optimizer step, CAGE pulls or changes gradients before the move and WinQ resets after it,
so neither needs to know of the other. The name tells what ran, in files, tables and figures; a
recipe is never switched on by one of its settings alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from spectra.train.recipes.recipe import Recipe, Resets

SEPARATOR = "+"


class Combined(Recipe):
    """Several recipes as one.

    Args:
        recipes: At least two, of different names.
    """

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        self._parts = tuple(recipes)
        self.name = SEPARATOR.join(recipe.name for recipe in recipes)

    @property
    def parts(self) -> tuple[Recipe, ...]:
        """The recipes."""
        return self._parts

    @property
    def moves_weights(self) -> bool:
        """Whether one of them moves weights."""
        return any(recipe.moves_weights for recipe in self._parts)

    def check(self, arguments: Any) -> None:
        """Refuse what one of them refuses."""
        for recipe in self._parts:
            recipe.check(arguments)

    def setup(self, model: nn.Module, seed: int) -> None:
        """Change the model as each does."""
        for recipe in self._parts:
            recipe.setup(model, seed)

    def join(self, trainer: Any) -> None:
        """Change the Trainer as each does."""
        for recipe in self._parts:
            recipe.join(trainer)

    def plan(self, total_steps: int) -> None:
        """Tell each the length of the run."""
        for recipe in self._parts:
            recipe.plan(total_steps)

    def settings(self) -> dict[str, Any]:
        """Return the settings of all."""
        return {key: value for recipe in self._parts for key, value in recipe.settings().items()}

    def resets(self, step: int) -> Resets:
        """Return the resets of the one that has any."""
        found = [recipe.resets(step) for recipe in self._parts]
        return max(found, key=lambda resets: resets.count)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the event on."""
        self._each("on_train_begin", args, state, control, kwargs)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the event on."""
        self._each("on_step_begin", args, state, control, kwargs)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the event on."""
        self._each("on_substep_end", args, state, control, kwargs)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the event on."""
        self._each("on_pre_optimizer_step", args, state, control, kwargs)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the event on."""
        self._each("on_optimizer_step", args, state, control, kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the event on."""
        self._each("on_step_end", args, state, control, kwargs)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the event on."""
        self._each("on_log", args, state, control, kwargs)

    def _each(self, event: str, args: Any, state: Any, control: Any, kwargs: Any) -> None:
        for recipe in self._parts:
            getattr(recipe, event)(args, state, control, **kwargs)
