"""Quantization-aware training as it is: the straight-through gradient and nothing else."""

from __future__ import annotations

from typing import ClassVar

from spectra.train.recipes.recipe import Recipe


class Baseline(Recipe):
    """Changes nothing."""

    name: ClassVar[str] = "baseline"
