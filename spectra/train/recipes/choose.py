"""What a request says about the recipe -> the recipe, or one clear sentence."""

from __future__ import annotations

from spectra.errors import UsageError, nearest
from spectra.quant import Noise
from spectra.train.recipes import RECIPES, BlockAP, Recipe, WinQ
from spectra.train.request import TrainRequest

DEFAULT_NOISE = 1e-3
DEFAULT_FRACTION = 0.4


def build_recipe(request: TrainRequest) -> Recipe:
    """Return the recipe that a request asks for.

    Raises:
        UsageError: If it is not known, or a setting is of another recipe or out of range.
    """
    if request.recipe not in RECIPES:
        raise UsageError(
            f"recipe={request.recipe!r} is not one of {', '.join(RECIPES)}"
            f"{nearest(request.recipe, RECIPES)}"
        )
    if request.recipe != BlockAP.name:
        _refuse_blocks(request)
    if request.recipe != WinQ.name:
        _refuse_foreign(request)
    if request.recipe == BlockAP.name:
        return BlockAP(request.quant_learning_rate, request.calibration_blocks)
    if request.recipe != WinQ.name:
        return RECIPES[request.recipe]()
    fraction = request.reset_fraction
    if request.winq_alpha is not None:
        if fraction is not None:
            raise UsageError(
                f"reset_fraction={fraction} and winq_alpha={request.winq_alpha} say the same thing "
                "in opposite directions; pass one of them."
            )
        fraction = WinQ.from_public_alpha(request.winq_alpha)
    std = DEFAULT_NOISE if request.noise_std is None else request.noise_std
    scale_std = std if request.scale_noise_std is None else request.scale_noise_std
    noise = Noise(
        weight_std=std,
        scale_std=scale_std,
        place=request.noise_place,
        frozen=request.noise_frozen,
        trainable=request.noise_trainable,
    )
    silent = std == 0 and scale_std == 0 and not noise.trainable
    return WinQ(
        request.reset_every,
        DEFAULT_FRACTION if fraction is None else fraction,
        None if silent else noise,
        save_before_reset=request.save_before_reset,
    )


def _refuse_blocks(request: TrainRequest) -> None:
    for name in ("quant_learning_rate", "calibration_blocks"):
        value = getattr(request, name)
        if value is not None:
            raise UsageError(
                f"{name}={value} belongs to --recipe block-ap, and recipe={request.recipe!r} has "
                "one learning rate and trains on all its text; leave it out."
            )


def _refuse_foreign(request: TrainRequest) -> None:
    usual = TrainRequest()
    for name in (
        "reset_every",
        "reset_fraction",
        "winq_alpha",
        "noise_std",
        "scale_noise_std",
        "noise_place",
        "noise_frozen",
        "noise_trainable",
        "save_before_reset",
    ):
        value = getattr(request, name)
        if value != getattr(usual, name):
            raise UsageError(
                f"{name}={value} belongs to --recipe winq, and recipe={request.recipe!r} has "
                "neither resets nor noise; pass --recipe winq, or leave it out."
            )
