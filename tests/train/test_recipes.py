"""Recipes as such: schedules, settings, and what a checkpoint has seen of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spectra.errors import InputWarning, UsageError
from spectra.quant import Noise, prepare, quant_layers, spec
from spectra.train import PRESETS, Baseline, WinQ, preset


def quantized(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 4, bias=False))
    prepare(model, spec("paretoq", w_bits=2))
    return model


def drive(recipe: WinQ, model: nn.Module, steps: int, start: int = 0) -> list[int]:
    """Run the callback as the Trainer does and return the steps after which weights moved."""
    args = SimpleNamespace(seed=0, process_index=0, world_size=1)
    recipe.setup(model, 0)
    recipe.plan(start + steps)
    moved = []

    def weights() -> list[torch.Tensor]:
        return [layer.weight.detach().clone() for layer in quant_layers(model).values()]

    for step in range(start, start + steps):
        before = weights()
        state = SimpleNamespace(global_step=step)
        recipe.on_step_begin(args, state, None, model=model)
        state.global_step += 1
        recipe.on_step_end(args, state, None, model=model)
        if any(not torch.equal(a, b) for a, b in zip(before, weights(), strict=True)):
            moved.append(step + 1)
        with torch.no_grad():
            for layer in quant_layers(model).values():
                layer.weight.add_(0.01 * torch.randn_like(layer.weight))
    return moved


def test_resets_follow_the_steps_that_the_interval_divides() -> None:
    assert drive(WinQ(3, 0.4, None), quantized(), 10) == [3, 6, 9]


def test_saved_before_reset_means_reset_with_the_next_step() -> None:
    recipe = WinQ(3, 0.4, None, save_before_reset=True)
    assert drive(recipe, quantized(), 9) == [4, 7]  # the last step ends without


def test_a_resumed_run_resets_where_an_uninterrupted_one_does() -> None:
    for before in (False, True):
        whole = drive(WinQ(3, 0.4, None, save_before_reset=before), quantized(), 10)
        first = drive(WinQ(3, 0.4, None, save_before_reset=before), quantized(), 6)
        rest = drive(WinQ(3, 0.4, None, save_before_reset=before), quantized(), 4, start=6)
        assert first + rest == whole


@given(
    st.integers(1, 7),
    st.integers(0, 40),
    st.booleans(),
    st.none() | st.integers(1, 20),
    st.none() | st.integers(20, 40),
)
def test_resets_seen_by_a_checkpoint_are_those_of_a_simulation(
    every: int, step: int, before: bool, first: int | None, until: int | None
) -> None:
    recipe = WinQ(every, 0.4, None, save_before_reset=before, reset_from=first, reset_until=until)
    count, last = 0, None
    for done in range(step + 1):  # the checkpoint is saved after `step` steps
        due = done > 0 and done % every == 0 and (first or 0) <= done <= (until or done)
        if due and not (before and done == step):
            count, last = count + 1, done
    found = recipe.resets(step)
    assert found.count == count
    assert found.steps_since == (None if last is None else step - last)


def test_resets_keep_to_their_stretch_of_the_run() -> None:
    whole = drive(WinQ(3, 0.4, None), quantized(), 20)
    kept = drive(WinQ(3, 0.4, None, reset_from=7, reset_until=15), quantized(), 20)
    assert whole == [3, 6, 9, 12, 15, 18]
    assert kept == [9, 12, 15]


def test_fraction_zero_never_resets() -> None:
    recipe = WinQ(3, 0.0, None)
    assert drive(recipe, quantized(), 10) == []
    assert recipe.resets(9).count == 0
    assert recipe.settings()["reset_every"] is None


def test_interval_defaults_to_a_third_of_the_run() -> None:
    recipe = WinQ(None, 0.4, None)
    recipe.plan(240_000)
    assert recipe.settings()["reset_every"] == 80_000


def test_a_reset_keeps_the_quantized_weights_and_shrinks_the_error() -> None:
    model, recipe = quantized(), WinQ(1, 0.4, None)
    before = {n: (q.quantized_weight(), q.weight.clone()) for n, q in quant_layers(model).items()}
    recipe.setup(model, 0)
    recipe.plan(1)
    recipe.on_step_end(None, SimpleNamespace(global_step=1), None, model=model)
    for name, layer in quant_layers(model).items():
        Q, W = before[name]
        assert torch.equal(layer.quantized_weight(), Q)
        torch.testing.assert_close(layer.weight - Q, 0.6 * (W - Q))


def test_noise_counts_micro_batches_over_all_ranks() -> None:
    for rank in range(3):
        model, recipe = quantized(), WinQ(4, 0.4, Noise())
        args = SimpleNamespace(seed=7, process_index=rank, world_size=3)
        recipe.setup(model, 7)
        recipe.plan(100)
        state = SimpleNamespace(global_step=9)
        recipe.on_step_begin(args, state, None, model=model)
        noise = next(iter(quant_layers(model).values())).shared.noise
        assert (noise.seed, noise.step, noise.micro_batch, noise.resets) == (7, 9, rank, 2)
        recipe.on_substep_end(args, state, None)
        assert noise.micro_batch == rank + 3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"reset_every": 0}, "reset_every=0"),
        ({"reset_fraction": 1.5}, "reset_fraction=1.5"),
        ({"reset_fraction": -0.1}, "reset_fraction=-0.1"),
        ({"reset_fraction": float("nan")}, "reset_fraction=nan"),
        ({"reset_from": 9, "reset_until": 8}, "reset_from=9, reset_until=8"),
        ({"reset_until": 0}, "reset_until=0"),
        ({"reset_from": -1}, "reset_from=-1"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        WinQ(**options)


def test_an_interval_beyond_the_run_is_refused() -> None:
    with pytest.raises(UsageError, match="reset_every=11 is beyond the run of 10 steps"):
        WinQ(11).plan(10)
    WinQ(11, 0.0).plan(10)
    with pytest.raises(UsageError, match=r"reset_every=4, from 5 until 7, is beyond the run of 10"):
        WinQ(4, reset_from=5, reset_until=7).plan(10)


def test_negative_noise_is_refused() -> None:
    with pytest.raises(UsageError, match="weight_std=-1"):
        WinQ(noise=Noise(weight_std=-1.0))


def test_public_alpha_is_one_minus_the_fraction_and_says_so() -> None:
    with pytest.warns(InputWarning, match="reset_fraction=0.8"):
        assert WinQ.from_public_alpha(0.2) == pytest.approx(0.8)
    with pytest.raises(UsageError, match="winq_alpha=2"):
        WinQ.from_public_alpha(2)


def test_added_too_late_says_how_to_add_it() -> None:
    recipe = WinQ(2)
    with pytest.raises(UsageError, match="attach"):
        recipe.on_step_begin(
            SimpleNamespace(process_index=0), SimpleNamespace(global_step=0), None, model=None
        )


def test_baseline_does_nothing() -> None:
    recipe = Baseline()
    assert recipe.settings() == {}
    assert recipe.resets(100).count == 0


def test_ten_published_settings() -> None:
    assert len(PRESETS) == 10
    for flags in PRESETS.values():
        spec(flags["quantizer"], w_bits=flags["w_bits"], a_bits=flags["a_bits"])
        assert flags["reset_every"] * 2 <= flags["max_steps"]
        assert flags["warmup_steps"] == 1000
    three = PRESETS["llama-1b-w3a16"]
    assert (three["learning_rate"], three["max_steps"]) == (1e-5, 80_000)
    assert PRESETS["llama-3b-w1.58a8"]["learning_rate"] == 4e-5
    assert PRESETS["llama-1b-w2a16"]["learning_rate"] == 2e-5


def test_preset_of_the_baseline_has_no_resets() -> None:
    flags = preset("llama-1b-w2a16-baseline")
    assert flags["recipe"] == "baseline"
    assert "reset_every" not in flags
    with pytest.raises(UsageError, match="did you mean llama-1b-w2a16"):
        preset("llama-1b-w2a61")
