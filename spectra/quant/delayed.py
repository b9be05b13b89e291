"""What a layer with scaled floats holds beside its weight: histories, and quantizers of tensors.

Inputs are quantized on the way forward, gradients of outputs on the way back, before both products
that they enter, each by its own history (`spectra.quant.scaling`). Estimators are unmasked and of
every order: x̂ has derivative 1 in x, also where a gradient is differentiated once more.

The thresholds of stochastic rounding are a pure function of where training stands, as the noise of
`spectra.quant.noise` is: a resumed run, or the second forward of activation checkpointing, draws
what the first did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from spectra.quant.noise import generator_of
from spectra.quant.scaling import AmaxHistory, Scaling
from spectra.quant.straight_through import Replace

GRADIENT = 3  # kind of draw, beside those of `spectra.quant.noise.What`


@dataclass
class Moment:
    """Where training stands, for the thresholds of stochastic rounding; shared by all layers.

    Attributes:
        seed: The run's seed.
        step: Number of the optimizer step.
        micro_batch: Index of the micro-batch within the step, over all ranks.
    """

    seed: int = 0
    step: int = 0
    micro_batch: int = 0


class DelayedScaling(nn.Module):
    """What a layer with scaled floats holds beside its weight.

    Attributes:
        weights: History of the weight.
        inputs: History of the inputs, None where they are not quantized.
        gradients: History of the gradients of the outputs, None likewise.
        stochastic: Whether gradients are rounded by the hybrid rule.
        index: Number of the layer in the model.
        moment: Where training stands.
    """

    weights: AmaxHistory | None
    inputs: AmaxHistory | None
    gradients: AmaxHistory | None

    def __init__(
        self,
        like: torch.Tensor,
        *,
        weights: Scaling | None,
        inputs: Scaling | None,
        gradients: Scaling | None,
        stochastic: bool,
    ) -> None:
        super().__init__()
        for name, scaling in (("weights", weights), ("inputs", inputs), ("gradients", gradients)):
            setattr(self, name, None if scaling is None else AmaxHistory(scaling, like))
        self.stochastic, self.index, self.moment = stochastic, 0, Moment()

    def histories(self) -> dict[str, AmaxHistory]:
        """Return the histories by name."""
        return {n: child for n, child in self.named_children() if isinstance(child, AmaxHistory)}

    def quantize_inputs(self, x: torch.Tensor, *, record: bool) -> torch.Tensor:
        """Return x̂ with the gradient of x, the shape and type of `x`."""
        if self.inputs is None or x.numel() == 0:
            return x
        with torch.no_grad():
            a = self.inputs.step(x, record=record)
            quantized = self.inputs.scaling.values(x, a).to(x.dtype)
        return replace(x, quantized)

    def quantize_gradients(self, y: torch.Tensor) -> torch.Tensor:
        """Return y; its gradient is quantized on the way back, and noted."""
        if self.gradients is None or not y.requires_grad or y.numel() == 0:
            return y
        # The place of this forward in the run: the backward may come after others.
        moment = (self.moment.seed, 2, self.moment.step, self.moment.micro_batch)
        words = (*moment, self.index, GRADIENT)
        passed: torch.Tensor = _QuantizedGradient.apply(
            y, _Backward(self.gradients, self._draws(words))
        )  # type: ignore[no-untyped-call]
        return passed

    def _draws(self, words: tuple[int, ...]) -> Callable[[torch.device], torch.Generator] | None:
        if not self.stochastic:
            return None
        return lambda device: generator_of(words, device)


@dataclass
class _Backward:
    """What quantizes a gradient when it comes."""

    history: AmaxHistory
    draws: Callable[[torch.device], torch.Generator] | None = field(default=None)

    def __call__(self, g: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            a = self.history.step(g, record=True)
            generator = None if self.draws is None else self.draws(g.device)
            quantized = self.history.scaling.values(g, a, generator).to(g.dtype)
        return replace(g, quantized)


class _QuantizedGradient(torch.autograd.Function):
    @staticmethod
    def forward(y: torch.Tensor, quantize: _Backward) -> torch.Tensor:
        del quantize
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        del output
        ctx.quantize = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return ctx.quantize(grads[0]), None


def replace(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return `value`, a constant, with the gradient of `x`: the unmasked estimator."""
    replaced: torch.Tensor = Replace.apply(x, value)  # type: ignore[no-untyped-call]
    return replaced
