"""Checkpoints whose bytes are not those that were saved are not gone on from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spectra.errors import UsageError
from spectra.record.digest import KEY, json_sha256
from spectra.train import train
from spectra.train.saving import last_complete
from spectra.train.seal import FILE, seal, sealed
from tests.train.conftest import Ask
from tests.train.weights import same, weights


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth", FILE])
def test_a_changed_checkpoint_is_passed_over(
    ask: Ask, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    request, arguments = ask(save_steps=3, max_steps=8)
    whole = train(request, arguments)
    before = weights(whole.output)
    (whole.output / "spectra_training.json").unlink()
    last = last_complete(whole.output, verify=True)
    assert last == whole.output / "checkpoint-8"
    flipped(last / name)
    assert last_complete(whole.output, verify=True) == whole.output / "checkpoint-6"
    assert "it is passed over" in caplog.text
    _, arguments = ask(save_steps=3, max_steps=8)
    resumed = train(replace(request, resume=True), arguments)
    assert same(weights(resumed.output), before)
    assert sealed(last)


def test_seals_tell_torn_from_unsealed(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint-4"
    place.mkdir()
    assert sealed(place) is None
    for name in ("model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state_1.pth"):
        (place / name).write_bytes(name.encode())
    seal(place)
    assert sealed(place)
    assert "rng_state_1.pth" not in json.loads((place / FILE).read_text())["files"]
    (place / "README.md").write_text("a note")
    assert sealed(place)
    (place / "optimizer.pt").write_bytes(b"optimize")  # torn
    assert sealed(place) is False
    (place / "optimizer.pt").unlink()
    assert sealed(place) is False
    (place / FILE).write_text("{")
    assert sealed(place) is False


def test_runs_of_before_have_no_seals_and_go_on(ask: Ask) -> None:
    request, arguments = ask()
    whole = train(request, arguments)
    before: Any = weights(whole.output)
    for path in whole.output.glob(f"checkpoint-*/{FILE}"):
        path.unlink()
    (whole.output / "spectra_training.json").unlink()
    _, arguments = ask()
    resumed = train(replace(request, resume=True), arguments)
    assert same(weights(resumed.output), before)


def test_a_changed_checkpoint_that_is_the_only_one_is_refused(ask: Ask) -> None:
    request, arguments = ask(save_steps=8, max_steps=8)
    run = train(request, arguments).output
    (run / "spectra_training.json").unlink()
    flipped(run / "checkpoint-8" / "optimizer.pt")
    _, arguments = ask(save_steps=8, max_steps=8)
    with pytest.raises(UsageError, match="checkpoint-8 is not what was saved"):
        train(replace(request, resume=True), arguments)


@pytest.mark.parametrize("name", ["/dev/zero", "../secret", "notes.txt"])
def test_a_seal_names_files_of_its_checkpoint_alone(tmp_path: Path, name: str) -> None:
    place = tmp_path / "checkpoint-4"
    place.mkdir()
    (place / "notes.txt").write_text("a note")
    content: dict[str, Any] = {"version": 1, "files": {name: "0" * 64}}
    content[KEY] = json_sha256(content)
    (place / FILE).write_text(json.dumps(content))
    assert sealed(place) is False
