"""A run's directory: resumed, written over, interrupted, full, somebody else's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from spectra.errors import SpectraError, UsageError
from spectra.quant import read_saved
from spectra.train import run as run_module
from spectra.train import train
from tests.train.conftest import Ask
from tests.train.weights import same, weights


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"recipe": "winq", "reset_every": 2},
        {"recipe": "winq", "reset_every": 4, "save_before_reset": True},
        {"recipe": "winq", "noise_frozen": True, "noise_place": "both"},
        {"recipe": "winq", "noise_trainable": True},
        {"recipe": "winq", "gradient_accumulation_steps": 2, "a_bits": 8},
        {
            "quantizer": "hif8:g_bits=8,g_rounding=stochastic,policy=mean",
            "w_bits": None,
            "recipe": "dts",
            "plain_steps": 2,
            "gradient_accumulation_steps": 2,
        },
        {
            "quantizer": "fp8_e4m3:window=calls,history=5",
            "w_bits": None,
            "recipe": "winq",
            "reset_every": 3,
        },
    ],
)
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(
    ask: Ask, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    request, arguments = ask("whole", **options, max_steps=10)
    whole = train(request, arguments)

    class Interrupt(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control, kwargs
            if state.global_step == 7:
                raise KeyboardInterrupt

    def interrupting(request: Any, arguments: Any, build: Any = run_module.build) -> Any:
        assembly = build(request, arguments)
        assembly.trainer.add_callback(Interrupt())
        return assembly

    request, arguments = ask("parts", **options, max_steps=10)
    monkeypatch.setattr(run_module, "build", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(request, arguments)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="--resume"):
        train(request, arguments)
    _, arguments = ask("parts", **options, max_steps=10)
    resumed = train(replace(request, resume=True), arguments)
    assert same(weights(whole.output), weights(resumed.output))
    assert whole.final == resumed.final
    moments = [
        torch.load(r.output / "checkpoint-10" / "optimizer.pt", weights_only=True)["state"]
        for r in (whole, resumed)
    ]
    for key in moments[0]:
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(moments[0][key][name], moments[1][key][name])


def test_resuming_with_other_settings_is_refused(ask: Ask) -> None:
    request, arguments = ask(recipe="winq", reset_every=4)
    train(request, arguments)
    for change in ({"reset_fraction": 0.5}, {"recipe": "baseline"}):
        cleared = {"reset_every": None} if "recipe" in change else {}
        with pytest.raises(UsageError, match=f"with {next(iter(change))}="):
            train(replace(request, resume=True, **change, **cleared), arguments)


def test_an_interrupted_save_is_passed_over(ask: Ask) -> None:
    request, arguments = ask()
    whole = train(request, arguments)
    last = whole.output / "checkpoint-8"
    (last / "trainer_state.json").write_text("{")  # the last thing that the Trainer writes
    (whole.output / "spectra_training.json").unlink()
    _, arguments = ask()
    resumed = train(replace(request, resume=True), arguments)
    assert same(weights(whole.output), weights(resumed.output))


def test_overwrite_begins_anew_and_leaves_nothing_old(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(*ask(max_steps=4))
    request, arguments = ask(max_steps=4)
    second = train(replace(request, overwrite=True), arguments)
    assert first.final == second.final

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "_final_evaluation", fail)
    request, arguments = ask(max_steps=4, w_bits=3)
    with pytest.raises(KeyboardInterrupt):
        train(replace(request, overwrite=True), arguments)
    # The 2-bit model of the earlier run is gone, not mistaken for this one's.
    assert not list(first.output.glob("model*"))
    assert not list(first.output.glob("spectra_*.json"))


def test_a_finished_model_is_not_written_over(ask: Ask) -> None:
    options: dict[str, Any] = {"save_strategy": "no", "save_initial": False, "max_steps": 2}
    first = train(*ask(**options))
    before = weights(first.output)
    with pytest.raises(UsageError, match="holds a model"):
        train(*ask(**options, w_bits=3))
    assert same(weights(first.output), before)


def test_going_on_with_a_finished_run_changes_nothing(ask: Ask) -> None:
    request, arguments = ask()
    first = train(request, arguments)
    before = (first.output / "spectra_training.json").read_bytes()
    _, arguments = ask()
    again = train(replace(request, resume=True), arguments)
    assert (again.step, again.final) == (first.step, first.final)
    assert (first.output / "spectra_training.json").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 5e-2},
        {"gradient_accumulation_steps": 2},
        {"max_steps": 12},
        {"lr_scheduler_type": "linear"},
        {"adam_beta2": 0.95},
        {"w_bits": 3},
    ],
)
def test_resuming_with_another_schedule_or_batch_is_refused(
    ask: Ask, change: dict[str, Any]
) -> None:
    train(*ask(max_steps=8))
    request, arguments = ask(**({"max_steps": 8} | change))
    named = {"gradient_accumulation_steps": "blocks_per_step", "adam_beta2": "adam"}
    key = next(iter(change))
    with pytest.raises(UsageError, match=f"with {named.get(key, key)}="):
        train(replace(request, resume=True), arguments)


def test_interrupted_while_saving_the_first_checkpoint(ask: Ask) -> None:
    request, arguments = ask(save_steps=8)
    whole = train(request, arguments)
    first = whole.output / "checkpoint-8"
    for name in ("trainer_state.json", "optimizer.pt"):
        (first / name).unlink()
    _, arguments = ask(save_steps=8)
    again = train(replace(request, resume=True), arguments)
    assert again.final == whole.final


def test_weights_without_the_optimizer_are_not_gone_on_from(ask: Ask) -> None:
    request, arguments = ask(save_only_model=True)
    train(request, arguments)
    _, arguments = ask(save_only_model=True)
    with pytest.raises(UsageError, match="--save_only_model"):
        train(replace(request, resume=True), arguments)


def test_checkpoint_zero_alone_is_no_obstacle(ask: Ask) -> None:
    request, arguments = ask(recipe="winq", reset_every=500)
    with pytest.raises(UsageError, match="beyond the run"):
        train(request, arguments)
    place = Path(arguments.output_dir) / "checkpoint-0"
    place.mkdir(parents=True)
    train(*ask())


def test_nothing_is_saved_before_the_optimizer_exists(ask: Ask) -> None:
    request, arguments = ask(lr_scheduler_kwargs={"x": 1})
    with pytest.raises(UsageError, match="cannot be made"):
        train(request, arguments)
    assert not list(Path(arguments.output_dir).glob("checkpoint-*"))


def test_a_run_over_its_own_model_is_refused(ask: Ask) -> None:
    first = train(*ask())
    inside = str(first.output / "checkpoint-4")
    request, arguments = ask(model=inside, w_bits=None, overwrite=True)
    with pytest.raises(UsageError, match="lies in output"):
        train(request, arguments)
    assert (first.output / "checkpoint-4" / "model.safetensors").exists()


def test_a_place_that_cannot_be_made(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        train(*ask(output="file/run"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("basic_ios::clear: iostream error"), "the disk is full or gone"),
        (
            RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
            "full",
        ),
    ],
)
def test_a_full_disk_is_told(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SpectraError, match=rf"{said}.*--resume"):
        train(*ask())


def test_a_limit_on_checkpoints_keeps_the_last(ask: Ask) -> None:
    result = train(*ask(save_total_limit=1))
    assert [p.name for p in result.output.glob("checkpoint-*")] == ["checkpoint-8"]


def test_every_directory_says_that_it_is_quantized(ask: Ask) -> None:
    result = train(*ask(quantizer="rtn", w_bits=4))
    for path in (result.output, *result.output.glob("checkpoint-*")):
        assert read_saved(path) is not None
