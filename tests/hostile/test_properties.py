"""Any input at all, to every reader: a result or a sentence, within time and memory."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectra.checkpoint.bounds import check_numbers
from spectra.errors import LONGEST, SpectraError, UsageError, printable
from spectra.record.jsonfile import parse_json
from spectra.record.metadata import checked
from tests.hostile.limits import within
from tests.hostile.mutate import mutate
from tests.hostile.readers import READERS

LOGS = ["training", "summary", "scaling", "study"]
FAST = [*LOGS, "jsonl", "text", "npy", "options", "names", "yaml"]
SLOW = ["record", "metadata", "quantization", "arguments"]
LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(("\x1b[31m", "\ud800", "<b>", "../x", "$\\frac{"))
)  # fmt: skip
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner)
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("properties")


def _examples(count: int) -> Any:
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_changed_valid_inputs(place: Path, name: str) -> None:
    reader = READERS[name].prepare(place)

    @_examples(60 if name in FAST else 15)
    @given(st.integers(0, 2**32), st.sampled_from(reader.valid))
    def try_one(seed: int, data: bytes) -> None:
        with within():
            reader.run(mutate(data, random.Random(seed), reader.valid))

    try_one()


@pytest.mark.parametrize("name", FAST)
def test_any_bytes(place: Path, name: str) -> None:
    reader = READERS[name].prepare(place)

    @_examples(40)
    @given(st.binary(max_size=300))
    def try_one(data: bytes) -> None:
        with within():
            reader.run(data)

    try_one()


@pytest.mark.parametrize("name", LOGS)
def test_any_json(place: Path, name: str) -> None:
    reader = READERS[name].prepare(place)

    @_examples(60)
    @given(JSON)
    def try_one(value: Any) -> None:
        with within():
            reader.run(json.dumps(value).encode())

    try_one()


@given(JSON)
def test_metadata_are_of_their_kinds_or_refused(value: Any) -> None:
    """What is returned can be written as UTF-8, whatever came."""
    try:
        found = checked({"dim": 3, "summary": value, "checkpoint": value, "notes": value})
    except ValueError:
        return
    json.dumps(found, ensure_ascii=False).encode()


@given(JSON)
def test_configurations(value: Any) -> None:
    with contextlib.suppress(SpectraError):
        check_numbers("x", value)


@given(st.text() | st.binary())
def test_json_raises_value_errors_alone(text: str | bytes) -> None:
    try:
        parse_json(text)
    except ValueError:
        return


@given(st.text(alphabet=st.characters()))
def test_printable(text: str) -> None:
    """It can be encoded, is one line, is its own result, and loses no letter."""
    shown = printable(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    if text.isascii() and text.isprintable():
        assert shown == text
    assert str(UsageError(text)) == shown


@given(st.integers(0, 20_000))
def test_messages_have_an_end(length: int) -> None:
    assert len(str(UsageError("x" * length))) <= LONGEST + 3
