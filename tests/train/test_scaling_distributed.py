"""Two processes and one with accumulation have the same windows: maxima are over all ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spectra.cli.main import main
from spectra.quant.scaling import EMPTY
from tests.train.test_distributed import WORKER

FLAGS = [
    "--quantizer",
    "hif8:g_bits=8",
    "--recipe",
    "dts",
    "--plain_steps",
    "1",
    "--max_steps",
    "4",
]
FLAGS += ["--seq_len", "12", "--eval_blocks", "4", "--per_device_train_batch_size", "4"]
FLAGS += ["--save_steps", "2", "--logging_steps", "1", "--learning_rate", "1e-4", "--use_cpu"]

pytestmark = pytest.mark.slow  # half a minute of launching; test_distributed is in the suite


def arguments(model: Path, data: Path, output: Path) -> list[str]:
    places = ["--model", str(model), "--data", str(data), "--output", str(output)]
    return [*places, *FLAGS]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def runs(
    model_dir: Path, tokens: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    accumulate = ["--gradient_accumulation_steps", "2"]
    assert main(["train", *arguments(model_dir, tokens, root / "one"), *accumulate]) == 0
    worker = root / "worker.py"
    worker.write_text(WORKER)
    found = subprocess.run(
        [*TORCHRUN, str(worker), *arguments(model_dir, tokens, root / "two")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        timeout=240,
    )
    assert found.returncode == 0, found.stderr
    return root / "one", root / "two"


def test_the_windows_are_those_of_one_process_with_accumulation(runs: tuple[Path, Path]) -> None:
    for step in (2, 4):
        one, two = (load_file(run / f"checkpoint-{step}" / "model.safetensors") for run in runs)
        names = [name for name in one if name.endswith(".amax")]
        assert len(names) == 14 * 3
        for name in names:
            a, b = one[name], two[name]
            assert torch.equal(a == EMPTY, b == EMPTY)
            assert int((a != EMPTY).sum()) == step - 1  # one step was plain
            # The Trainer scales losses by the number of ranks, whose mean the gradients become.
            b = torch.where((b != EMPTY) & ("gradients" in name), b / 2, b)
            # Later, Adam's rounding may move a value over a threshold.
            torch.testing.assert_close(a, b, rtol=1e-5 if step == 2 else 2e-2, atol=0)


def test_both_ranks_have_the_same_windows_bit_for_bit(runs: tuple[Path, Path]) -> None:
    ranks = [torch.load(runs[1] / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    windows = [name for name in ranks[0] if name.endswith(".amax")]
    assert len(windows) == 14 * 3
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])


def test_the_counts_are_those_of_all_ranks(runs: tuple[Path, Path]) -> None:
    lines = [(run / "spectra_scaling.jsonl").read_text().splitlines() for run in runs]
    assert len(lines[0]) == len(lines[1]) == 3
    for one, two in zip(*lines, strict=True):
        a, b = json.loads(one), json.loads(two)
        assert a["step"] == b["step"]
        assert a["tensors"].keys() == b["tensors"].keys()
        for name, values in a["tensors"].items():
            assert values[0] == pytest.approx(b["tensors"][name][0], rel=2e-2)
            assert values[1] * 2 == int(values[1] * 2)  # of two calls
    exceeded = [v[1] for v in json.loads(lines[1][1])["tensors"].values()]
    assert 0.5 in exceeded  # one rank of two was beyond the window
