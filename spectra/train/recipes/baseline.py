"""Quantization-aware training as it is: the straight-through gradient and nothing else."""

from __future__ import annotations

from spectra.train.recipes.recipe import Recipe


class Baseline(Recipe):
    """Changes nothing."""

    name = "baseline"
