"""Delayed tensor scaling (arXiv 2605.26189): plain steps first, then 8-bit floats from cold.

For the first N optimizer steps the quantizers are off, weights, activations and gradients alike:
plain steps, in bfloat16 under autocast. Then the amax histories are emptied and quantization
begins; what follows is quantization-aware training as it is. The histories themselves advance under
every recipe (`spectra.train.scaling`). The paper's N is 500 of 10,000 steps, a twentieth.

Evaluations and checkpoints are of the quantized model throughout. During the plain steps their
histories are empty, so that every tensor is scaled by itself.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from spectra.errors import UsageError
from spectra.quant import amax_histories, quant_layers
from spectra.train.recipes.recipe import Recipe

SHARE = 20  # one plain step in twenty, where nothing else is asked


class DTS(Recipe):
    """Plain steps before 8-bit floating-point training.

    Args:
        plain_steps: N; None for a twentieth of the run.

    Raises:
        UsageError: If `plain_steps` is negative.
    """

    name = "dts"

    def __init__(self, plain_steps: int | None = None) -> None:
        if plain_steps is not None and plain_steps < 0:
            raise UsageError(f"plain_steps={plain_steps} is negative; pass 0 for none.")
        self.plain_steps = plain_steps

    def setup(self, model: nn.Module, seed: int) -> None:
        """Check that there are scales to be delayed.

        Raises:
            UsageError: If the quantizer has none.
        """
        del seed
        spec = next(iter(quant_layers(model).values())).spec
        if not spec.build().own_a_bits:
            raise UsageError(
                f"recipe='dts' is delayed tensor scaling, and the quantizer {spec.quantizer!r} has "
                "no amax history; pass --quantizer hif8, fp8_e4m3 or fp8_e5m2, or another recipe."
            )

    def plan(self, total_steps: int) -> None:
        """Settle the plain steps of a run of `total_steps`."""
        if self.plain_steps is None:
            self.plain_steps = total_steps // SHARE
        if self.plain_steps >= total_steps:
            raise UsageError(
                f"plain_steps={self.plain_steps} leaves none of the {total_steps} steps to "
                "quantize; pass fewer."
            )

    def settings(self) -> dict[str, Any]:
        """Return the settings of the recipe."""
        return {"plain_steps": self.plain_steps}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Switch quantization off for a plain step; empty the histories after the last one."""
        del args, control
        model, plain = kwargs["model"], self.plain_steps or 0
        if state.global_step < plain:
            for layer in quant_layers(model).values():
                layer.bypass = "all"
        elif state.global_step == plain > 0:
            for history in amax_histories(model).values():
                history.clear()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Switch quantization on again: what is evaluated and saved is the quantized model."""
        del args, control
        if state.global_step <= (self.plain_steps or 0):
            for layer in quant_layers(kwargs["model"]).values():
                layer.bypass = "none"
