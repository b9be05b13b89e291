"""CAGE in whole runs, alone and beside WinQ, and how it is asked for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from analysis.labels import method_name
from spectra.errors import UsageError
from spectra.study.plan import PRESETS, method_settings
from spectra.train import Cage, Combined, TrainRequest, WinQ, train
from spectra.train.recipes.choose import build_recipe
from tests.train.conftest import Ask
from tests.train.weights import same, weights

ALWAYS: dict[str, Any] = {"cage_silent": 0.0, "cage_ramp": "constant"}


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
@pytest.mark.parametrize("form", ["decoupled", "coupled"])
def test_a_run_is_the_baseline_s_until_the_pull_sets_in(ask: Ask, form: str, optim: str) -> None:
    common: dict[str, Any] = {"optim": optim, "save_steps": 4}
    base = train(*ask("base", **common))
    none = train(*ask("none", **common, recipe="cage", cage_lambda=0.0, cage_form=form))
    late = train(*ask("late", **common, recipe="cage", cage_silent=0.5, cage_form=form))
    assert same(weights(base.output), weights(none.output))
    halves = [weights(run.output / "checkpoint-4") for run in (base, late)]
    assert same(*halves)
    assert not same(weights(base.output), weights(late.output))
    ratios = [run.weights["quant_error_ratio"] for run in (late, base)]
    assert ratios[0] < ratios[1]


@pytest.mark.parametrize(
    "options",
    [
        {"recipe": "cage"},
        {"recipe": "cage", "cage_form": "coupled"},
        {"recipe": "winq+cage", "cage_order": "after", "reset_every": 3},
        {"recipe": "cage", "quantizer": "quest"},
    ],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(ask: Ask, options: dict[str, Any]) -> None:
    common: dict[str, Any] = {**options, "cage_silent": 0.2, "save_steps": 4}
    whole = train(*ask("whole", **common))
    request, arguments = ask("resumed", **common)
    for step_name in ("checkpoint-0", "checkpoint-4"):
        shutil.copytree(whole.output / step_name, Path(arguments.output_dir) / step_name)
    resumed = train(replace(request, resume=True), arguments)
    assert same(weights(whole.output), weights(resumed.output))
    assert whole.final == resumed.final


def test_accumulated_micro_batches_take_one_pull(ask: Ask) -> None:
    common: dict[str, Any] = {"recipe": "cage", **ALWAYS, "cage_form": "coupled"}
    whole = train(*ask("whole", **common))
    halves = train(
        *ask("halves", **common, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    )
    one, two = weights(whole.output), weights(halves.output)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)


def test_clipping_bounds_the_loss_s_gradient_and_not_the_pull(ask: Ask) -> None:
    common: dict[str, Any] = {"recipe": "cage", **ALWAYS, "optim": "sgd", "max_steps": 1}
    clipped = train(*ask("a", **common, cage_form="coupled", max_grad_norm=1e-6))
    start = weights(clipped.output / "checkpoint-0")
    name = "model.layers.0.mlp.up_proj.weight"
    moved = weights(clipped.output)[name] - start[name]
    assert float(moved.norm() / start[name].norm()) > 1e-3  # of lr λ e; the gradient gives 1e-8


def test_what_is_logged_and_saved(ask: Ask) -> None:
    result = train(*ask(recipe="winq+cage", cage_silent=0.5, reset_every=4, quantizer="quest"))
    state = json.loads((result.output / "trainer_state.json").read_text())
    logs = [entry for entry in state["log_history"] if "loss" in entry]
    assert [entry["cage_strength"] for entry in logs] == pytest.approx([0, 0, 5, 10])
    assert all(entry["pareto_residual"] > 0 for entry in logs)
    saved = json.loads((result.output / "spectra_quantization.json").read_text())
    assert saved["method"] == "winq+cage"
    assert saved["resets"] == 2
    assert (saved["recipe"]["cage_lambda"], saved["recipe"]["reset_fraction"]) == (10, 0.4)


# How it is asked for and called.


def test_recipes_are_combined_by_name_in_one_order() -> None:
    for asked in ("winq+cage", "cage+winq"):
        recipe = build_recipe(TrainRequest(recipe=asked, cage_lambda=3.0, reset_fraction=0.2))
        assert isinstance(recipe, Combined)
        assert recipe.name == "winq+cage"
        winq, cage = recipe.parts
        assert isinstance(winq, WinQ)
        assert isinstance(cage, Cage)
        assert (winq.reset_fraction, cage.cage_lambda) == (0.2, 3.0)
        assert recipe.moves_weights


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"recipe": "cage", "cage_lambda": -1.0}, "cage_lambda=-1.0 is no strength"),
        ({"recipe": "cage", "cage_lambda": 100.0}, "is 1, and from 1 on .* below 100"),
        ({"recipe": "cage", "cage_silent": 1.0}, "cage_silent=1.0 is outside"),
        ({"recipe": "cage", "cage_form": "couple"}, "did you mean coupled"),
        ({"recipe": "cage", "cage_ramp": "cosine"}, "cage_ramp='cosine' is not one of"),
        ({"recipe": "cage", "cage_form": "coupled", "cage_order": "after"}, "leave one of them"),
        ({"recipe": "cage", "trainable": "scales"}, "pull"),
        ({"cage_lambda": 1.0}, "belongs to --recipe cage.*pass --recipe cage,"),
        ({"recipe": "winq", "cage_lambda": 1.0}, r"pass --recipe winq\+cage,"),
        ({"recipe": "cage", "reset_every": 4}, r"pass --recipe cage\+winq,"),
        ({"recipe": "winq+cag"}, "did you mean cage"),
        ({"recipe": "cage+cage"}, "names one twice"),
        ({"recipe": "baseline+cage"}, "baseline, which is none"),
    ],
)
def test_wrong_settings_are_told_in_one_sentence(
    ask: Ask, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        train(*ask(**options))
    assert "\n" not in str(caught.value)


def test_coupled_adam_takes_any_strength() -> None:
    arguments = SimpleNamespace(fp16=False, learning_rate=1e-2, optim="adamw_torch")
    Cage(1000.0, cage_form="coupled").check(arguments)
    for options, optim in (({}, "adamw_torch"), ({"cage_form": "coupled"}, "sgd")):
        arguments.optim = optim
        with pytest.raises(UsageError, match="cage_lambda=1000"):
            Cage(1000.0, **options).check(arguments)
    arguments.fp16 = True
    with pytest.raises(UsageError, match="bf16"):
        Cage(1.0).check(arguments)


def test_names_of_methods() -> None:
    assert method_name("cage", {"cage_lambda": 10.0}) == "cage"
    assert method_name("cage", {"cage_lambda": 15.0, "cage_form": "coupled"}) == "cage-l15-coupled"
    assert method_name("cage", {"cage_lambda": 0.0}) == "baseline"
    both = {"cage_lambda": 10.0, "reset_fraction": 0.4, "noise_std": 1e-3}
    assert method_name("winq+cage", both) == "winq+cage"
    assert method_name("winq+cage", both | {"noise_std": 0.0}) == "reset+cage"
    assert method_name("winq+cage", both | {"cage_lambda": 0.0}) == "winq"
    for name in ("cage", "winq+cage"):
        settings = method_settings(name, PRESETS["quick"])
        assert build_recipe(TrainRequest(**settings)).name == name
