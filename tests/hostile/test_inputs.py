"""Data and configuration files from strangers: huge, binary, endless, or with YAML's own powers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectra.cli import estimate
from spectra.cli.arguments import parse
from spectra.data import token_batches
from spectra.errors import DataError, SpectraError, UsageError, printable
from tests.hostile.canary import Payload
from tests.hostile.limits import small_peak, tree, within
from tests.hostile.texts import words

PEAK = 400 << 20


def _bytes(name: str, content: bytes) -> Callable[[Path, Path], Path]:
    def build(place: Path, _: Path) -> Path:
        (place / name).write_bytes(content)
        return place / name

    return build


def _sparse(name: str) -> Callable[[Path, Path], Path]:
    def build(place: Path, _: Path) -> Path:
        with (place / name).open("wb") as handle:
            handle.truncate(10**12)
        return place / name

    return build


def _array(array: Any) -> Callable[[Path, Path], Path]:
    def build(place: Path, canary: Path) -> Path:
        made = np.array([Payload(canary)], dtype=object) if array is None else array
        np.save(place / "a.npy", made)
        return place / "a.npy"

    return build


def _shape(place: Path, _: Path) -> Path:
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (10000000000000,), }".ljust(117)
    (place / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + bytes([118, 0]) + header + b"\n")
    return place / "a.npy"


def _pipe_below(place: Path, _: Path) -> Path:
    (place / "texts").mkdir()
    os.mkfifo(place / "texts" / "a.txt")
    return place / "texts"


DATA: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "a terabyte of nothing": (_sparse("a.txt"), "is a binary file"),
    "a line of a terabyte": (_sparse("a.jsonl"), "characters or more"),
    "an array of a terabyte without a header": (_sparse("a.npy"), "not a plain .npy array"),
    "an array that claims terabytes": (_shape, "not a plain .npy array"),
    "an array of objects": (_array(None), "not a plain .npy array"),
    "an array of numbers with a fraction": (_array(np.ones(9)), "must hold integer token ids"),
    "an array of ids beyond the vocabulary": (
        _array(np.full(200, 2**31)),
        "outside the model's vocab",
    ),
    "an array of ids beyond 63 bits": (_array(np.full(200, 2**64 - 1, np.uint64)), "not negative"),
    "an array of no rank": (_array(np.int64(3)), "holds 1 tokens"),
    "a program": (_bytes("a.txt", b"\x7fELF\0\0" * 99), "is a binary file"),
    "bytes that are no UTF-8": (_bytes("a.txt", b"\xff\xfe\xfa" * 99), "is not UTF-8"),
    "a pickle": (_bytes("a.jsonl", b"\x80\x04cos\nsystem\n."), "not UTF-8|not JSON"),
    "half a surrogate": (
        _bytes("a.jsonl", b'{"text": "\\ud800 and \\udfff"}'),
        "tokenizer cannot read|holds",
    ),
    "a line nested without end": (_bytes("a.jsonl", b"[" * 10**6), "nested too deeply"),
    "an id of 5000 digits": (
        _bytes("a.jsonl", b'{"input_ids": [' + b"9" * 5000 + b"]}"),
        "not JSON",
    ),
    "ids that are objects": (_bytes("a.jsonl", b'{"input_ids": [{}, []]}'), "flat list of integer"),
    "parquet": (_bytes("a.parquet", b"PAR1"), "files are not read"),
    "an archive": (_bytes("a.npz", b"PK"), "files are not read"),
    "a directory of a pipe": (_pipe_below, "holds no text"),
}


@pytest.mark.parametrize("case", DATA)
def test_hostile_data(tmp_path: Path, case: str) -> None:
    make, expected = DATA[case]
    canary, tokenizer = tmp_path / "canary", words()
    source = make(tmp_path, canary)
    before = tree(tmp_path)
    with within(), small_peak(PEAK), pytest.raises(SpectraError, match=expected) as caught:
        token_batches(source, tokenizer, seq_len=64, num_batches=2, vocab_size=1024)
    assert isinstance(caught.value, DataError | UsageError)
    assert str(caught.value) == printable(str(caught.value))
    assert not canary.exists()
    assert tree(tmp_path) == before


LAUGHS = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "a call": ('seed: !!python/object/apply:os.mkdir ["{canary}"]', "is not YAML"),
    "a module": ("seed: !!python/module:os", "is not YAML"),
    "an object": (
        'seed: !!python/object/new:subprocess.Popen [["mkdir", "{canary}"]]',
        "is not YAML",
    ),
    "a name": ("seed: !!python/name:os.system", "is not YAML"),
    "references in references": (LAUGHS, "anchors and aliases are not read"),
    "a reference to itself": ("seed: &a [*a]", "anchors and aliases are not read"),
    "a merge": ("x: &x {seed: 1}\n<<: *x", "anchors and aliases are not read"),
    "a name given twice": ("seed: 1\nseed: 2", "'seed' is given twice"),
    "nesting without end": ("[" * 10_000, "is not YAML"),
    "a date that is none": ("seed: 2024-99-99", "is not YAML"),
    "a value that is a mapping": ("seed: {a: 1}", "is not an option with a value"),
    "a value that is a date": ("seed: 2024-01-01", "is not an option with a value"),
    "a value that is bytes": ("seed: !!binary aGVsbG8=", "is not an option with a value"),
    "a key that is a list": ("[a, b]: 1", "is not YAML|is not an option"),
    "a key that is a number": ("7: 1", "is not an option with a value"),
    "a list for a number": ("seed: [1, 2]", "does not fit"),
    "a truth for a number": ("seed: true", "does not fit"),
    "a number beyond any": ("seed: 1e999", "does not fit"),
    "escapes": ('"\\e[31m": 1', "is not an option"),
    "binary": ("\0\0\0", "is not YAML"),
    "two megabytes": ("# " + "x" * (2 << 20), "is not YAML: it has more than"),
}


@pytest.mark.parametrize("case", YAML)
def test_hostile_yaml(tmp_path: Path, case: str) -> None:
    text, expected = YAML[case]
    canary, file = tmp_path / "canary", tmp_path / "flags.yaml"
    file.write_text(text.replace("{canary}", str(canary)))
    with within(), small_peak(PEAK), pytest.raises(UsageError, match=expected) as caught:
        parse(estimate.Arguments, ["--config", str(file)], prog="spectra", description="")
    assert str(caught.value) == printable(str(caught.value))
    assert len(str(caught.value)) < 5000
    assert not canary.exists()
