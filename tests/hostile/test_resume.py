"""Going on in a run of somebody else: states that run code, links that lead out, odd numbers."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.errors import CheckpointError
from spectra.train import train
from spectra.train.seal import FILE as SEAL
from tests.hostile.canary import Payload
from tests.hostile.limits import within
from tests.train.conftest import Ask, ask, model_dir, tokens

__all__ = ["ask", "model_dir", "tokens"]  # fixtures
CODE = "is a pickle of more than tensors, which could run code when read"
Build = Callable[[Path, Path], Any]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


def _code(file: str, *, zipped: bool = True) -> Build:
    def build(last: Path, canary: Path) -> None:
        content = {"state": {}, "param_groups": [Payload(canary, "system")]}
        torch.save(content, last / file, _use_new_zipfile_serialization=zipped)

    return build


def _state(**changes: Any) -> Build:
    def build(last: Path, _: Path) -> None:
        file = last / "trainer_state.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return build


def _bomb(last: Path, _: Path) -> None:
    with (
        zipfile.ZipFile(last / "optimizer.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out,
        out.open("archive/data.pkl", "w", force_zip64=True) as member,
    ):
        for _ in range(50):
            member.write(bytes(10_000_000))


def _put(file: str, content: Any) -> Build:
    return lambda last, _: torch.save(content, last / file)


def _link(last: Path, canary: Path) -> None:
    (last.parent / "checkpoint-12").symlink_to(canary.parent)


CASES: dict[str, tuple[Build, str]] = {
    "optimizer.pt": (_code("optimizer.pt"), CODE),
    "optimizer.pt of the old format": (_code("optimizer.pt", zipped=False), CODE),
    "scheduler.pt": (_code("scheduler.pt"), CODE),
    "rng_state.pth": (_code("rng_state.pth"), CODE),
    "rng_state.pth of another process": (_code("rng_state_0.pth"), CODE),
    "pytorch_model.bin": (_code("pytorch_model.bin"), CODE),
    "optimizer.pt, compressed": (_bomb, "compressed archive|larger than the file"),
    "optimizer.pt of nothing": (_put("optimizer.pt", {}), "training cannot go on from"),
    "optimizer.pt of another model": (
        _put("optimizer.pt", {"state": {0: {}}, "param_groups": [{"params": [0]}]}),
        "training cannot go on from",
    ),
    "scheduler.pt of a list": (_put("scheduler.pt", [1, 2]), "training cannot go on from"),
    "rng_state.pth of numbers": (
        _put("rng_state.pth", {"python": 1}),
        "training cannot go on from",
    ),
    "a step in words": (_state(global_step="4"), "has global_step='4'"),
    "a log that is none": (_state(log_history=7), "has no log of steps"),
    "the best checkpoint elsewhere": (_state(best_model_checkpoint="/etc"), "outside its run"),
    "a link out of the run": (_link, "a link out of it"),
}


@pytest.mark.parametrize("case", CASES)
def test_hostile_states(ask: Ask, tmp_path: Path, kept: Path, case: str) -> None:
    request, arguments = ask("run", eval_blocks=0)
    run, first = Path(arguments.output_dir), kept / "run"
    if not first.exists():
        train(request, arguments)
        shutil.move(run, first)
    shutil.copytree(first, run)
    shutil.rmtree(run / "checkpoint-8")  # as after an interruption at the last step
    canary = tmp_path / "elsewhere" / "canary"
    canary.parent.mkdir()
    make, expected = CASES[case]
    make(run / "checkpoint-4", canary)
    (run / "checkpoint-4" / SEAL).unlink()  # who changes files can leave it out as well
    with within(), pytest.raises(CheckpointError, match=expected) as caught:
        train(replace(request, resume=True), arguments)
    assert "\n" not in str(caught.value)
    assert not canary.exists()
    assert not list(canary.parent.iterdir())


def test_training_arguments_are_never_opened(ask: Ask, tmp_path: Path, kept: Path) -> None:
    request, arguments = ask("run", eval_blocks=0)
    train(request, arguments)
    run, canary = Path(arguments.output_dir), tmp_path / "canary"
    shutil.rmtree(run / "checkpoint-8")
    for place in (run, run / "checkpoint-4"):
        torch.save(Payload(canary), place / "training_args.bin")
    assert train(replace(request, resume=True), arguments).step == 8
    assert not canary.exists()
    os.stat(run / "model.safetensors")
