"""Where nothing is usual: no network, no home, no terminal, another locale, odd paths, elsewhere.

Each locale is a process that runs all verbs below a directory: HF_HUB_OFFLINE is set, HOME cannot
be made (it would lie below a file), stdin is empty, output goes to files, and the current directory
has nothing to do with the package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import pytest

import spectra
from tests.environments import verbs

TINY = Path(spectra.__file__).parent / "tiny" / "model"
TEXT = "Größe λ±2 — 你好, ceci n'est pas une pipe. " * 400
SIZES = ["--seq_len", "32", "--num_batches", "1", "--lanczos_steps", "6"]
FEW = ["--num_sequences", "2", "--seq_len", "16"]
UTF8 = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
INHERITED = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")


@dataclass(frozen=True)
class Told:
    """What a process left: its exit codes, what it said, and where its files lie."""

    codes: list[str]
    out: bytes
    err: bytes
    place: Path


def _set_up(directory: Path, model: str, text: str) -> Path:
    shutil.copytree(TINY, directory / model)
    (directory / text).write_text(TEXT, encoding="utf-8")
    (directory / "a file").touch()
    (directory / "elsewhere").mkdir()
    return directory


def _run(place: Path, locale: dict[str, str], *commands: list[str]) -> Told:
    words: list[str] = []
    for command in commands:
        words += [*command, verbs.AND]
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    environment |= locale | {
        "HF_HUB_OFFLINE": "1",
        "HOME": str(place / "a file" / "home"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(TINY.parents[2]),
    }
    with (place / "out").open("wb") as out, (place / "err").open("wb") as err:
        subprocess.run(
            [sys.executable, verbs.__file__, *words],
            cwd=place / "elsewhere", env=environment, stdin=subprocess.DEVNULL, stdout=out,
            stderr=err, check=False,
        )  # fmt: skip
    said = (place / "err").read_bytes()
    codes = [line[5:] for line in said.decode(errors="replace").splitlines() if line[:5] == "exit "]
    return Told(codes, (place / "out").read_bytes(), said, place)


def _work(place: Path, model: str, text: str, results: str) -> list[list[str]]:
    """All verbs but the study that is made of them, the one after the other."""
    ckpt, data, out = (str(place / name) for name in (model, text, results))
    train = ["--w_bits", "2", "--recipe", "winq", "--max_steps", "2", "--seq_len", "32"]
    train += ["--per_device_train_batch_size", "2", "--output", f"{out}/run"]
    return [
        ["info", ckpt, "--data", data, *SIZES],
        ["info", "nobody/nothing"],
        ["estimate", "--ckpt", ckpt, "--data", data, "--output", f"{out}/float", *SIZES],
        ["sample", "--model", ckpt, "--output", f"{out}/drawn.jsonl", *FEW],
        ["train", "--model", ckpt, "--data", data, *train],
        ["estimate", "--ckpt", f"{out}/run", "--data", data, "--output", f"{out}/low", *SIZES],
        ["compare", f"{out}/low", f"{out}/low"],
        ["table", out],
        ["table", out, "--csv", f"{out}/all.csv"],
        ["plot", out, "--output", f"{out}/all.pdf"],
        ["report", out],
    ]


CODES = ["0", "1", *["0"] * 9]  # a hub id that cannot be asked for is the one failure


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """UTF-8, and paths with spaces and letters of several scripts."""
    place = _set_up(tmp_path_factory.mktemp("Läufe und λ 你"), "Modell é", "Text ü.txt")
    return _run(place, UTF8, *_work(place, "Modell é", "Text ü.txt", "Ergebnis ß"))


@pytest.fixture(scope="module")
def ascii_only(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A locale without UTF-8; at the end, names that it cannot say."""
    place = _set_up(tmp_path_factory.mktemp("runs and more"), "a model", "a text.txt")
    (place / "c.yaml").write_text("output: Ergebnis ß\n", encoding="utf-8")
    shutil.copytree(place / "a model", place / "Modell é")
    estimate = ["estimate", "--data", str(place / "a text.txt"), *SIZES]
    return _run(
        place, ASCII, *_work(place, "a model", "a text.txt", "results"),
        ["estimate", "--help"],
        [*estimate, "--ckpt", str(place / "Modell é"), "--output", str(place / "r")],
        [*estimate, "--ckpt", str(place / "a model"), "--config", str(place / "c.yaml")],
        ["train", "--model", str(place / "a model"), "--w_bits", "2", "--output", "Lauf ß"],
    )  # fmt: skip


def test_all_verbs_without_network_home_and_terminal_on_odd_paths(usual: Told) -> None:
    assert usual.codes == CODES, usual.err.decode()
    assert b"Traceback" not in usual.err
    assert "λmin" in usual.out.decode()
    assert "HF_HUB_OFFLINE is set" in usual.err.decode()
    results = usual.place / "Ergebnis ß"
    assert spectra.load(results / "float").complete
    for drawn in ("float/spectrum.png", "all.pdf", "report.html"):
        assert (results / drawn).stat().st_size > 1000


def test_a_progress_bar_is_for_terminals(usual: Told) -> None:
    assert b"\r" not in usual.err
    assert b"\x1b" not in usual.out + usual.err


def test_nothing_is_left_where_the_command_was_given(usual: Told, ascii_only: Told) -> None:
    for told in (usual, ascii_only):
        assert not list((told.place / "elsewhere").iterdir())


def test_a_locale_without_utf8_spells_tables_out(ascii_only: Told, usual: Told) -> None:
    assert ascii_only.codes[: len(CODES)] == CODES, ascii_only.err.decode()
    assert b"Traceback" not in ascii_only.err
    text, whole = ascii_only.out.decode("ascii"), usual.out.decode()
    assert "mass |lambda| <= 0.0015" in text
    assert "\\u" not in text
    assert _column(text, "lambdamax") == _column(whole, "λmax").replace("−", "-")


def _column(text: str, name: str) -> str:
    """Return the value beside a name, and the column in which it ends."""
    (line, *_) = (row for row in text.splitlines() if row.startswith(name))
    value = line.split()[1]
    return f"{value} at {line.index(value) + len(value)}"


def test_files_are_utf8_and_the_same_in_every_locale(ascii_only: Told, usual: Told) -> None:
    one, two = ascii_only.place / "results", usual.place / "Ergebnis ß"
    for name in ("float", "low"):
        a, b = spectra.load(one / name), spectra.load(two / name)
        assert a.metadata["data"]["sha256"] == b.metadata["data"]["sha256"]
        np.testing.assert_array_equal(a.alphas, b.alphas)
    for place in (one, two):
        assert len(pandas.read_csv(place / "all.csv", encoding="utf-8")) == 2
        assert "λ" in (place / "report.html").read_text(encoding="utf-8")


def test_names_that_a_locale_cannot_say_are_refused(ascii_only: Told) -> None:
    assert ascii_only.codes[len(CODES) :] == ["0", "2", "2", "2"], ascii_only.err.decode()
    said = ascii_only.err.decode("ascii").split("exit 0\n")[-1].split("exit 2\n")[:-1]
    assert len(said) == 3
    for sentence in said:
        assert "PYTHONUTF8=1" in sentence.splitlines()[-1]
