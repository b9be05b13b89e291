"""The loss of a kept task: what it is, that it survives a resume, and the detector on `tiny`."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from spectra.checkpoint import load_checkpoint
from spectra.data import TokenBlocks, token_blocks
from spectra.errors import CheckpointError, UsageError
from spectra.train import DEFAULTS, TrainRequest, heldout, train
from spectra.train.kept import FILE
from tests.train.conftest import SEQ_LEN, VOCAB, Ask


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "ids.npy"
    np.save(path, np.random.default_rng(5).integers(VOCAB, size=400))
    return path


def evaluations(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("step", "kept_loss", "kept_rise", "kept_rise_se")
    return [{n: entry[n] for n in names} for entry in log if "kept_loss" in entry]


def test_it_is_the_held_out_loss_of_the_kept_text(ask: Ask, kept: Path) -> None:
    result = train(*ask(kept_data=str(kept)))
    found = evaluations(result.log_history)
    assert [entry["step"] for entry in found] == [0, 4, 8]
    blocks = token_blocks(str(kept), None, seq_len=SEQ_LEN, max_blocks=4, vocab_size=VOCAB)
    losses = []

    def one(index: int) -> TokenBlocks:
        return blocks.split(index)[1].split(1)[0]

    for step in (0, 8):
        ckpt = load_checkpoint(result.output / f"checkpoint-{step}", device="cpu")
        losses.append([heldout(ckpt.model, one(i), show=False).loss for i in range(4)])
    before, after = (np.array(each) for each in losses)
    last = found[-1]
    assert found[0]["kept_loss"] == pytest.approx(before.mean())
    assert found[0]["kept_rise"] == 0
    assert last["kept_loss"] == pytest.approx(after.mean())
    assert last["kept_rise"] == pytest.approx((after - before).mean(), rel=1e-4)
    assert last["kept_rise_se"] == pytest.approx((after - before).std(ddof=1) / 2, rel=1e-4)


def test_it_changes_nothing_and_survives_a_resume(ask: Ask, kept: Path) -> None:
    alone = train(*ask("alone", save_strategy="no"))
    whole = train(*ask("whole", kept_data=str(kept)))
    assert whole.final == alone.final
    request, arguments = ask("whole", kept_data=str(kept))
    shutil.rmtree(whole.output / "checkpoint-8")
    resumed = train(replace(request, resume=True), arguments)
    assert evaluations(resumed.log_history) == evaluations(whole.log_history)
    shutil.rmtree(whole.output / "checkpoint-8")
    (whole.output / FILE).write_text("{")
    _, arguments = ask("whole")
    with pytest.raises(CheckpointError, match="is damaged; delete it"):
        train(replace(request, resume=True), arguments)


def test_a_run_that_evaluates_nothing_measures_nothing(ask: Ask, kept: Path) -> None:
    with pytest.raises(UsageError, match=r"eval_blocks=0 leaves none"):
        train(*ask(kept_data=str(kept), eval_blocks=0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "forgotten", "cause"), [(1e-3, True, "learning rate"), (1e-5, False, None)]
)
def test_tiny_forgets_at_1e_3_and_not_at_1e_5(
    tmp_path: Path, rate: float, forgotten: bool, cause: str | None
) -> None:
    from transformers import TrainingArguments

    generator = random.Random(0)
    pairs = [(generator.randrange(1000), generator.randrange(1000)) for _ in range(6000)]
    text = tmp_path / "sums.txt"
    text.write_text("".join(f"{a} + {b} = {a + b}\n" for a, b in pairs))
    for name, bits in (("hif8", None), ("plain", 16)):
        request = TrainRequest(
            model="tiny",
            data=str(text),
            kept_data="stdlib",
            quantizer="hif8:g_bits=8" if bits is None else "hif8",
            w_bits=bits,
            a_bits=bits,
            recipe="dts",
            eval_blocks=16,
            seq_len=64,
            save_initial=False,
        )
        chosen: dict[str, Any] = {
            "output_dir": str(tmp_path / "runs" / name),
            "max_steps": 20,
            "learning_rate": rate,
            "save_strategy": "no",
            "eval_steps": 10,
            "use_cpu": True,
            "report_to": "none",
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
        }
        train(request, TrainingArguments(**(DEFAULTS | chosen)))
    verdicts = {v.run: v for v in analysis.forgetting(analysis.load_training(tmp_path / "runs"))}
    assert verdicts["hif8"].control == "plain"
    assert {v.forgotten for v in verdicts.values()} == {forgotten}
    assert {v.cause for v in verdicts.values()} == {cause}
    assert "forgotten" in verdicts["hif8"].text()
