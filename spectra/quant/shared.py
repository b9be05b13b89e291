"""What the quantized layers of one model have in common."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch

from spectra.errors import InputWarning
from spectra.quant.delayed import Moment
from spectra.quant.noise import NoiseState

Version = tuple[int, int]


@dataclass
class Shared:
    """State that all layers of a model read.

    Attributes:
        noise: Where training stands, for the noise.
        floor_told: Whether the warning about floored scales was given.
        moment: Where training stands, for stochastic rounding.
    """

    noise: NoiseState = field(default_factory=NoiseState)
    floor_told: bool = False
    moment: Moment = field(default_factory=Moment)

    def tell_floored(
        self, name: str, scale: torch.Tensor, floor: float, checked: Version | None
    ) -> Version | None:
        """Warn, once for the model, of learned scales that work as the floor.

        Args:
            name: What messages call the layer.
            scale: Its learned scales.
            floor: What lower ones work as.
            checked: What the last call for this layer returned.

        Returns:
            Which state of the scales was looked at; None if that cannot be told.
        """
        if self.floor_told or torch.compiler.is_compiling():
            return checked
        # Looking waits for the device, so it is done once for each update of the scales.
        version = None if scale.is_inference() else (id(scale), scale._version)
        if version is not None and version == checked:
            return checked
        low = ~(scale.detach() > floor)
        if bool(low.any()):
            self.floor_told = True
            warnings.warn(
                f"{int(low.sum())} of {low.numel()} scales of {name} are not above "
                f"{floor:g} (the smallest is {float(scale.detach().min()):g}); they work as "
                f"{floor:g}: check the checkpoint, or lower the learning rate.",
                InputWarning,
                stacklevel=3,
            )
        return version
