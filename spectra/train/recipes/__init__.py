"""What changes in the training loop, one file a recipe; each a `transformers.TrainerCallback`."""

from spectra.train.recipes.baseline import Baseline
from spectra.train.recipes.block_ap import BlockAP
from spectra.train.recipes.cage import Cage
from spectra.train.recipes.combined import Combined
from spectra.train.recipes.distill import Distill
from spectra.train.recipes.dts import DTS
from spectra.train.recipes.e2e_qp import E2EQP
from spectra.train.recipes.recipe import Recipe
from spectra.train.recipes.winq import WinQ

RECIPES = {recipe.name: recipe for recipe in (Baseline, WinQ, Cage, Distill, DTS, BlockAP, E2EQP)}

__all__ = [
    "DTS",
    "E2EQP",
    "RECIPES",
    "Baseline",
    "BlockAP",
    "Cage",
    "Combined",
    "Distill",
    "Recipe",
    "WinQ",
]
