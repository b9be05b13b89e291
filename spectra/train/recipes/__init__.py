"""What changes in the training loop, one file a recipe; each a `transformers.TrainerCallback`."""

from spectra.train.recipes.baseline import Baseline
from spectra.train.recipes.block_ap import BlockAP
from spectra.train.recipes.e2e_qp import E2EQP
from spectra.train.recipes.recipe import Recipe
from spectra.train.recipes.winq import WinQ

RECIPES = {recipe.name: recipe for recipe in (Baseline, BlockAP, E2EQP, WinQ)}

__all__ = ["E2EQP", "RECIPES", "Baseline", "BlockAP", "Recipe", "WinQ"]
