"""`spectra train`: flags to request and arguments, exit codes, what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spectra.cli import train as verb
from spectra.cli.main import main
from spectra.errors import UsageError
from spectra.parallel.launched import Place
from spectra.train import TrainRequest

Parsed = tuple[TrainRequest, Any]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function from flags to what would be run."""
    monkeypatch.chdir(tmp_path)
    caught: list[Parsed] = []

    def keep(request: TrainRequest, arguments: Any) -> int:
        caught.append((request, arguments))
        return 0

    monkeypatch.setattr(verb, "_train", keep)

    def parse(*flags: str) -> Parsed:
        assert verb.run([*flags, "--use_cpu"]) == 0
        return caught[-1]

    return parse


def test_our_defaults_stand_in_for_the_trainers(parsed: Any) -> None:
    request, arguments = parsed("--w_bits", "1.58")
    assert request.w_bits == 1.58
    assert arguments.learning_rate == 2e-5
    assert arguments.lr_scheduler_type == "cosine"
    assert arguments.output_dir == "runs/tiny-baseline-w1.58"
    assert arguments.seed == 0


def test_any_flag_of_training_arguments(parsed: Any) -> None:
    _, arguments = parsed(
        "--w-bits", "2", "--adam_beta2", "0.95", "--warmup-steps", "7", "--optim", "sgd"
    )
    assert (arguments.adam_beta2, arguments.warmup_steps, arguments.optim) == (0.95, 7, "sgd")


def test_method_is_another_name_of_recipe(parsed: Any) -> None:
    request, arguments = parsed("--w_bits", "2", "--method", "winq")
    assert request.recipe == "winq"
    assert arguments.output_dir == "runs/tiny-winq-w2"


def test_nearer_to_the_user_wins(parsed: Any, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("learning_rate: 3.0e-4\nreset_every: 5\nmax_steps: 20\n")
    flags = ("--preset", "llama-1b-w2a16", "--config", str(config), "--max_steps", "30")
    request, arguments = parsed(*flags)
    assert request.w_bits == 2  # the preset
    assert (request.reset_every, arguments.learning_rate) == (5, 3e-4)  # the file, over the preset
    assert arguments.max_steps == 30  # the flag, over both
    assert arguments.warmup_steps == 1000


def test_a_preset_may_stand_in_the_file(parsed: Any, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("preset: llama-1b-w3a16-baseline\n")
    request, arguments = parsed("--config", str(config))
    assert (request.w_bits, request.recipe, arguments.max_steps) == (3, "baseline", 80_000)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--preset", "llama-1b-w9"], "preset='llama-1b-w9' is not known"),
        (["--w_bitz", "2"], "did you mean --w_bits"),
        (["--output", "a", "--output_dir", "b"], "two directories"),
        (["--resume_from_checkpoint", "x"], "--resume"),
        (["--eval_strategy", "sometimes"], "sometimes"),
        (["--w_bits", "two"], "two"),
    ],
)
def test_wrong_flags(parsed: Any, flags: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        parsed(*flags)
    assert "\n" not in str(caught.value)


def test_a_run_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    LlamaForCausalLM(config).save_pretrained("model")
    np.save("ids.npy", np.arange(1000) % 32)
    flags = ["train", "--model", "model", "--data", "ids.npy", "--w_bits", "2", "--method", "winq"]
    flags += ["--reset_every", "2", "--max_steps", "4", "--seq_len", "8", "--eval_blocks", "4"]
    flags += ["--use_cpu", "--learning_rate", "1e-2"]
    assert main(flags) == 0
    out, err = capsys.readouterr()
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["run"] == "runs/model-winq-w2"
    assert "after 4 steps" in out
    assert "{" not in out  # logs go to stderr, in words
    assert "held-out loss" in err
    summary = json.loads(Path(lines["summary"]).read_text())
    assert summary["step"] == 4
    assert summary["recipe"] | {"name": "winq", "reset_every": 2} == summary["recipe"]
    assert summary["final"]["loss"] < summary["initial"]["loss"]
    assert main(flags) == 2  # the directory is taken
    assert "--resume" in capsys.readouterr().err
    assert main([*flags, "--resume"]) == 0  # nothing left to do, and nothing lost
    assert json.loads(Path(lines["summary"]).read_text())["step"] == 4


def test_processes_without_gpus_are_joined(monkeypatch):
    from spectra.cli.train import _device_defaults

    assert "use_cpu" not in _device_defaults()
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert _device_defaults()["use_cpu"] is True


def test_processes_that_would_train_apart_are_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("spectra.cli.train.place", lambda: Place(0, 2, 0, 2))
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    code = main(["train", "--model", "tiny", "--output", str(tmp_path / "r")])
    assert code == 2
    assert "each would train alone" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
