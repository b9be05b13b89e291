"""CAGE: its schedule, its pull, and what a step leaves alone."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from spectra.quant import prepare, quant_layers, reset_, spec
from spectra.train import Cage
from spectra.train.recipes.cage import pull_

ALWAYS: dict[str, Any] = {"cage_silent": 0.0, "cage_ramp": "constant"}
QUANTIZERS = [("paretoq", 1), ("paretoq", 2), ("lsq", 3), ("rtn", 4), ("quest", 2), ("llm-qat", 3)]


def quantized(name: str = "paretoq", bits: float = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False))
    prepare(model, spec(name, w_bits=bits))
    return model


def give_gradients(model: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def step(
    recipe: Any, model: nn.Module, optimizer: torch.optim.Optimizer, at: int, rate: float = 0.0
) -> None:
    """One optimizer step as the Trainer takes it; `rate` is what the schedule sets after it."""
    args = SimpleNamespace(logging_strategy="steps", logging_first_step=True)
    state = SimpleNamespace(global_step=at, logging_steps=1, log_history=[])
    recipe.on_pre_optimizer_step(args, state, None, model=model, optimizer=optimizer)
    optimizer.step()
    if rate:
        optimizer.param_groups[0]["lr"] = rate
    state.global_step += 1
    recipe.on_step_end(args, state, None, model=model, optimizer=optimizer)


def planned(steps: int = 10, **options: Any) -> Cage:
    recipe = Cage(**options)
    recipe.plan(steps)
    return recipe


def values(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


# The schedule.


def test_the_pull_is_silent_first_and_then_grows_to_its_full_strength() -> None:
    linear, constant = planned(), planned(cage_ramp="constant")
    assert [linear.strength(t) for t in range(8)] == [0.0] * 8
    assert linear.strength(8) == pytest.approx(5)
    assert linear.strength(9) == pytest.approx(10)
    assert [constant.strength(t) for t in (7, 8, 9)] == [0, 10, 10]
    early = planned(cage_silent=0.0)
    assert [early.strength(t) for t in range(10)] == pytest.approx([t + 1 for t in range(10)])


# One step.


def test_the_worked_example() -> None:
    """w = .3, grid .25: at learning rate 1e-3 and λ = 10 a step without gradient gives .2995."""
    linear = nn.Linear(1, 1, bias=False)
    model = nn.Sequential(linear)
    linear.weight.data.fill_(0.3)
    prepare(model, spec("paretoq", w_bits=2))
    layer = quant_layers(model)["0"]
    assert layer.scale is not None
    layer.scale.data.fill_(1.0)
    layer.weight.grad = torch.zeros(1, 1)
    optimizer = torch.optim.AdamW([layer.weight], lr=1e-3, weight_decay=0.0)
    recipe = planned(1000, **ALWAYS)
    step(recipe, model, optimizer, 0)
    assert float(layer.weight.detach()) == pytest.approx(0.2995, abs=1e-7)
    for at in range(1, 20):  # g = 0: the error shrinks by 1 − lr λ at each step
        step(recipe, model, optimizer, at)
    assert float(layer.weight.detach()) - 0.25 == pytest.approx(0.05 * 0.99**20, rel=1e-4)


@pytest.mark.parametrize(("name", "bits"), QUANTIZERS)
def test_one_reset_is_one_decoupled_step_of_lr_lambda(name: str, bits: float) -> None:
    reset, pulled = quantized(name, bits), quantized(name, bits)
    optimizer = torch.optim.AdamW(pulled.parameters(), lr=0.04)
    reset_(reset, 0.04 * 10)
    pull_(give(pulled), optimizer, 10)
    assert all(torch.equal(a, b) for a, b in zip(values(reset), values(pulled), strict=True))


def give(model: nn.Module) -> nn.Module:
    give_gradients(model)
    return model


@pytest.mark.parametrize("strength", [0.1, 10, 99, 99.9])
@pytest.mark.parametrize(("name", "bits"), [("paretoq", 1), ("paretoq", 1.58), ("lsq", 3)])
def test_the_pull_crosses_no_threshold(name: str, bits: float, strength: float) -> None:
    model = give(quantized(name, bits))
    before = {n: layer.quantized_weight() for n, layer in quant_layers(model).items()}
    distance = {n: layer.weight - before[n] for n, layer in quant_layers(model).items()}
    pull_(model, torch.optim.AdamW(model.parameters(), lr=0.01), strength)
    for n, layer in quant_layers(model).items():
        assert torch.equal(layer.quantized_weight(), before[n])
        torch.testing.assert_close(
            layer.weight - before[n], (1 - 0.01 * strength) * distance[n], rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize(("name", "bits"), QUANTIZERS)
def test_decoupled_moments_are_those_of_the_plain_optimizer(name: str, bits: float) -> None:
    plain, pulled = give(quantized(name, bits)), give(quantized(name, bits))
    one, two = (torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (plain, pulled))
    errors = [q.weight - q.quantized_weight() for q in quant_layers(pulled).values()]
    step(planned(cage_lambda=0.0), plain, one, 0)
    step(planned(**ALWAYS), pulled, two, 0)
    for a, b in zip(one.state.values(), two.state.values(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("exp_avg", "exp_avg_sq", "step"))
    moved = [layer.weight for layer in quant_layers(plain).values()]
    for a, layer, e in zip(moved, quant_layers(pulled).values(), errors, strict=True):
        # AdamW's decay, 0.01 by default, acts on the pulled weight: lr · decay of the pull.
        torch.testing.assert_close(layer.weight, a - 1e-2 * 10 * e, rtol=1e-4, atol=2e-5)


def test_sgd_has_one_form() -> None:
    models = [give(quantized()) for _ in range(3)]
    errors = [q.weight - q.quantized_weight() for q in quant_layers(models[0]).values()]
    for model, form in zip(models, ("decoupled", "coupled"), strict=False):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        step(planned(**ALWAYS, cage_form=form), model, optimizer, 0)
    for one, two in zip(values(models[0]), values(models[1]), strict=True):
        torch.testing.assert_close(one, two)
    for layer, start, e in zip(
        quant_layers(models[0]).values(), quant_layers(models[2]).values(), errors, strict=True
    ):
        assert start.weight.grad is not None
        expected = start.weight - 0.01 * (start.weight.grad + 10 * e)
        torch.testing.assert_close(layer.weight, expected)


def test_coupled_is_adam_on_the_gradient_with_the_pull() -> None:
    model, by_hand = give(quantized()), give(quantized())
    step(
        planned(**ALWAYS, cage_form="coupled"),
        model,
        one := torch.optim.AdamW(model.parameters(), lr=1e-2),
        0,
    )
    for layer in quant_layers(by_hand).values():
        assert layer.weight.grad is not None
        layer.weight.grad += (10 * (layer.weight - layer.quantized_weight())).detach()
    two = torch.optim.AdamW(by_hand.parameters(), lr=1e-2)
    two.step()
    for a, b in zip(values(model), values(by_hand), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(one.state.values(), two.state.values(), strict=True):
        torch.testing.assert_close(a["exp_avg_sq"], b["exp_avg_sq"])


def test_the_public_fork_pulls_after_the_move_with_the_next_rate() -> None:
    model, by_hand = give(quantized()), give(quantized())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step(planned(**ALWAYS, cage_order="after"), model, optimizer, 0, rate=5e-3)
    torch.optim.AdamW(by_hand.parameters(), lr=1e-2).step()
    reset_(by_hand, 5e-3 * 10)
    assert all(torch.equal(a, b) for a, b in zip(values(model), values(by_hand), strict=True))


@pytest.mark.parametrize("form", ["decoupled", "coupled"])
def test_nothing_is_touched_while_silent_or_at_lambda_zero(form: str) -> None:
    for recipe in (planned(cage_form=form), planned(**ALWAYS, cage_lambda=0.0, cage_form=form)):
        model, plain = give(quantized()), give(quantized())
        one, two = (torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (model, plain))
        for at in range(8):  # of 10: up to the silent share of 0.8
            step(recipe, model, one, at)
            two.step()
        assert all(torch.equal(a, b) for a, b in zip(values(model), values(plain), strict=True))


@pytest.mark.parametrize("clip", [1.0, 0.25])
def test_the_residual_logged_is_that_of_the_gradient_before_clipping(clip: float) -> None:
    model = give(quantized())
    expected = math.sqrt(
        sum(
            float((q.weight.grad + 10 * (q.weight - q.quantized_weight())).detach().square().sum())
            for q in quant_layers(model).values()
        )
    )
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]))
    for parameter in model.parameters():
        parameter.grad.mul_(clip)
    recipe = planned(**ALWAYS)
    step(recipe, model, torch.optim.SGD(model.parameters(), lr=1e-3), 0)
    state = SimpleNamespace(global_step=1, log_history=[{}])
    recipe.on_log(None, state, None, logs=(logs := {"loss": 1.0, "grad_norm": norm}))
    assert logs["pareto_residual"] == pytest.approx(expected, rel=1e-5)
    assert logs["cage_strength"] == 10
    assert state.log_history[-1]["pareto_residual"] == logs["pareto_residual"]
