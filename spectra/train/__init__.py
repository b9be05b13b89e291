"""Quantization-aware training by transformers.Trainer, with recipes that compose with quantizers.

`attach` turns any Trainer with a prepared model into such a run; `train` is the whole run that
`spectra train` makes: load, evaluate, train, evaluate, save.
"""

from spectra.train.attach import attach
from spectra.train.evaluation import Evaluation, Heldout, evaluate, heldout
from spectra.train.presets import DEFAULTS, PRESETS, preset
from spectra.train.recipes import (
    DTS,
    RECIPES,
    Baseline,
    Cage,
    Combined,
    Distill,
    Recipe,
    WinQ,
)
from spectra.train.request import TrainRequest
from spectra.train.run import TrainResult, train

__all__ = [
    "DEFAULTS",
    "DTS",
    "PRESETS",
    "RECIPES",
    "Baseline",
    "Cage",
    "Combined",
    "Distill",
    "Evaluation",
    "Heldout",
    "Recipe",
    "TrainRequest",
    "TrainResult",
    "WinQ",
    "attach",
    "evaluate",
    "heldout",
    "preset",
    "train",
]
