"""Whole runs through transformers.Trainer: what they save, log, and leave behind."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from spectra.errors import NumericalError, UsageError
from spectra.quant import prepare, quant_layers, read_saved, spec
from spectra.train import Baseline, WinQ, attach, train
from tests.train.conftest import Ask
from tests.train.weights import same, weights

CASES = [("paretoq", 1), ("paretoq", 1.58), ("paretoq", 2), ("lsq", 3), ("rtn", 4)]
CASES += [("quest", 2), ("bitnet", 1.58), ("llm-qat", 3)]


@pytest.mark.parametrize(("quantizer", "bits"), CASES)
def test_a_run_learns_and_leaves_whole_checkpoints(ask: Ask, quantizer: str, bits: float) -> None:
    request, arguments = ask(quantizer=quantizer, w_bits=bits, max_steps=40, save_steps=20)
    result = train(request, arguments)
    assert result.final["loss"] < result.initial["loss"] - 0.05
    for step in (0, 20, 40):
        saved = read_saved(result.output / f"checkpoint-{step}")
        assert saved is not None
        assert (saved.spec, saved.step) == (spec(quantizer, w_bits=bits), step)
        assert saved.method == "baseline"
    assert same(weights(result.output), weights(result.output / "checkpoint-40"))


def test_sixteen_bits_train_without_quantization(ask: Ask) -> None:
    result = train(*ask(w_bits=16))
    assert result.weights["quant_error_ratio"] == 0
    assert result.weights["masked_fraction"] == 0


def test_activations_and_keys_and_values_at_eight_bits(ask: Ask) -> None:
    result = train(*ask(a_bits=8, kv_bits=8, max_steps=20))
    assert result.final["loss"] < result.initial["loss"]
    saved = read_saved(result.output)
    assert saved is not None
    assert (saved.spec.a_bits, saved.spec.kv_bits) == (8, 8)


@pytest.mark.parametrize("before", [False, True])
def test_a_checkpoint_of_a_reset_step_holds_what_it_says(ask: Ask, before: bool) -> None:
    common: dict[str, Any] = {"recipe": "winq", "reset_every": 4, "reset_fraction": 1.0}
    request, arguments = ask(**common, save_before_reset=before, save_steps=4)
    result = train(request, arguments)
    at = result.output / "checkpoint-4"
    saved = read_saved(at)
    assert saved is not None
    assert (saved.resets, saved.steps_since_reset) == ((0, None) if before else (1, 0))
    end = read_saved(result.output)
    assert end is not None
    assert (end.resets, end.steps_since_reset) == ((1, 4) if before else (2, 0))
    found = weights(at)
    model = AutoModelForCausalLM.from_pretrained(request.model)
    prepare(model, saved.spec)
    model.load_state_dict(found)
    gaps = [
        float((layer.quantized_weight() - layer.weight).detach().abs().max())
        for layer in quant_layers(model).values()
    ]
    assert (max(gaps) < 1e-6) == (not before)  # a full reset lands on the grid


def test_saving_before_a_reset_changes_no_later_number(ask: Ask) -> None:
    common: dict[str, Any] = {"recipe": "winq", "reset_every": 3}
    after = train(*ask("a", **common))
    before = train(*ask("b", **common, save_before_reset=True))
    assert after.final == before.final
    assert same(weights(after.output), weights(before.output))  # 3 does not divide 8


def test_no_evaluation(ask: Ask) -> None:
    result = train(*ask(eval_blocks=0))
    assert (result.initial, result.final) == ({}, {})


def test_gradients_are_the_same_with_activation_checkpointing(ask: Ask) -> None:
    options: dict[str, Any] = {"recipe": "winq", "reset_every": 2, "noise_std": 0.01}
    plain = train(*ask("a", **options))
    known = {field.name for field in fields(TrainingArguments)}
    name = "activation_checkpointing"  # as transformers says since 5.21 or so; gradient_ before
    name = name if name in known else "gradient_checkpointing"
    checkpointed = train(*ask("b", **options, **{name: True}))
    assert same(weights(plain.output), weights(checkpointed.output))


def test_noise_reaches_the_gradients(ask: Ask) -> None:
    options: dict[str, Any] = {"recipe": "winq", "reset_fraction": 0.0}
    silent = train(*ask("a", **options, noise_std=0.0))
    noisy = train(*ask("b", **options, noise_std=0.01))
    plain = train(*ask("c"))
    assert same(weights(silent.output), weights(plain.output))  # neither: the baseline
    assert not same(weights(noisy.output), weights(plain.output))


def test_only_scales_and_norms_train_in_the_control(ask: Ask) -> None:
    result = train(*ask(trainable="scales"))
    before, after = weights(result.output / "checkpoint-0"), weights(result.output)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {n for n in after if n.endswith(".scale") or "norm" in n}
    assert result.final["loss"] < result.initial["loss"]


def test_what_is_logged(ask: Ask) -> None:
    result = train(*ask(recipe="winq", reset_every=4, max_grad_norm=0.01))
    state = json.loads((result.output / "trainer_state.json").read_text())
    logs = [entry for entry in state["log_history"] if "loss" in entry]
    assert len(logs) == 4
    for entry in logs:
        assert 0 < entry["quant_error_ratio"] < 1
        assert 0 <= entry["masked_fraction"] < 1
        assert 0 <= entry["code_change"] < 1
        assert entry["perplexity"] == pytest.approx(float(torch.tensor(entry["loss"]).exp()))
    # 0.4 of the way: the error at the reset step is lower than before it.
    assert logs[1]["quant_error_ratio"] < 0.8 * logs[0]["quant_error_ratio"]
    assert any("eval_perplexity" in entry for entry in state["log_history"])
    assert any(entry["code_change"] > 0 for entry in logs)


def test_gradient_to_weight_ratio_is_that_of_the_unclipped_gradient(
    ask: Ask, model_dir: Path
) -> None:
    request, arguments = ask(max_steps=1, max_grad_norm=1e-3, logging_steps=1, learning_rate=0.0)
    result = train(request, arguments)
    logged = next(e for e in result.log_history if "grad_weight_ratio" in e)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    prepare(model, spec("paretoq", w_bits=2))
    free = train(*ask("free", max_steps=1, max_grad_norm=1e6, logging_steps=1, learning_rate=0.0))
    other = next(e for e in free.log_history if "grad_weight_ratio" in e)
    assert logged["grad_norm"] == pytest.approx(other["grad_norm"])
    assert logged["grad_weight_ratio"] == pytest.approx(other["grad_weight_ratio"], rel=1e-4)
    assert logged["grad_weight_ratio"] > 0


def test_one_step_at_a_small_rate_moves_a_weight_of_ordinary_size(ask: Ask) -> None:
    result = train(*ask(learning_rate=2e-5, max_steps=1, lr_scheduler_type="constant"))
    before, after = weights(result.output / "checkpoint-0"), weights(result.output)
    for name in after:
        if name.endswith("_proj.weight"):
            large = before[name].abs() >= 0.05
            moved = (after[name] - before[name]).abs()[large]
            assert after[name].dtype == torch.float32
            assert float(moved.median()) == pytest.approx(2e-5, rel=0.1)
            # The same update on a bfloat16 weight is lost.
            rounded = before[name].bfloat16()
            assert float(((rounded - 2e-5) == rounded)[large].float().mean()) > 0.99


def test_bfloat16_autocast_keeps_float32_weights(ask: Ask) -> None:
    result = train(*ask(bf16=True, max_steps=20))
    assert result.final["loss"] < result.initial["loss"]
    assert all(t.dtype == torch.float32 for t in weights(result.output).values())


def test_nan_stops_the_run_before_it_reaches_the_weights(ask: Ask) -> None:
    request, arguments = ask(learning_rate=1e25, save_steps=1, max_grad_norm=0.0)
    with pytest.raises(NumericalError, match=r"step \d+ is NaN or infinite.*checkpoint-\d+"):
        train(request, arguments)
    for path in Path(arguments.output_dir).glob("checkpoint-*"):
        assert all(bool(t.isfinite().all()) for t in weights(path).values())


def test_a_users_own_trainer(model_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    prepare(model, spec("paretoq", w_bits=2))
    ids = torch.arange(96).remainder(48).view(8, 12)
    data = [{"input_ids": row, "labels": row} for row in ids]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "own"),
        max_steps=2,
        per_device_train_batch_size=4,
        use_cpu=True,
        save_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data)
    attach(trainer, WinQ(1, 0.4))
    trainer.train()
    saved = read_saved(tmp_path / "own" / "checkpoint-2")
    assert saved is not None
    assert (saved.method, saved.resets) == ("winq", 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_refused(
    model_dir: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)
    prepare(model, spec("paretoq", w_bits=2))
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(UsageError, match="float32 and train"):
        attach(Trainer(model=model, args=arguments), Baseline())


def test_a_float_model_cannot_be_attached_to(model_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(UsageError, match="no quantized layer"):
        attach(Trainer(model=model, args=arguments))


def test_sharding_is_refused_with_the_reason(model_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    prepare(model, spec("paretoq", w_bits=2))
    trainer = Trainer(model=model, args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    for attribute, named in (("is_fsdp_enabled", "FSDP"), ("is_deepspeed_enabled", "DeepSpeed")):
        setattr(trainer, attribute, True)
        with pytest.raises(UsageError, match=f"{named} shards"):
            attach(trainer)
        setattr(trainer, attribute, False)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"recipe": "winq", "reset_every": 0}, "reset_every=0"),
        ({"recipe": "winq", "reset_every": 9}, "beyond the run of 8 steps"),
        ({"recipe": "winq", "reset_fraction": 2.0}, "reset_fraction=2.0"),
        ({"recipe": "winq", "noise_std": -1.0}, "weight_std=-1.0"),
        ({"recipe": "winq", "noise_place": "between"}, "between"),
        ({"recipe": "winq", "reset_fraction": 0.4, "winq_alpha": 0.2}, "opposite directions"),
        ({"recipe": "wing"}, "did you mean winq"),
        ({"reset_every": 4}, "belongs to --recipe winq"),
        ({"noise_std": 0.1}, "belongs to --recipe winq"),
        ({"noise_frozen": True}, "noise_frozen=True belongs to"),
        ({"save_before_reset": True}, "save_before_reset=True belongs to"),
        ({"recipe": "winq", "trainable": "scales"}, "resets"),
        ({"fp16": True}, "fp16 needs a GPU"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 would"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end puts"),
        ({"seq_len": 0}, "seq_len=0"),
        ({"w_bits": 5}, "w_bits=5 is not defined"),
        ({"w_bits": 8}, "w_bits=8 is not defined"),
        ({"quantizer": "paretok"}, "did you mean paretoq"),
        ({"w_bits": None}, "--w_bits"),
        ({"trainable": "scale"}, "did you mean scales"),
        ({"eval_blocks": -1}, "eval_blocks=-1"),
        ({"seq_len": 1}, "seq_len=1"),
        ({"fsdp": "full_shard"}, "FSDP shards"),
        ({"bf16_full_eval": True}, "bf16_full_eval rounds"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"max_steps": -1, "num_train_epochs": 0}, "num_train_epochs=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 is negative"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0"),
        ({"torch_compile": True, "recipe": "winq"}, "torch_compile cannot trace"),
        ({"eval_blocks": 500, "max_steps": -1}, "held out"),
    ],
)
def test_wrong_input_is_told_in_one_sentence(ask: Ask, options: dict[str, Any], named: str) -> None:
    request, arguments = ask(**options)
    with pytest.raises(UsageError, match=named) as caught:
        train(request, arguments)
    assert "\n" not in str(caught.value)
    assert not list(Path(arguments.output_dir).glob("checkpoint-*"))
