"""Records from strangers: wrong shapes, objects, bombs, metadata of the wrong kinds."""

from __future__ import annotations

import json
import math
import os
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.summary import summary_lines
from analysis.tables import DASH, number_interval
from spectra import record
from spectra.errors import RecordError, printable
from spectra.record.files import ARRAYS
from tests.hostile.canary import Payload
from tests.hostile.limits import small_peak, tree, within
from tests.hostile.results import METADATA
from tests.record.records import ARRAY_NAMES, spectrum

Build = Callable[[Path, Path], Any]
PEAK = 100 << 20


def _arrays(**changes: Any) -> Build:
    def build(file: Path, _: Path) -> None:
        good = {name: getattr(spectrum(), name) for name in ARRAY_NAMES}
        facts = np.frombuffer(json.dumps(spectrum().metadata).encode(), dtype=np.uint8)
        np.savez(file, **(good | {"metadata": facts} | changes))

    return build


def _meta(change: Callable[[dict[str, Any]], Any]) -> Build:
    def build(file: Path, canary: Path) -> None:
        meta = json.loads(json.dumps(METADATA))
        change(meta)
        text = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
        _arrays(metadata=text)(file, canary)

    return build


def _text(text: bytes) -> Build:
    return _arrays(metadata=np.frombuffer(text, dtype=np.uint8))


def _objects(file: Path, canary: Path) -> None:
    _arrays(alphas=np.array([Payload(canary)], dtype=object))(file, canary)


def _objects_in_metadata(file: Path, canary: Path) -> None:
    _arrays(metadata=np.array([Payload(canary)], dtype=object))(file, canary)


