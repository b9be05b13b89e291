"""Distillation from the float model: the loss, the teacher, and what the Trainer makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer

from spectra.errors import UsageError
from spectra.quant import prepare, spec
from spectra.train import Distill, attach, train
from spectra.train.recipes.distill import divergence
from tests.train.conftest import Ask
from tests.train.weights import same, weights


def logits(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_divergence_is_the_sum_over_positions_and_tokens() -> None:
    teacher, student = logits(2, 3, 5, seed=0), logits(2, 3, 5, seed=1)
    total = 0.0
    for b in range(2):
        for t in range(3):
            p, q = teacher[b, t].softmax(-1), student[b, t].softmax(-1)
            total += float((p * (p / q).log()).sum())
    assert float(divergence(teacher, student, "batchmean")) == pytest.approx(total / 2)
    assert float(divergence(teacher, student, "token")) == pytest.approx(total / 6)
    assert float(divergence(teacher, teacher + 3.0, "token")) == pytest.approx(0, abs=1e-12)


def test_the_gradient_is_the_difference_of_the_distributions() -> None:
    teacher, student = logits(2, 3, 5, seed=0), logits(2, 3, 5, seed=1).requires_grad_()
    divergence(teacher, student, "batchmean").backward()
    expected = (student.softmax(-1) - teacher.softmax(-1)).detach() / 2
    torch.testing.assert_close(student.grad, expected)


def kl_of(directory: Path, teacher: Path, request: Any, arguments: Any) -> float:
    """KL of a saved model from the teacher on the blocks trained on, by hand."""
    from spectra.train.assembly import load_model, read_data

    student = AutoModelForCausalLM.from_pretrained(teacher)
    prepare(student, spec("paretoq", w_bits=2))
    student.load_state_dict(weights(directory))
    float_model = AutoModelForCausalLM.from_pretrained(teacher)
    blocks, _ = read_data(request, load_model(request), arguments)
    ids = blocks.ids.long()
    with torch.no_grad():
        p, q = (m(input_ids=ids).logits.double().log_softmax(-1) for m in (float_model, student))
    return float((p.exp() * (p - q)).sum() / len(ids))


def test_what_is_logged_is_the_divergence_and_what_is_evaluated_the_text(ask: Ask) -> None:
    options: dict[str, Any] = {"logging_steps": 1, "max_steps": 1, "learning_rate": 0.0}
    request, arguments = ask(distill=True, **options)
    distilled = train(request, arguments)
    plain = train(*ask("plain", **options))
    assert distilled.initial == plain.initial
    state = json.loads((distilled.output / "trainer_state.json").read_text())
    logs = [entry for entry in state["log_history"] if "loss" in entry]
    expected = kl_of(distilled.output, Path(request.model), request, arguments)
    assert logs[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert "perplexity" not in logs[0]
    assert any("eval_perplexity" in entry for entry in state["log_history"])


def test_the_student_moves_toward_the_teacher(ask: Ask) -> None:
    request, arguments = ask(distill=True, max_steps=40, save_steps=20, lr_scheduler_type="cosine")
    result = train(request, arguments)
    divergences = [
        kl_of(result.output / f"checkpoint-{step}", Path(request.model), request, arguments)
        for step in (0, 40)
    ]
    assert divergences[1] < 0.5 * divergences[0]


def test_reductions_differ_by_the_length_of_a_sequence_alone(ask: Ask) -> None:
    options: dict[str, Any] = {"optim": "sgd", "max_grad_norm": 0.0, "max_steps": 1}
    total = train(*ask("a", distill=True, learning_rate=1e-3, **options))
    token = train(
        *ask("b", distill=True, distill_reduction="token", learning_rate=12e-3, **options)
    )
    start, one, two = (
        weights(path) for path in (total.output / "checkpoint-0", total.output, token.output)
    )
    name = "model.layers.1.mlp.up_proj.weight"
    assert not torch.equal(one[name], start[name])
    torch.testing.assert_close(
        one[name] - start[name], two[name] - start[name], rtol=1e-3, atol=1e-7
    )


def test_accumulated_micro_batches_make_the_same_step(ask: Ask) -> None:
    options: dict[str, Any] = {"distill": True, "optim": "sgd", "max_grad_norm": 0.0}
    whole = train(*ask("a", **options))
    halves = train(
        *ask("b", **options, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    )
    one, two = weights(whole.output), weights(halves.output)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("quantizer", ["llm-qat", "quest"])
def test_it_goes_with_other_recipes_and_is_resumed(ask: Ask, quantizer: str) -> None:
    common: dict[str, Any] = {
        "quantizer": quantizer,
        "w_bits": 4,
        "recipe": "winq+cage",
        "distill": True,
        "cage_silent": 0.2,
    }
    whole = train(*ask("whole", **common))
    saved = json.loads((whole.output / "spectra_quantization.json").read_text())
    assert saved["method"] == "winq+cage+distill"
    assert saved["recipe"]["distill_reduction"] == "batchmean"
    assert len(saved["recipe"]["teacher_sha256"]) == 64
    request, arguments = ask("again", **common)
    (Path(arguments.output_dir)).mkdir()
    (whole.output / "checkpoint-4").rename(Path(arguments.output_dir) / "checkpoint-4")
    resumed = train(replace(request, resume=True), arguments)
    assert same(weights(whole.output), weights(resumed.output))
    with pytest.raises(UsageError, match="recipe=winq"):
        train(replace(request, resume=True, distill=False), arguments)


def test_a_trainer_of_one_s_own_takes_a_teacher(ask: Ask) -> None:
    request, arguments = ask(eval_strategy="no")
    model, teacher = (AutoModelForCausalLM.from_pretrained(request.model) for _ in range(2))
    prepare(model, spec("bitnet", w_bits=1.58))
    with pytest.raises(UsageError, match="has no teacher"):
        attach(Trainer(model, arguments), Distill())
    recipe = Distill(teacher)
    trainer = Trainer(model, arguments, train_dataset=[], callbacks=[recipe])
    with pytest.raises(UsageError, match=r"use spectra\.train\.attach"):
        recipe.on_train_begin(arguments, trainer.state, None)
    attach(trainer, recipe)
    ids = torch.arange(8)[None]
    batch = {"input_ids": ids, "labels": ids}
    model.train()
    found = trainer.compute_loss(model, dict(batch))
    expected = divergence(teacher(ids).logits, model(ids).logits, "batchmean")
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert not any(p.requires_grad for p in teacher.parameters())
    teacher.resize_token_embeddings(50)
    with pytest.raises(UsageError, match="vocabulary of 50 and the model one of 48"):
        Distill(teacher).join(trainer)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"distill": True, "distill_reduction": "mean"}, "distill_reduction='mean' is not one of"),
        ({"teacher": "x"}, r"belongs to --recipe distill.*pass --recipe distill,"),
        ({"distill": True, "teacher": "nowhere"}, "teacher='nowhere'|nowhere"),
    ],
)
def test_wrong_settings_are_told(ask: Ask, options: dict[str, Any], named: str) -> None:
    with pytest.raises(Exception, match=named) as caught:
        train(*ask(**options))
    assert "\n" not in str(caught.value)


def test_a_quantized_teacher_is_refused(ask: Ask) -> None:
    first = train(*ask("first"))
    request, arguments = ask("second", distill=True, teacher=str(first.output))
    with pytest.raises(UsageError, match="is a quantized checkpoint, and distillation"):
        train(request, arguments)
