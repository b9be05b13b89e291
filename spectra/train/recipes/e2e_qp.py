"""E2E-QP, the second phase of EfficientQAT (arXiv 2407.11062): only the step sizes train.

The integers k of the weights and the zero points are fixed, Ŵ = s·k, and the loss of the whole
model moves s, with ∂L/∂s = Σ k g. So the quantizer has `codes="fixed"`, and after each step the
latent weights follow, W ← s·k: rounding them gives k again, and the checkpoint needs nothing else.

The paper: learning rate 2e-5 at 2 bits and 1e-5 at 3 and 4, 4096 sequences of 4096 tokens, batches
of 32, one epoch, gradients clipped to norm 0.3.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from spectra.errors import UsageError
from spectra.quant import quant_layers
from spectra.train.recipes.recipe import Recipe


class E2EQP(Recipe):
    """Fixes the integers and keeps the weights on them."""

    name = "e2e-qp"

    def __init__(self) -> None:
        self._levels: dict[str, torch.Tensor] = {}

    def setup(self, model: nn.Module, seed: int) -> None:
        """Put the weights on their grid and leave only step sizes to train."""
        del seed
        layers = quant_layers(model)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for layer in layers.values():
            options = {field.name for field in fields(layer.quantizer)}
            if "codes" not in options or layer.scale is None:
                raise UsageError(
                    f"recipe='e2e-qp' trains step sizes under fixed integers, which the quantizer "
                    f"{layer.spec.quantizer!r} at {layer.spec.w_bits:g} bits does not have; pass "
                    "--quantizer efficientqat."
                )
            layer.quantizer = replace(layer.quantizer, codes="fixed")  # type: ignore[call-arg]
            layer.reset_(1.0)
            layer.scale.requires_grad_(True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the integers off the weights that the run starts, or goes on, from."""
        super().on_train_begin(args, state, control, **kwargs)
        layers = quant_layers(kwargs["model"])
        self._levels = {name: layer.codes() for name, layer in layers.items()}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the weights follow their steps."""
        del args, state, control
        for name, layer in quant_layers(kwargs["model"]).items():
            layer.set_codes_(self._levels[name])
