"""What fuzzing once found, and the valid inputs it starts from: read, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.fuzz import CORPUS
from tests.hostile.limits import within
from tests.hostile.readers import READERS

FOUND = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


@pytest.mark.parametrize("name", sorted({path.parent.name for path in FOUND}))
def test_what_was_found_stays_mended(place: Path, name: str) -> None:
    reader = READERS[name].prepare(place)
    for path in (path for path in FOUND if path.parent.name == name):
        with within():
            reader.run(path.read_bytes())


@pytest.mark.parametrize("name", READERS)
def test_valid_inputs_are_read(place: Path, name: str) -> None:
    reader = READERS[name].prepare(place)
    assert any([reader.run(data) for data in reader.valid])
