"""Damaged, foreign and hostile records: one sentence each, never a traceback."""

from __future__ import annotations

import json
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from spectra.errors import RecordError
from spectra.record import SCHEMA, load, save
from spectra.record.files import ARRAYS, METADATA
from tests.record.records import ARRAY_NAMES, spectrum


def test_no_record(tmp_path: Path) -> None:
    (tmp_path / "spectrum.txt").write_text("")
    for path in (tmp_path, tmp_path / "absent", str(tmp_path / METADATA)):
        with pytest.raises(RecordError, match="holds no record"):
            load(path)


def contents(**changes: object) -> dict[str, object]:
    """Return the arrays of a good npz with some replaced; None removes."""
    good = spectrum()
    arrays: dict[str, object] = {name: getattr(good, name) for name in ARRAY_NAMES}
    arrays["metadata"] = encoded(good.metadata)
    arrays |= changes
    return {name: array for name, array in arrays.items() if array is not None}


def encoded(metadata: object) -> np.ndarray:
    return np.frombuffer(json.dumps(metadata).encode(), dtype=np.uint8)


def meta(**changes: object) -> np.ndarray:
    return encoded({**spectrum().metadata, **changes})


DAMAGED = {
    "no betas": ({"betas": None}, "betas"),
    "no metadata": ({"metadata": None}, "metadata"),
    "metadata not json": ({"metadata": np.frombuffer(b"{", dtype=np.uint8)}, "damaged"),
    "metadata not text": ({"metadata": np.array([255, 254], dtype=np.uint8)}, "damaged"),
    "metadata a list": ({"metadata": encoded([1, 2])}, "schema None"),
    "metadata nested": (
        {"metadata": np.frombuffer(b"[" * 200_000, dtype=np.uint8)},
        "damaged",
    ),
    "no schema": ({"metadata": encoded({"dim": 3})}, "schema None"),
    "older schema": ({"metadata": meta(schema=0)}, "schema 0"),
    "newer schema": ({"metadata": meta(schema=99)}, "schema 99"),
    "no dim": ({"metadata": encoded({"schema": SCHEMA})}, "dim"),
    "dim infinite": ({"metadata": meta(dim=float("inf"))}, "damaged"),
    "dim a word": ({"metadata": meta(dim="many")}, "damaged"),
    "dim too small": ({"metadata": meta(dim=3, dim_unmasked=2)}, "do not fit"),
    "unmasked above dim": ({"metadata": meta(dim_unmasked=1001)}, "do not fit"),
    "unmasked zero": ({"metadata": meta(dim_unmasked=0)}, "do not fit"),
    "flat alphas": ({"alphas": np.zeros(5)}, "damaged"),
    "short betas": ({"betas": np.zeros((2, 3, 4))}, "betas has shape"),
    "more tokens": ({"tokens": np.zeros(3, dtype=np.int64)}, "tokens has shape"),
    "steps too many": ({"steps": np.full((2, 3), 6)}, "out of range"),
    "steps negative": ({"steps": np.full((2, 3), -1)}, "out of range"),
    "alphas not finite": ({"alphas": np.full((2, 3, 5), np.nan)}, "not finite"),
    "betas infinite": ({"betas": np.full((2, 3, 5), np.inf)}, "not finite"),
    "betas negative": ({"betas": np.full((2, 3, 5), -1.0)}, "negative"),
    "words for numbers": ({"alphas": np.full((2, 3, 5), "x")}, "damaged"),
}


def assert_one_sentence(path: Path, words: str) -> None:
    with pytest.raises(RecordError) as caught:
        load(path)
    message = str(caught.value)
    assert words in message
    assert str(path) in message
    assert caught.value.exit_code == 1
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_contents(tmp_path: Path, case: str) -> None:
    changes, words = DAMAGED[case]
    np.savez(tmp_path / ARRAYS, **contents(**changes))
    assert_one_sentence(tmp_path, words)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return (pytest.fail, ("a pickle was opened",))

    np.savez(tmp_path / ARRAYS, **contents(alphas=np.array([Harm()], dtype=object)))
    assert_one_sentence(tmp_path, "damaged")


FOREIGN = {
    "empty": b"",
    "text": b"alphas,betas\n1,2\n",
    "zip without end": b"PK\x03\x04" + bytes(100),
    "pickle": b"\x80\x04N.",
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_files(tmp_path: Path, case: str) -> None:
    (tmp_path / ARRAYS).write_bytes(FOREIGN[case])
    assert_one_sentence(tmp_path, "damaged")


def test_a_npy_a_directory_and_a_zip_of_something_else(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    os.replace(tmp_path / "x.npy", tmp_path / ARRAYS)
    assert_one_sentence(tmp_path, "damaged")
    (tmp_path / ARRAYS).unlink()
    with zipfile.ZipFile(tmp_path / ARRAYS, "w") as archive:
        archive.writestr("letter.txt", "hello")
    assert_one_sentence(tmp_path, "damaged")
    (tmp_path / ARRAYS).unlink()
    (tmp_path / ARRAYS).mkdir()
    with pytest.raises(RecordError, match="holds no record"):
        load(tmp_path)


def test_an_entry_of_absurd_size_is_not_unpacked(tmp_path: Path) -> None:
    """Sizes are read from the directory of the zip, before anything is unpacked."""
    save(spectrum(), tmp_path)
    raw = bytearray((tmp_path / ARRAYS).read_bytes())
    entry = raw.index(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    (tmp_path / ARRAYS).write_bytes(raw)
    assert_one_sentence(tmp_path, "unpacks to 4,294,9")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, share: float) -> None:
    save(spectrum(), tmp_path)
    raw = (tmp_path / ARRAYS).read_bytes()
    (tmp_path / ARRAYS).write_bytes(raw[: int(share * len(raw))])
    assert_one_sentence(tmp_path, "damaged")


def test_any_damage_is_one_sentence_or_harmless(tmp_path: Path) -> None:
    """Flip bytes anywhere: the record loads with the same numbers, or a RecordError says why."""
    save(spectrum(), tmp_path)
    raw, draw, refused = (tmp_path / ARRAYS).read_bytes(), random.Random(0), 0
    for _ in range(1500):
        damaged = bytearray(raw)
        for _ in range(draw.choice([1, 1, 3])):
            damaged[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        (tmp_path / ARRAYS).write_bytes(damaged)
        try:
            found = load(tmp_path)
        except RecordError:
            refused += 1
        else:
            for name in ("alphas", "betas", "steps"):
                np.testing.assert_array_equal(getattr(found, name), getattr(spectrum(), name))
    assert refused > 500
