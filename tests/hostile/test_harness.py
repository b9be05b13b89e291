"""The harness sees what it is for: crashes, hangs, memory, messages that a terminal obeys."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from spectra.errors import DataError
from tests.hostile import fuzz, limits
from tests.hostile.limits import TooLargeError, TooSlowError, small_peak, within
from tests.hostile.mutate import mutate
from tests.hostile.readers import Reader


def _crash(_: Path, data: bytes) -> None:
    data.decode("ascii")


def _refuse(_: Path, data: bytes) -> None:
    raise DataError("no; pass another.")


def _obeyed(_: Path, data: bytes) -> None:
    error = DataError("no")
    error.args = ("\x1b[2J",)
    raise error


def _sleep(_: Path, data: bytes) -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    ("read", "data", "found"),
    [
        (_crash, b"\xff", "UnicodeDecodeError"),
        (_crash, b"a", None),
        (_refuse, b"", None),
        (_obeyed, b"", "AssertionError"),
        (_sleep, b"", "TooSlowError"),
    ],
)
def test_what_is_found_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Any, data: bytes, found: str | None
) -> None:
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    counter = fuzz.Counter(Reader("one", lambda _: [], read), 1)
    counter.run(data)
    kept = list((tmp_path / "one").glob("*"))
    assert counter.executions == 1
    assert [what.split()[0] for what in counter.crashes] == ([found] if found else [])
    assert [path.read_bytes() for path in kept] == ([data] if found else [])


def test_limits() -> None:
    with pytest.raises(TooSlowError), within(0.2):
        time.sleep(60)
    with pytest.raises(MemoryError), within(memory=1 << 28):
        bytearray(1 << 30)
    with pytest.raises(TooLargeError), small_peak(1 << 26):
        (b"\1" * (1 << 28)).count(b"\2")
    with within(), small_peak(1 << 26):
        bytes(1 << 20)


def test_mutations_are_of_their_seed_and_change_something() -> None:
    valid = b'{"a": {"b": [1, 2, 3]}, "c": "text"}'
    made = [mutate(valid, random.Random(seed), [b"other"]) for seed in range(200)]
    assert made == [mutate(valid, random.Random(seed), [b"other"]) for seed in range(200)]
    assert sum(one != valid for one in made) > 190
    assert len(set(made)) > 150
