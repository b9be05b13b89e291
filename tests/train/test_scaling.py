"""Delayed scaling in whole runs: windows, plain steps, recipes, and the detector of saturation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from spectra.checkpoint import load_checkpoint
from spectra.errors import UsageError
from spectra.quant import amax_histories, read_saved, spec
from spectra.quant.scaling import EMPTY
from spectra.train import run as run_module
from spectra.train import train
from spectra.train.scaling import FILE, Saturation, summary
from tests.train.conftest import Ask
from tests.train.weights import same, weights

HIF8: dict[str, Any] = {"quantizer": "hif8", "w_bits": None}
G8: dict[str, Any] = {**HIF8, "quantizer": "hif8:g_bits=8"}


def windows(directory: Path) -> dict[str, torch.Tensor]:
    return {n: t for n, t in weights(directory).items() if n.endswith(".amax")}


def logged(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / FILE).read_text().splitlines()]


@pytest.mark.parametrize(
    ("quantizer", "recipe"),
    [("hif8", "dts"), ("hif8", "winq"), ("fp8_e4m3", "dts"), ("fp8_e5m2", "baseline")],
)
def test_a_run_learns_in_eight_bits_throughout(ask: Ask, quantizer: str, recipe: str) -> None:
    options = {"recipe": recipe, "max_steps": 20, "save_steps": 10}
    result = train(*ask(quantizer=f"{quantizer}:g_bits=8", w_bits=None, **options))
    assert result.final["loss"] < result.initial["loss"] - 0.05
    saved = read_saved(result.output / "checkpoint-10")
    assert saved is not None
    assert saved.spec == spec(quantizer, w_bits=8, a_bits=8, g_bits=8)
    assert (saved.method, saved.step) == (recipe, 10)
    found = windows(result.output / "checkpoint-10")
    steps = 10 - (1 if recipe == "dts" else 0)  # a twentieth of 20 is plain
    assert len(found) == 14 * 3
    for amax in found.values():
        assert int((amax != EMPTY).sum()) == steps
        assert bool((amax[:steps] > 0).all())
    ckpt = load_checkpoint(result.output, device="cpu")
    assert ckpt.meta.method == recipe
    assert same(windows(result.output), windows(result.output / "checkpoint-20"))


def test_the_window_holds_the_largest_entries_of_the_weights_at_each_step(ask: Ask) -> None:
    result = train(*ask(**HIF8, max_steps=3, save_steps=1))
    for step in (1, 2, 3):
        now = weights(result.output / f"checkpoint-{step}")
        for name in (n for n in now if n.endswith("scaling.weights.amax")):
            weight = name.replace("scaling.weights.amax", "weight")
            history = [
                float(weights(result.output / f"checkpoint-{k}")[weight].abs().max())
                for k in reversed(range(step))
            ]
            assert now[name][:step].tolist() == history


def test_plain_steps_are_those_of_plain_precision(ask: Ask) -> None:
    plain = train(*ask("a", quantizer="hif8", w_bits=16, a_bits=16, save_steps=3))
    late = train(*ask("b", **G8, recipe="dts", plain_steps=4, save_steps=1))

    def parameters(output: Path, step: int) -> dict[str, torch.Tensor]:
        found = weights(output / f"checkpoint-{step}")
        return {n: t for n, t in found.items() if not n.endswith(".amax")}

    assert same(parameters(plain.output, 3), parameters(late.output, 3))
    assert all(bool((t == EMPTY).all()) for t in windows(late.output / "checkpoint-4").values())
    first = windows(late.output / "checkpoint-5")
    assert all(int((t != EMPTY).sum()) == 1 for t in first.values())
    assert not same(parameters(plain.output, 6), parameters(late.output, 6))
    # What is evaluated is the quantized model, from the start.
    assert late.initial != plain.initial
    assert read_saved(late.output).recipe["plain_steps"] == 4  # type: ignore[union-attr]


def test_histories_from_before_do_not_outlive_the_plain_steps(ask: Ask) -> None:
    before = train(*ask("a", **G8))
    held = {n: int((t != EMPTY).sum()) for n, t in windows(before.output).items()}
    assert set(held.values()) == {8}
    options = {"recipe": "dts", "plain_steps": 2, "model": str(before.output), "save_steps": 3}
    after = train(*ask("b", w_bits=None, **options))
    found = windows(after.output / "checkpoint-3")
    assert all(int((t != EMPTY).sum()) == 1 for t in found.values())


def test_accumulated_micro_batches_are_one_entry(ask: Ask) -> None:
    common = {**HIF8, "max_steps": 4, "learning_rate": 0.0, "save_steps": 4}
    whole = train(*ask("a", **common, per_device_train_batch_size=4))
    parts = train(*ask("b", **common, per_device_train_batch_size=2, gradient_accumulation_steps=2))
    a, b = windows(whole.output), windows(parts.output)
    first = "model.layers.0.self_attn.q_proj.scaling.inputs.amax"  # before anything is quantized
    assert torch.equal(a[first], b[first])
    calls = train(
        *ask(
            "c",
            **{**common, "quantizer": "hif8:window=calls"},
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
        )
    )
    c = windows(calls.output)[first]
    assert int((c != EMPTY).sum()) == 8
    assert torch.equal(c[:8].reshape(4, 2).amax(1), a[first][:4])


def test_gradients_are_the_same_with_activation_checkpointing(ask: Ask) -> None:
    options = {**HIF8, "quantizer": "hif8:g_bits=8,g_rounding=stochastic"}
    plain = train(*ask("a", **options))
    checkpointed = train(*ask("b", **options, activation_checkpointing=True))
    assert same(weights(plain.output), weights(checkpointed.output))
    options["quantizer"] = "hif8:window=calls"
    with pytest.raises(UsageError, match="runs forwards twice"):
        train(*ask("c", **options, activation_checkpointing=True))


def planted(monkeypatch: pytest.MonkeyPatch, at: int, factor: float) -> None:
    """Have every window of the runs to come be stale from step `at` on."""

    class Plant(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control
            if state.global_step == at:
                for history in amax_histories(kwargs["model"]).values():
                    history.amax.mul_(torch.where(history.amax == EMPTY, 1.0, factor))

    build = run_module.build

    def planting(request: Any, arguments: Any) -> Any:
        assembly = build(request, arguments)
        assembly.trainer.add_callback(Plant())
        return assembly

    monkeypatch.setattr(run_module, "build", planting)


@pytest.mark.parametrize("quantizer", ["hif8", "fp8_e4m3"])
def test_the_detector_fires_on_a_stale_window_and_then_is_silent(
    ask: Ask, quantizer: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"learning_rate": 1e-3, "max_steps": 14}
    quantizer += ":g_bits=8"
    fresh = train(*ask("a", quantizer=quantizer, w_bits=None, **options))
    logs = [e for e in fresh.log_history if "amax_ratio" in e]
    assert len(logs) == 7
    assert all(entry["amax_saturated"] == 0 for entry in logs)
    assert "stale" not in caplog.text
    planted(monkeypatch, at=8, factor=1 / 16)
    stale = train(*ask("b", quantizer=quantizer, w_bits=None, **options))
    logs = {e["step"]: e for e in stale.log_history if "amax_ratio" in e}
    hit = logs.pop(10)
    # Every tensor but a gradient or two, whose step happened to be small.
    assert hit["amax_saturated"] >= 0.8 * 14 * 3
    assert 14 < hit["amax_ratio"] < 64
    assert hit["amax_clipped"] > 0.1
    assert all(entry["amax_saturated"] == 0 for entry in logs.values())
    assert "step 10: the amax windows of" in caplog.text
    lines = {entry["step"]: entry["tensors"] for entry in logged(stale.output)}
    assert sum(values[-1] for values in lines[10].values()) == hit["amax_saturated"]
    ratio, exceeded, clipped, age, fired = lines[10]["model.layers.0.mlp.up_proj.scaling.weights"]
    assert ratio == pytest.approx(16, rel=0.1)
    assert (exceeded, fired) == (0.5, True)
    assert age <= 2
    assert 0.1 < clipped < 0.5


def test_a_window_that_lags_for_good_is_stale() -> None:
    lags = Saturation("x", calls=10, ratio=1.2, exceeded=1.0, clipped=0.1, age=1)
    assert lags.saturated
    assert not replace(lags, exceeded=0.5).saturated  # as the most recent does by chance
    assert not replace(lags, calls=5).saturated
    assert replace(lags, calls=5, ratio=4.0).saturated
    assert replace(lags, calls=5, ratio=float("nan")).saturated
    assert not Saturation("x", 0, None, 0.0, 0.0, None).saturated
    assert summary([Saturation("x", 0, None, 0.0, 0.0, None)]) == {}


def test_the_current_policy_never_exceeds(ask: Ask) -> None:
    result = train(*ask(**{**HIF8, "quantizer": "hif8:policy=current,g_bits=8"}))
    logs = [e for e in result.log_history if "amax_ratio" in e]
    assert logs
    assert all(0.99 < e["amax_ratio"] <= 1 for e in logs)
    assert all(e["amax_clipped"] == e["amax_exceeded"] == 0 for e in logs)


def test_a_resumed_run_goes_on_with_the_log_of_its_tensors(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(*ask("whole", **HIF8))

    class Interrupt(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control, kwargs
            if state.global_step == 7:
                raise KeyboardInterrupt

    build = run_module.build

    def interrupting(request: Any, arguments: Any) -> Any:
        assembly = build(request, arguments)
        assembly.trainer.add_callback(Interrupt())
        return assembly

    monkeypatch.setattr(run_module, "build", interrupting)
    request, arguments = ask("parts", **HIF8)
    with pytest.raises(KeyboardInterrupt):
        train(request, arguments)
    monkeypatch.undo()
    output = Path(arguments.output_dir)
    assert [entry["step"] for entry in logged(output)] == [2, 4, 6]
    with (output / FILE).open("a") as handle:
        handle.write('{"step": 7, "tens')  # killed while writing
    _, arguments = ask("parts", **HIF8)
    resumed = train(replace(request, resume=True), arguments)
    assert logged(resumed.output) == logged(whole.output)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "dts"}, "the quantizer 'paretoq' has no amax history"),
        ({**HIF8, "recipe": "dts", "plain_steps": -1}, "plain_steps=-1 is negative"),
        ({**HIF8, "recipe": "dts", "plain_steps": 8}, "leaves none of the 8 steps"),
        ({**HIF8, "plain_steps": 3}, "plain_steps=3 belongs to --recipe dts"),
        ({**HIF8, "quantizer": "hif8:margin=5000"}, "margin=5000 binades"),
        ({**HIF8, "quantizer": "hif8:target=1e-30"}, "target=1e-30 is outside"),
        ({**HIF8, "quantizer": "hif8:history=999999999"}, "history=999999999 entries"),
        ({**HIF8, "quantizer": "hif8:history=3,history=4"}, "history of 'hif8' is given twice"),
        ({**HIF8, "quantizer": "hif8:g_bits"}, "assigns nothing in 'g_bits'"),
        ({**HIF8, "a_bits": 4}, "a_bits=4 is not defined by the quantizer 'hif8'"),
        ({**HIF8, "torch_compile": True}, "torch_compile cannot trace the amax histories"),
        ({**HIF8, "quantizer": "hif8:skip_first=9"}, "leave out all 14 linear layers"),
    ],
)
def test_what_does_not_go_together_is_refused(
    ask: Ask, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        train(*ask(**options))