def _bomb(file: Path, _: Path) -> None:
    """Two gigabytes of zeros in two megabytes would be 2048 of these; one member says enough."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ARRAY_NAMES:
            with archive.open(f"{name}.npy", "w") as member:
                for _ in range(60):
                    member.write(bytes(1 << 20))


def _huge_shape(file: Path, canary: Path) -> None:
    """A header of terabytes before no data."""
    _arrays()(file, canary)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000, 5), }".ljust(
        117
    )
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header + b"\n"
    with zipfile.ZipFile(file) as old:
        kept = {n: old.read(n) for n in old.namelist() if n != "alphas.npy"}
    with zipfile.ZipFile(file, "w") as new:
        for name, data in (kept | {"alphas.npy": content}).items():
            new.writestr(name, data)


CASES: dict[str, tuple[Build, str]] = {
    "objects": (_objects, "damaged"),
    "objects for metadata": (_objects_in_metadata, "damaged"),
    "a bomb": (_bomb, "unpacks to"),
    "a shape of terabytes": (_huge_shape, "damaged"),
    "words for numbers": (_arrays(tokens=np.array(["a", "b"])), "damaged"),
    "coefficients that are no numbers": (_arrays(alphas=np.full((2, 3, 5), np.nan)), "not finite"),
    "steps beyond the arrays": (_arrays(steps=np.full((2, 3), 10**6)), "out of range"),
    "metadata nested without end": (_text(b'{"a":' * 100_000), "nested too deeply"),
    "metadata with a number of 4000 digits": (_text(b'{"schema": ' + b"1" * 4000 + b"}"), "digits"),
    "metadata of twenty megabytes": (_text(b" " * (20 << 20) + b"{}"), "its metadata have"),
    "a summary of numbers": (_meta(lambda m: m.update(summary=[1, 2])), "summary is of type list"),
    "an estimate in words": (
        _meta(lambda m: m["summary"]["lambda_max"]["batches"].update(value="<b>")),
        "summary.lambda_max.batches.value is of type str",
    ),
    "a threshold that is none": (
        _meta(lambda m: m["summary"]["near_zero"].append({"tau": None})),
        "has no threshold",
    ),
    "a checkpoint that is a list": (_meta(lambda m: m.update(checkpoint=[])), "is of type list"),
    "a step beyond any number": (_meta(lambda m: m["checkpoint"].update(step=10**50)), "digits"),
    "a step of a fraction": (
        _meta(lambda m: m["checkpoint"].update(step=1.5)),
        "checkpoint.step is of",
    ),
    "a path that is an object": (
        _meta(lambda m: m["checkpoint"].update(path={})),
        "checkpoint.path",
    ),
    "warnings that are no texts": (
        _meta(lambda m: m.update(warnings=[{}])),
        "warnings holds a dict",
    ),
    "a request of objects": (
        _meta(lambda m: m.update(request={"data": {"a": 1}})),
        "is no setting",
    ),
    "a dimension in words": (_meta(lambda m: m.update(dim="many")), "dim is of type str"),
    "a dimension beyond any": (_meta(lambda m: m.update(dim=10**39)), "no such number"),
    "a count without end": (
        _meta(lambda m: m["cost"].update(hvps=-math.inf)),
        "cost.hvps is -inf, no such number",
    ),
    "a reference in words": (
        _meta(lambda m: m.update(reference={"near_zero_mean": "<b>"})),
        "reference.near_zero_mean is of type str",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_hostile_record(tmp_path: Path, case: str) -> None:
    place, canary = tmp_path / "record", tmp_path / "canary"
    place.mkdir()
    make, expected = CASES[case]
    make(place / ARRAYS, canary)
    before = tree(tmp_path)
    with within(), small_peak(PEAK), pytest.raises(RecordError, match=expected) as caught:
        record.load(place)
    warnings.simplefilter("ignore", analysis.RecordWarning)
    with within(), pytest.raises(RecordError):
        analysis.load(place)
    message = str(caught.value)
    assert message == printable(message)
    assert len(message) < 5000
    assert not canary.exists()
    assert tree(tmp_path) == before


def test_a_good_one_among_hostile_ones_is_read(tmp_path: Path) -> None:
    record.save(spectrum(), tmp_path / "good")
    for name, (make, _) in list(CASES.items())[:6]:
        (tmp_path / name).mkdir()
        make(tmp_path / name / ARRAYS, tmp_path / "canary")
    with pytest.warns(analysis.RecordWarning) as caught:
        runs = analysis.load(tmp_path)
    assert list(runs["name"]) == ["good"]
    assert len(caught) == 6


def test_an_estimate_without_its_value_is_shown_by_its_interval(tmp_path: Path) -> None:
    change = _meta(lambda m: m["summary"]["lambda_max"]["batches"].pop("value"))
    change(tmp_path / ARRAYS, tmp_path / "canary")
    (line,) = (row for row in summary_lines(record.load(tmp_path)) if row.startswith("λmax"))
    ends = METADATA["summary"]["lambda_max"]["batches"]
    assert number_interval(ends["lower"], ends["upper"]) in line
    assert line.split()[1] == DASH
    assert np.isnan(analysis.load(tmp_path)["lambda_max"]).all()


def test_a_whole_number_that_no_column_holds_stays_a_float(tmp_path: Path) -> None:
    _meta(lambda m: m["cost"].update(hvps=1e300))(tmp_path / ARRAYS, tmp_path / "canary")
    assert analysis.load(tmp_path)["hvps"].tolist() == [1e300]


def test_a_record_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ARRAYS)
    with within(), pytest.raises(RecordError, match="holds no record"):
        record.load(tmp_path)


def test_texts_are_read_without_control_characters(tmp_path: Path) -> None:
    make = _meta(lambda m: m["checkpoint"].update(path="a\x1b[2J\ud800b\n", method="\u202ex"))
    make(tmp_path / ARRAYS, tmp_path / "canary")
    found = record.load(tmp_path).metadata["checkpoint"]
    assert found["path"] == "a\\x1b[2J\\ud800b\\n"
    assert found["method"] == "\\u202ex"


def test_what_cannot_be_encoded_is_saved_readable(tmp_path: Path) -> None:
    """A path of a file system may hold bytes that are no UTF-8: a record of hours must not fail."""
    one = spectrum(checkpoint={"path": "models/\udcff\udcfe"})
    record.save(one, tmp_path)
    assert record.load(tmp_path).metadata["checkpoint"]["path"] == "models/\\udcff\\udcfe"


def test_logs_of_strangers(tmp_path: Path) -> None:
    """A log of many names a step would be a table of the square of its size."""
    history = [{"step": i, **{f"k{i}_{j}": 1.0 for j in range(50)}} for i in range(2000)]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    nothing = pytest.raises(RecordError, match="no readable training run")
    with within(), small_peak(PEAK), pytest.warns(analysis.RecordWarning), nothing:
        analysis.load_training(tmp_path)
    (tmp_path / "trainer_state.json").unlink()
    os.mkfifo(tmp_path / "trainer_state.json")
    with within(), pytest.warns(analysis.RecordWarning), pytest.raises(RecordError):
        analysis.load_training(tmp_path)
