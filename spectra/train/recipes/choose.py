"""What a request says about the recipe -> the recipe, or one clear sentence.

Recipes are combined by name, `--recipe winq+cage`; `--distill` adds one. The settings of one that
is not named are refused.
"""

from __future__ import annotations

from collections.abc import Callable

from spectra.errors import UsageError, nearest
from spectra.quant import Noise
from spectra.train.recipes import (
    DTS,
    E2EQP,
    RECIPES,
    Baseline,
    BlockAP,
    Cage,
    Combined,
    Distill,
    Recipe,
    WinQ,
)
from spectra.train.recipes.combined import SEPARATOR
from spectra.train.request import TrainRequest

DEFAULT_NOISE = 1e-3
DEFAULT_FRACTION = 0.4
DEFAULT_LAMBDA = 10.0
DEFAULT_SILENT = 0.8

# The settings of each recipe, and what it has that others have not.
SETTINGS = {
    WinQ.name: (
        (
            "reset_every",
            "reset_fraction",
            "winq_alpha",
            "noise_std",
            "scale_noise_std",
            "noise_place",
            "noise_frozen",
            "noise_trainable",
            "save_before_reset",
            "reset_from",
            "reset_until",
        ),
        "neither resets nor noise",
    ),
    Cage.name: (
        ("cage_lambda", "cage_form", "cage_silent", "cage_ramp", "cage_order"),
        "no pull toward the grid",
    ),
    Distill.name: (("teacher", "distill_reduction"), "no teacher"),
    DTS.name: (("plain_steps",), "quantization from the first step"),
    BlockAP.name: (
        ("quant_learning_rate", "calibration_blocks"),
        "one learning rate and all of its text",
    ),
}
ALONE = (BlockAP.name, E2EQP.name)  # another loop, or other weights that train


def build_recipe(request: TrainRequest) -> Recipe:
    """Return the recipe that a request asks for.

    Raises:
        UsageError: If it is not known, or a setting is of another recipe or out of range.
    """
    names = request.recipe.split(SEPARATOR)
    if request.distill and Distill.name not in names:
        names = [name for name in names if name != Baseline.name] + [Distill.name]
    for name in names:
        if name not in RECIPES:
            raise UsageError(
                f"recipe={request.recipe!r} is not one of {', '.join(RECIPES)}"
                f"{nearest(name, RECIPES)} (several are joined by {SEPARATOR}, as winq+cage)."
            )
    _refuse_foreign(request, names)
    if len(set(names)) < len(names) or (len(names) > 1 and Baseline.name in names):
        raise UsageError(
            f"recipe={request.recipe!r} names one twice, or baseline, which is none, beside "
            "another; name each recipe once, as winq+cage."
        )
    if len(names) > 1 and set(names) & set(ALONE):
        raise UsageError(
            f"recipe={request.recipe!r} joins {' or '.join(ALONE)} with another, and these train "
            "alone; name it by itself."
        )
    # One order whatever the request's: equal runs have equal names.
    made = [_BUILD[name](request) for name in RECIPES if name in names]
    return made[0] if len(made) == 1 else Combined(made)


def _baseline(request: TrainRequest) -> Recipe:
    del request
    return Baseline()


def _winq(request: TrainRequest) -> Recipe:
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
        reset_from=request.reset_from,
        reset_until=request.reset_until,
    )


def _cage(request: TrainRequest) -> Recipe:
    strength, silent = request.cage_lambda, request.cage_silent
    return Cage(
        DEFAULT_LAMBDA if strength is None else strength,
        cage_form=request.cage_form,
        cage_silent=DEFAULT_SILENT if silent is None else silent,
        cage_ramp=request.cage_ramp,
        cage_order=request.cage_order,
    )


def _distill(request: TrainRequest) -> Recipe:
    return Distill(distill_reduction=request.distill_reduction)


def _dts(request: TrainRequest) -> Recipe:
    return DTS(request.plain_steps)


def _block_ap(request: TrainRequest) -> Recipe:
    return BlockAP(request.quant_learning_rate, request.calibration_blocks)


def _e2e_qp(request: TrainRequest) -> Recipe:
    del request
    return E2EQP()


_BUILD: dict[str, Callable[[TrainRequest], Recipe]] = {
    Baseline.name: _baseline,
    WinQ.name: _winq,
    Cage.name: _cage,
    Distill.name: _distill,
    DTS.name: _dts,
    BlockAP.name: _block_ap,
    E2EQP.name: _e2e_qp,
}


def _refuse_foreign(request: TrainRequest, names: list[str]) -> None:
    usual = TrainRequest()
    for recipe, (settings, lacking) in SETTINGS.items():
        if recipe in names:
            continue
        for name in settings:
            value = getattr(request, name)
            if value != getattr(usual, name):
                raise UsageError(
                    f"{name}={value} belongs to --recipe {recipe}, and recipe={request.recipe!r} "
                    f"has {lacking}; pass --recipe {_with(request.recipe, recipe)}, or leave it "
                    "out."
                )


def _with(asked: str, other: str) -> str:
    return other if asked == Baseline.name else f"{asked}{SEPARATOR}{other}"
