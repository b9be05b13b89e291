"""Data parallelism: two processes take the steps that one process with accumulation takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

OPTIONS = ["--w_bits", "2", "--recipe", "winq+cage", "--reset_every", "3"]
OPTIONS += ["--noise_std", "0.01", "--cage_silent", "0.3", "--distill"]
OPTIONS += ["--max_steps", "6", "--seq_len", "12", "--eval_blocks", "4", "--learning_rate", "1e-3"]
OPTIONS += ["--per_device_train_batch_size", "4", "--save_steps", "3", "--eval_steps", "3"]
OPTIONS += ["--logging_steps", "1", "--use_cpu", "--seed", "3"]

# `spectra train` as it is, and at the end each process writes the weights that it holds.
WORKER = """
import sys, torch
from transformers import TrainerCallback
from spectra.cli.main import main
from spectra.train import run

class Keep(TrainerCallback):
    def on_train_end(self, args, state, control, model, **kwargs):
        torch.save(model.state_dict(), f"{args.output_dir}/rank-{args.process_index}.pt")

build = run.build
def keeping(request, arguments):
    assembly = build(request, arguments)
    assembly.trainer.add_callback(Keep())
    return assembly
run.build = keeping
raise SystemExit(main(["train", *sys.argv[1:]]))
"""


def spectra_train(launcher: list[str], model: Path, data: Path, output: Path, *more: str) -> str:
    worker = output.with_suffix(".py")
    worker.write_text(WORKER)
    command = [*launcher, str(worker), "--model", str(model), "--data", str(data)]
    found = subprocess.run(
        [*command, *OPTIONS, "--output", str(output), *more],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        timeout=240,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def runs(
    model_dir: Path, tokens: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, str]:
    """One run by one process with accumulation, one by two processes, and what the latter says."""
    root = tmp_path_factory.mktemp("runs")
    one, two = root / "one", root / "two"
    accumulate = ("--gradient_accumulation_steps", "2")
    spectra_train([sys.executable], model_dir, tokens, one, *accumulate)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    said = spectra_train([*torchrun, "--nproc-per-node", "2"], model_dir, tokens, two)
    return one, two, said


def test_two_processes_equal_one_with_accumulation(runs: tuple[Path, Path, str]) -> None:
    one, two, _ = runs
    for step in (3, 6):
        a, b = (load_file(run / f"checkpoint-{step}" / "model.safetensors") for run in (one, two))
        assert a.keys() == b.keys()
        start = load_file(one / "checkpoint-0" / "model.safetensors")
        for name in a:
            moved = float((a[name] - start[name]).abs().max())
            assert moved > 0
            # Adam divides by the root of a second moment: where that is tiny, rounding shows.
            assert float((a[name] - b[name]).abs().max()) < 1e-2 * moved
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_both_processes_hold_the_same_weights(runs: tuple[Path, Path, str]) -> None:
    _, two, _ = runs
    ranks = [torch.load(two / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])


def test_both_evaluate_and_log_alike(runs: tuple[Path, Path, str]) -> None:
    one, two, _ = runs
    logs = [
        json.loads((run / "trainer_state.json").read_text())["log_history"] for run in (one, two)
    ]
    for key in ("loss", "grad_norm", "quant_error_ratio", "grad_weight_ratio", "eval_loss"):
        values = [[entry[key] for entry in log if key in entry] for log in logs]
        assert len(values[0]) >= 3
        assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_one_rank_speaks(runs: tuple[Path, Path, str]) -> None:
    _, _, said = runs
    assert said.count("held-out perplexity") == 1
