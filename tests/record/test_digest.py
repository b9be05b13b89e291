"""A record that was changed after it was written is not read as whole; older ones are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectra.errors import RecordError
from spectra.record import load, save
from spectra.record.digest import KEY
from spectra.record.files import ARRAYS
from tests.record.records import assert_same, spectrum


def rewritten(path: Path, change: Any) -> None:
    """Put the archive together again with changed contents: its own check sums are right."""
    with np.load(path / ARRAYS) as archive:
        arrays = {name: archive[name].copy() for name in archive.files}
    metadata = json.loads(arrays["metadata"].tobytes())
    change(arrays, metadata)
    arrays["metadata"] = np.frombuffer(json.dumps(metadata).encode(), dtype=np.uint8)
    np.savez_compressed(path / ARRAYS, **arrays)


def _alpha(arrays: Any, metadata: Any) -> None:
    arrays["alphas"][0, 0, 0] = np.nextafter(arrays["alphas"][0, 0, 0], 9.0)


def _weight(arrays: Any, metadata: Any) -> None:
    arrays["weights"] *= 0.5


def _steps(arrays: Any, metadata: Any) -> None:
    arrays["steps"][0, 0] -= 1


def _dim(arrays: Any, metadata: Any) -> None:
    metadata["dim"] += 1


def _hash(arrays: Any, metadata: Any) -> None:
    metadata[KEY] = "0" * 64


def _no_hash(arrays: Any, metadata: Any) -> None:
    del metadata[KEY]


def _nothing(arrays: Any, metadata: Any) -> None:
    pass


@pytest.mark.parametrize("change", [_alpha, _weight, _steps, _dim, _hash])
def test_changed_records_are_refused(tmp_path: Path, change: Any) -> None:
    save(spectrum(), tmp_path)
    rewritten(tmp_path, _nothing)
    assert_same(load(tmp_path), spectrum())
    rewritten(tmp_path, change)
    with pytest.raises(RecordError, match=r"was changed after it was written .* estimate again"):
        load(tmp_path)


def test_records_of_before_have_no_hash_and_load(tmp_path: Path) -> None:
    save(spectrum(), tmp_path)
    rewritten(tmp_path, _no_hash)
    assert KEY not in load(tmp_path).metadata
    assert_same(load(tmp_path), spectrum())
    save(load(tmp_path), tmp_path)
    assert KEY in load(tmp_path).metadata
