"""Checkpoints from strangers: refused in one sentence, or read; nothing runs or is written."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectra.checkpoint import describe, load_checkpoint
from spectra.cli.main import main
from spectra.errors import CheckpointError, SpectraError, printable
from tests.checkpoint.saved import build, save_tokenizer
from tests.hostile import cases_configs, cases_directories, cases_pickles, cases_tensors
from tests.hostile.limits import small_peak, tree, within

CASES = {
    **cases_pickles.CASES,
    **cases_tensors.CASES,
    **cases_configs.CASES,
    **cases_directories.CASES,
}
PEAK = 300 << 20  # bytes that reading any of these may take


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("good")
    build().save_pretrained(place)
    save_tokenizer(place)
    return place


@pytest.fixture
def place(good: Path, tmp_path: Path) -> Path:
    """A good checkpoint, to be made hostile."""
    return Path(shutil.copytree(good, tmp_path / "there" / "model"))


def refusal(action: Callable[[], Any]) -> str | None:
    """Return the sentence with which `action` is refused, None where it succeeds."""
    found: SpectraError | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action()
    except SpectraError as error:
        found = error
    if found is None:
        return None
    message = str(found)
    assert message == printable(message)
    assert message.endswith((".", "?"))
    assert found.__cause__ is None
    assert len(message) < 5000
    return message


@pytest.mark.parametrize("case", CASES)
def test_hostile_checkpoint(
    place: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, expected = CASES[case]
    canary = tmp_path / "canary"
    make(place, canary)
    before, here = tree(tmp_path), os.getcwd()
    monkeypatch.chdir(tmp_path)
    with within(), small_peak(PEAK):
        message = refusal(lambda: load_checkpoint(place, device="cpu"))
        refusal(lambda: describe(place))
    assert not canary.exists()
    assert tree(tmp_path) == before
    assert os.getcwd() != here
    if expected is None:
        assert message is None
    else:
        assert message is not None
        assert pytest.raises(CheckpointError, match=expected).matches(CheckpointError(message))


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 100


def test_the_hub_cache_is_made_of_links(good: Path, tmp_path: Path) -> None:
    root = tmp_path / "models--a--b"
    snapshot, blobs = root / "snapshots" / "0f1e", root / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(good.iterdir())):
        shutil.copy(file, blobs / f"blob{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/blob{number}")
    assert load_checkpoint(snapshot, device="cpu").tokenizer is not None
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../../elsewhere.json")
    with pytest.raises(CheckpointError, match="a link out of its directory"):
        load_checkpoint(snapshot, device="cpu")


def test_info_prints_no_control_characters(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = place.rename(place.with_name("m\x1b[31mo\x07d\u202eel"))
    cases_configs.change(evil, torch_dtype="\x1b[2J", w_bits=2)
    assert main(["info", str(evil)]) in (0, 1)
    assert main(["info", str(evil), "--w_bits", "16"]) in (0, 1)
    printed = "".join(capsys.readouterr())
    assert "\\x1b[31m" in printed
    assert printed == printable(printed, lines=True)
