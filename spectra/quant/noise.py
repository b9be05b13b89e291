"""Noise on weights and scales, a pure function of where training stands.

WinQ (arXiv 2605.17471) trains with the gradient of L(Q(W + U)), U ~ N(0, σ²), applied to W; its
public code also perturbs the scales, one draw for each row. Every draw here comes from a generator
of its own, seeded by

    SeedSequence([seed, frozen, step or resets, micro-batch, layer, what])

so it depends on nothing that ran before. Hence a resumed run continues as if uninterrupted, the
second forward of gradient checkpointing sees the noise of the first, and a micro-batch that counts
over all ranks has the same noise on whichever rank it falls. Frozen noise is the same at every step
until the number of resets changes. It costs no memory.

Draws are made on the device of the weights: a CPU and a GPU run of equal seed differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

from spectra.errors import UsageError

_WORD = 1 << 32
PLACES = ("before", "after", "both")


@dataclass(frozen=True)
class Noise:
    """What is perturbed while a model trains; nothing is in evaluation mode.

    Attributes:
        weight_std: Standard deviation added to each weight, absolute.
        scale_std: Standard deviation added to each learned scale, absolute.
        place: "before" quantization (weights and scales), "after" it (on Q(W), with weight_std),
            or "both".
        frozen: One draw until the next reset, instead of one for each micro-batch.
        trainable: Whether each layer learns its standard deviations, from the given ones.

    Raises:
        UsageError: If a standard deviation is negative or not finite, or the place is not known.
    """

    weight_std: float = 1e-3
    scale_std: float = 1e-3
    place: str = "before"
    frozen: bool = False
    trainable: bool = False

    def __post_init__(self) -> None:
        for name in ("weight_std", "scale_std"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(
                    f"{name}={value!r} is no standard deviation; pass a number from 0, as 0.001."
                )
        if self.place not in PLACES:
            raise UsageError(
                f"noise place={self.place!r} is not known; pass one of {', '.join(PLACES)}."
            )

    @property
    def before(self) -> bool:
        """Whether weights and scales are perturbed before quantization."""
        return self.place in ("before", "both")

    @property
    def after(self) -> bool:
        """Whether quantized weights are perturbed."""
        return self.place in ("after", "both")


@dataclass
class NoiseState:
    """Where training stands; one object shared by all layers of a model.

    The training loop sets it before the forward of a micro-batch and leaves it until that
    micro-batch's backward is done.

    Attributes:
        seed: The run's seed, 0 to 2³² − 1.
        step: Number of the optimizer step.
        micro_batch: Index of the micro-batch within the step, counted over all ranks.
        resets: Number of resets so far; what frozen noise depends on instead of the two above.
    """

    seed: int = 0
    step: int = 0
    micro_batch: int = 0
    resets: int = 0


class What(IntEnum):
    """What a draw is added to."""

    WEIGHT = 0
    SCALE = 1
    QUANTIZED = 2


def draw(
    like: torch.Tensor, state: NoiseState, *, layer: int, what: What, frozen: bool = False
) -> torch.Tensor:
    """Return standard Gaussian noise with the shape, dtype and device of `like`.

    Args:
        like: What the noise will be added to.
        state: Where training stands.
        layer: Index of the layer in the model.
        what: Which of the layer's tensors.
        frozen: Whether the draw depends on `state.resets` instead of step and micro-batch.
    """
    moment = (state.resets, 0) if frozen else (state.step, state.micro_batch)
    words = (state.seed, int(frozen), *moment, layer, int(what))
    for value in words:
        if not 0 <= value < _WORD:  # a longer integer takes two words and could be another key
            raise UsageError(f"{state} holds {value}; pass integers from 0 to 2³² − 1.")
    generator = generator_of(words, like.device)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def generator_of(words: tuple[int, ...], device: torch.device) -> torch.Generator:
    """Return a generator on `device` seeded by integers from 0 to 2³² − 1."""
    seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    return torch.Generator(device=device).manual_seed(seed)
