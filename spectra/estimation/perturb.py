"""Evaluate a checkpoint elsewhere than where it is: nearer to its grid, or with noise.

    toward_grid f     W ← (1 − f) W + f Q(W): the interpolation of arXiv 2605.17471, and the reset
                      of its training. Learned scales a stay, so that Q(W) does not move;
    rederive_scales   then a ← a₀(W), the scale that training would start from at the moved weights
                      (for quantizers that learn none this is always so);
    noisy_weights σ   then W ← W + σ U and a ← a + σ u before quantization, one σ for both, U and u
                      standard Gaussian: one draw of the noise that the same paper trains with. A
                      checkpoint without quantizer gets it on the selected parameters alone.

With frozen scales Q(W) is that of the checkpoint, so on the surfaces `ste` and `quantized` a move
toward the grid acts through the clip mask alone: not at all at 1, 3 and 4 bits for f < 1. At f = 1
clipped weights land on the outermost level, which lies inside the mask or on its bound, where an
inclusive bound opens it. On `latent` the whole spectrum moves.

In this order. The model is changed in place; Q(W) and mask are those of the changed model. Noise is
drawn on the CPU, in float32, from generators seeded by the run's seed and the position of the
tensor: it is the same on every device. It is rounded to the type of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from spectra import quant
from spectra.curvature import fake_quantized, select_parameters
from spectra.errors import UsageError

_WEIGHT, _SCALE = 0, 1


@dataclass(frozen=True)
class Displacement:
    """What is done to the weights before they are differentiated.

    Attributes:
        toward_grid: f; None for the weights as they are.
        rederive_scales: Whether scales are derived anew from the moved weights.
        noisy_weights: σ; None for no noise.
        seed: Of the noise.

    Raises:
        UsageError: If a value is out of range, or scales are to be derived anew without a move.
    """

    toward_grid: float | None = None
    rederive_scales: bool = False
    noisy_weights: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        f, sigma = self.toward_grid, self.noisy_weights
        if f is not None and not 0 <= f <= 1:
            raise UsageError(
                f"toward_grid={f!r} is outside [0, 1]; pass the fraction of the way from W to "
                "Q(W), such as 0.4."
            )
        if sigma is not None and not (math.isfinite(sigma) and sigma >= 0):
            raise UsageError(
                f"noisy_weights={sigma!r} is no standard deviation; pass a number from 0, as 0.001."
            )
        if self.rederive_scales and f is None:
            raise UsageError(
                "rederive_scales derives scales from moved weights, and nothing moves them; pass "
                "toward_grid with it (0 leaves the weights where they are)."
            )

    def apply_(self, model: nn.Module, params: str) -> tuple[dict[str, Any], list[str]]:
        """Change `model` in place; return the record's `point` section and notes.

        Args:
            model: Its quantized layers are those of `spectra.quant`.
            params: The selection, which noise on a float model is confined to.

        Raises:
            UsageError: If the model has no quantizer, or learns no scale, where one is needed.
        """
        notes: list[str] = []
        rederived: bool | None = None
        layers = quant.quant_layers(model) if fake_quantized(model) else {}
        if self.toward_grid is not None:
            if not layers:
                raise UsageError(
                    f"toward_grid={self.toward_grid:g} moves weights toward their quantized "
                    "values, and this checkpoint has no quantizer; pass --quantizer and --w_bits."
                )
            quant.reset_(model, self.toward_grid)
            rederived = self._scales(model, layers, notes)
        if self.noisy_weights is not None:
            self._add_noise(layers, model, params)
            where = "all quantized weights and learned scales" if layers else "the selected weights"
            notes.append(f"one draw of noise, σ = {self.noisy_weights:g}, on {where}")
        return {
            "toward_grid": self.toward_grid,
            "rederived_scales": rederived,
            "noisy_weights": self.noisy_weights,
        }, notes

    def _scales(
        self, model: nn.Module, layers: dict[str, quant.QuantLinear], notes: list[str]
    ) -> bool:
        learned = [layer for layer in layers.values() if layer.scale is not None]
        if not learned:
            name = next(iter(layers.values())).spec.quantizer
            if self.rederive_scales:
                raise UsageError(
                    f"rederive_scales has nothing to do: {name} learns no scale and derives it "
                    "from the weights, or their history, in every forward; leave it out."
                )
            if quant.amax_histories(model):
                notes.append(f"the scales of {name} stay those of its amax histories, where stored")
                return False
            notes.append(f"{name} learns no scale: it follows the moved weights")
            return True
        if self.rederive_scales:
            for layer in learned:
                layer.rederive_scale_()
        return self.rederive_scales

    @torch.no_grad()
    def _add_noise(
        self, layers: dict[str, quant.QuantLinear], model: nn.Module, params: str
    ) -> None:
        for index, what, tensor in _noisy(layers, model, params):
            sequence = np.random.SeedSequence(self.seed, spawn_key=(index, what))
            generator = np.random.Generator(np.random.Philox(sequence))
            unit = torch.from_numpy(generator.standard_normal(tensor.shape, dtype=np.float32))
            wide = torch.promote_types(tensor.dtype, torch.float32)
            unit = unit.to(tensor.device, wide).mul_(self.noisy_weights or 0.0)
            tensor.copy_(tensor.to(wide) + unit)


def _noisy(
    layers: dict[str, quant.QuantLinear], model: nn.Module, params: str
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield position, kind and tensor of everything that noise is added to."""
    if layers:
        for index, layer in enumerate(layers.values()):
            yield index, _WEIGHT, layer.weight
            if layer.scale is not None:
                yield index, _SCALE, layer.scale
        return
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for index, name in enumerate(select_parameters(model, params).names):
        yield index, _WEIGHT, parameters[name]
