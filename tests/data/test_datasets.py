"""The `datasets:` source: its spelling, and local files through the package where it is there."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from spectra.data import token_batches
from spectra.data.readers import DATASET
from spectra.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("datasets:org/name:train", ("org/name", None, "train", None)),
        (
            "datasets:wikitext,wikitext-2-v1:test:text",
            ("wikitext", "wikitext-2-v1", "test", "text"),
        ),
        ("datasets:n:train[10:20]:body", ("n", None, "train[10:20]", "body")),
        ("datasets:n:train[:1%]", ("n", None, "train[:1%]", None)),
    ],
)
def test_spelling(spec: str, expected: tuple[str | None, ...]) -> None:
    parts = DATASET.fullmatch(spec)
    assert parts is not None
    assert (parts["id"], parts["config"], parts["split"], parts["field"]) == expected


@pytest.mark.parametrize("spec", ["datasets:", "datasets:name", "datasets:a:b:c:d", "datasets::b"])
def test_malformed(spec: str) -> None:
    with pytest.raises(UsageError, match=r"must read datasets:ID\[,CONFIG\]:SPLIT"):
        token_batches(spec)


def test_without_the_package(monkeypatch: Any) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match=r"pip install 'spectra-qat\[datasets\]'"):
        token_batches("datasets:a:train")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Any) -> Path:
    """A directory with one JSON-lines file that the package reads as the split `train`."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    place = tmp_path / "rows"
    place.mkdir()
    rows = [
        {"text": "ab", "input_ids": [1, 2], "number": 1.5},
        {"text": "", "input_ids": [], "number": 2.5},
        {"text": "cde", "input_ids": [3], "number": 3.5},
    ]
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def test_local_rows(folder: Path, tokenizer: Any) -> None:
    data = token_batches(f"datasets:{folder}:train", tokenizer, seq_len=6, num_batches=1)
    assert data[0].input_ids.tolist() == [[97, 98, 256, 99, 100, 101]]
    ids = token_batches(f"datasets:{folder}:train:input_ids", seq_len=3, num_batches=1)
    assert ids[0].input_ids.tolist() == [[1, 2, 3]]


def test_bad_column_split_and_type(folder: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"has no column 'body'; its columns are text, input_ids"):
        token_batches(f"datasets:{folder}:train:body", tokenizer)
    with pytest.raises(DataError, match="could not be loaded"):
        token_batches(f"datasets:{folder}:nosplit", tokenizer)
    with pytest.raises(DataError, match="row 0 is neither a string nor a flat list"):
        token_batches(f"datasets:{folder}:train:number", tokenizer)
