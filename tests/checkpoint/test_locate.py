"""What a path names: the file it resolves to, or a sentence that says how it was read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from spectra.checkpoint.locate import locate
from spectra.errors import CheckpointError, UsageError


def touch(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text("{}")
    return directory


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin", "a.gguf"], "safetensors"),
        (["pytorch_model.bin", "a.gguf"], "pytorch_model.bin"),
    ],
)
def test_the_first_format_is_read(tmp_path: Path, files: list[str], expected: str) -> None:
    found = locate(touch(tmp_path, "config.json", *files))
    assert found.format == expected
    assert [file.name for file in found.weights] == files[:1]
    assert found.config == tmp_path / "config.json"


def test_gguf_as_a_file_or_the_only_one_of_a_directory(tmp_path: Path) -> None:
    touch(tmp_path / "one", "A.GGUF", "readme.md")
    for path in (tmp_path / "one", tmp_path / "one" / "A.GGUF"):
        found = locate(path)
        assert (found.format, found.config) == ("gguf", None)
        assert found.weights == (tmp_path / "one" / "A.GGUF",)
    touch(tmp_path / "two", "a.gguf", "b.gguf")
    with pytest.raises(CheckpointError, match=r"holds 2 GGUF files; pass one of a\.gguf, b\.gguf"):
        locate(tmp_path / "two")


@pytest.mark.parametrize(
    ("name", "state", "step", "notes"),
    [
        ("checkpoint-30", None, 30, 0),
        ("checkpoint-30", 30, 30, 0),
        ("checkpoint-30", 31, 30, 1),
        ("final", 500, 500, 0),
        ("final", None, None, 0),
        ("checkpoint-last", None, None, 0),
    ],
)
def test_step(tmp_path: Path, name: str, state: int | None, step: int | None, notes: int) -> None:
    place = touch(tmp_path / name, "config.json", "model.safetensors")
    if state is not None:
        (place / "trainer_state.json").write_text(json.dumps({"global_step": state}))
    found = locate(place)
    assert (found.step, len(found.notes)) == (step, notes)


@pytest.mark.parametrize("state", ["{", "[]", '{"global_step": "x"}', '{"global_step": true}'])
def test_a_broken_trainer_state_tells_nothing(tmp_path: Path, state: str) -> None:
    touch(tmp_path, "config.json", "model.safetensors")
    (tmp_path / "trainer_state.json").write_text(state)
    assert locate(tmp_path).step is None


def test_step_of_the_working_directory(tmp_path: Path, monkeypatch: Any) -> None:
    place = touch(tmp_path / "checkpoint-12", "config.json", "model.safetensors")
    monkeypatch.chdir(place)
    assert locate(".").step == 12


def test_missing_paths(tmp_path: Path) -> None:
    touch(tmp_path / "w2-run", "config.json")
    with pytest.raises(CheckpointError, match=r"does not exist in .*; did you mean w2-run\.$"):
        locate(tmp_path / "w2-rum")
    with pytest.raises(CheckpointError, match=r"does not exist, and neither does .*/such'"):
        locate(tmp_path / "no" / "such" / "place")
    with pytest.raises(CheckpointError, match="does not exist in"):
        locate(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        locate("/" + "x" * 5000)
    with pytest.raises(UsageError, match="names nothing"):
        locate("")


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ([], "is an empty directory"),
        (["config.json"], "holds config.json but no weights"),
        (["readme.md"], r"holds no checkpoint \(.*readme\.md\); expected model\.safetensors"),
        (["model.safetensors"], "holds model.safetensors but no config.json"),
        (["config.json", "model.safetensors", "adapter_config.json"], "is an adapter, whose base"),
        (["config.json", "weights.pt", "x.safetensors"], r"holds weights\.pt, x\.safetensors, but"),
    ],
)
def test_directories_without_a_checkpoint(tmp_path: Path, files: list[str], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        locate(touch(tmp_path / "d", *files))


def test_a_run_without_weights_of_its_own_names_its_checkpoints(tmp_path: Path) -> None:
    for step in (100, 20, 3):
        touch(tmp_path / f"checkpoint-{step}", "model.safetensors")
    with pytest.raises(CheckpointError, match=r"checkpoint-3, checkpoint-20, checkpoint-100, or -"):
        locate(tmp_path)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("model.safetensors", "pass the directory that holds it"),
        ("pytorch_model.bin", "pass the directory that holds it"),
        ("notes.txt", "is a file of no known kind"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path: Path, name: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        locate(touch(tmp_path, name) / name)


def test_a_revision_is_for_the_hub(llama: Path) -> None:
    with pytest.raises(UsageError, match=r"revision='step3' is for hub ids; .* is a local path"):
        locate(llama, revision="step3")


def test_an_unreadable_builtin(monkeypatch: Any, tmp_path: Path) -> None:
    import spectra.tiny

    monkeypatch.setattr(spectra.tiny, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(CheckpointError, match="built-in model is missing from this installation"):
        locate("tiny")


def test_home_is_expanded(llama: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(llama.parent))
    shutil.copytree(llama, llama.parent / "copy")
    assert locate("~/copy").directory == llama.parent / "copy"
