"""Evaluation without training: held-out loss and perplexity, what is written, what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from spectra.checkpoint import load_checkpoint
from spectra.cli.main import main
from spectra.data import TokenBlocks, token_blocks
from spectra.errors import NumericalError
from spectra.quant import Noise, convert, quant_layers
from spectra.train.evaluation import heldout
from tests.train.tasks import QUESTIONS, best, log_likelihoods, write_task

SEQ_LEN, BLOCKS = 32, 5
EVALUATE = ["train", "--model", "tiny", "--do_train", "false", "--do_eval", "--use_cpu"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "ids.npy"
    generator = np.random.default_rng(0)
    np.save(path, generator.integers(0, 1024, SEQ_LEN * BLOCKS + 7))
    return path


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = main([str(a) for a in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def losses(model, ids):
    """Losses of each block, (B, T − 1), one block at a time in float64 after the logits."""
    with torch.no_grad():
        rows = [model(input_ids=row[None]).logits[0].double().log_softmax(-1) for row in ids]
    return torch.stack(
        [-logp[:-1].gather(1, row[1:, None])[:, 0] for logp, row in zip(rows, ids, strict=True)]
    )


@pytest.mark.parametrize("w_bits", [None, 1, 2])
def test_loss_and_its_error_are_those_of_the_definition(w_bits, text):
    model = load_checkpoint("tiny", device="cpu", w_bits=w_bits).model
    blocks = token_blocks(text, seq_len=SEQ_LEN)
    found = heldout(model, blocks, batch_size=2, show=False)
    for layer in quant_layers(model).values() if w_bits else ():
        layer.set_noise(Noise(weight_std=0.1, scale_std=0.1))  # of training alone
    model.train()
    again = heldout(model, blocks, batch_size=BLOCKS, show=False)
    assert model.training
    if w_bits:
        convert(model)
    each = losses(model.eval(), blocks.ids)
    assert found.loss == pytest.approx(float(each.mean()), rel=1e-6)
    assert again.loss == pytest.approx(found.loss, rel=1e-6)
    spread = float(each.mean(1).std()) / math.sqrt(BLOCKS)
    assert found.loss_se == pytest.approx(spread, rel=1e-4)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert (found.tokens, found.blocks) == (BLOCKS * (SEQ_LEN - 1), BLOCKS)


def test_it_is_the_loss_that_training_reports(text, tmp_path):
    from transformers import Trainer, TrainingArguments, default_data_collator

    model = load_checkpoint("tiny", device="cpu", w_bits=2).model
    blocks = token_blocks(text, seq_len=SEQ_LEN)
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_eval_batch_size=2,
        report_to="none",
        dataloader_pin_memory=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, eval_dataset=blocks, data_collator=default_data_collator)
    expected = trainer.evaluate()["eval_loss"]
    assert heldout(model, blocks, batch_size=2).loss == pytest.approx(expected, rel=1e-5)


def test_one_block_has_no_spread_and_a_repeated_text_none(text):
    model = load_checkpoint("tiny", device="cpu").model
    ids = token_blocks(text, seq_len=SEQ_LEN).ids
    assert heldout(model, TokenBlocks(ids[:1], "one"), show=False).loss_se is None
    same = heldout(model, TokenBlocks(ids[:1].repeat(3, 1), "one"), batch_size=1, show=False)
    assert same.loss_se == pytest.approx(0, abs=1e-9)


def test_a_model_that_does_not_compute_is_refused(text):
    model = load_checkpoint("tiny", device="cpu").model
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    with pytest.raises(NumericalError, match="is nan"):
        heldout(model, token_blocks(text, seq_len=SEQ_LEN), show=False)


def test_a_float_checkpoint_is_evaluated_and_nothing_written(run, tmp_path, text):
    code, out, _ = run(*EVALUATE, "--eval_data", text, "--seq_len", SEQ_LEN)
    assert code == 0
    assert list(tmp_path.iterdir()) == []
    model = load_checkpoint("tiny", device="cpu").model
    found = heldout(model, token_blocks(text, seq_len=SEQ_LEN), show=False)
    for words in (
        "tiny (float, float32)",
        f"{found.perplexity:.5g} ± ",
        f"{found.loss:.5f} ± ",
        f"{BLOCKS * (SEQ_LEN - 1)} predictions in {BLOCKS} blocks of {SEQ_LEN}",
        str(text),
        " s\n",
    ):
        assert words in out


def test_a_quantized_checkpoint_is_evaluated_and_written(run, tmp_path, text):
    places = ["--data", text, "--seq_len", SEQ_LEN, "--w_bits", 2, "--eval_blocks", 3]
    code, out, _ = run(*EVALUATE, *places, "--output", "deep/result.json")
    assert code == 0
    assert "deep/result.json" in out
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["result.json"]
    written = json.loads((tmp_path / "deep" / "result.json").read_text())
    model = load_checkpoint("tiny", device="cpu", w_bits=2).model
    blocks = token_blocks(text, seq_len=SEQ_LEN, max_blocks=3)
    found = heldout(model, blocks, show=False)
    assert written["heldout"]["loss"] == pytest.approx(found.loss, rel=1e-6)
    assert written["heldout"]["perplexity"] == pytest.approx(found.perplexity, rel=1e-6)
    assert written["heldout"]["sha256"] == blocks.sha256
    assert written["checkpoint"]["quantizer"] == "paretoq"
    assert written["tasks"] is None
    code, _, err = run(*EVALUATE, *places, "--output", "deep/result.json")
    assert (code, "--overwrite" in err) == (2, True)
    assert run(*EVALUATE, *places, "--output", "deep/result.json", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--do_train", "false"], "add --do_eval"),
        (["--do_train", "false", "--do_eval", "--eval_blocks", "0"], "eval_blocks=0"),
        (["--w_bits", "2", "--do_eval", "--eval_blocks", "0"], "eval_blocks=0"),
        (["--w_bits", "2", "--tasks", "winq"], "add --do_eval"),
        (["--do_train", "false", "--do_eval", "--task_limit", "3"], "pass --tasks too"),
        (["--do_train", "false", "--do_eval", "--tasks", "a", "--task_limit", "0"], "below 1"),
        (["--do_train", "false", "--do_eval", "--resume"], "goes on with training"),
        (["--do_train", "false", "--do_eval", "--eval_blocks", "-1"], "negative"),
        (["--do_train", "false", "--do_eval", "--eval_data", "no.txt"], "no.txt"),
        (
            ["--do_train", "false", "--do_eval", "--output", "a", "--output_dir", "b"],
            "two directories",
        ),
    ],
)
def test_what_would_come_to_nothing_is_refused(run, tmp_path, arguments, words):
    code, out, err = run("train", "--model", "tiny", "--use_cpu", *arguments)
    assert code != 0
    assert words in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_trained_model_is_asked_as_it_stands_on_disk(run, tmp_path, text):
    pytest.importorskip("lm_eval")
    task = write_task(tmp_path / "task", [0] * len(QUESTIONS))
    sizes = ["--max_steps", 2, "--seq_len", SEQ_LEN, "--per_device_train_batch_size", 2]
    code, out, _ = run(
        *("train", "--model", "tiny", "--w_bits", 2, "--data", text, "--eval_blocks", 1),
        *("--learning_rate", 0.01, "--output", "run", "--use_cpu", *sizes),
        *("--do_eval", "--tasks", task),
    )
    assert code == 0
    written = json.loads((tmp_path / "run" / "spectra_evaluation.json").read_text())
    trained = load_checkpoint(tmp_path / "run", device="cpu")
    assert trained.meta.step == 2
    assert written["checkpoint"]["sha256"] == trained.meta.sha256
    answers = best(log_likelihoods(trained.model, trained.tokenizer))
    expected = answers.count(0) / len(answers)
    assert written["tasks"]["mean_acc"]["value"] == expected
    assert f"mean of 1   acc       {expected:.4f}" in out
