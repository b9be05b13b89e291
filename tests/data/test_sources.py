"""Each kind of source yields its documents lazily, and each kind of bad file one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectra.data import readers, token_batches
from spectra.data.sources import open_source
from spectra.errors import DataError, UsageError


def contents(source: Path | str) -> list[Any]:
    """The documents of a source, pieces joined."""
    joined: list[Any] = []
    for document in open_source(source).documents:
        pieces = list(document)
        text = all(isinstance(piece, str) for piece in pieces)
        joined.append("".join(pieces) if text else np.concatenate(pieces).tolist())
    return joined


def test_a_long_text_is_one_document_in_pieces(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(readers, "PIECE", 10)
    file = tmp_path / "a.txt"
    text = "one\ntwo three\n" + "x" * 57 + "\nlast ÄÖ line"
    file.write_text(text, encoding="utf-8")
    (document,) = open_source(file).documents
    pieces = list(document)
    assert "".join(str(piece) for piece in pieces) == text
    assert len(pieces) > 3
    assert max(map(len, pieces)) <= 20
    assert str(pieces[0]).endswith("\n")


def test_no_end_token_inside_a_document(tmp_path: Path, tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(readers, "PIECE", 4)
    (tmp_path / "a.txt").write_text("abcdefghijklmnop")
    data = token_batches(tmp_path / "a.txt", tokenizer, seq_len=16, num_batches=1)
    assert bytes(data[0].input_ids[0].tolist()) == b"abcdefghijklmnop"


def test_a_huge_text_is_not_read_whole(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "huge.txt"
    with file.open("wb") as handle:
        handle.write(b"line of text\n" * 100_000)
        handle.truncate(1 << 35)  # sparse: 32 GiB of zeros, which is no text
    token_batches(file, tokenizer, seq_len=512, num_batches=4)
    assert tokenizer.seen < 2 * readers.PIECE + 100


def test_a_huge_array_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "huge.npy"
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.int32, shape=(1 << 33,))
    array[:8] = np.arange(8)
    del array
    data = token_batches(file, seq_len=8, num_batches=1)
    assert data[0].input_ids.tolist() == [list(range(8))]


def test_a_directory_stops_at_the_files_it_needs(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("enough text")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe broken")
    token_batches(tmp_path, tokenizer, seq_len=11, num_batches=1)
    with pytest.raises(DataError, match=r"b\.txt.* is not UTF-8"):
        token_batches(tmp_path, tokenizer, seq_len=12, num_batches=1)


def test_directory_order_and_selection(tmp_path: Path) -> None:
    for name in ("b/z.md", "b/a.py", "a.txt", "b.jsonl", ".git/x.txt", "b/image.png"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name)
    # b.jsonl before b/…: names compare as text, on every system
    assert contents(tmp_path) == ["a.txt", "b.jsonl", "b/a.py", "b/z.md"]


def test_jsonl_holds_text_or_ids(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "é", "id": 3}\n\n{"input_ids": [1, 2]}\n', encoding="utf-8")
    assert contents(file) == ["é", [1, 2]]


def test_byte_order_mark_and_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert contents(file) == ["one\ntwo\n"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64", "uint64", ">i4"])
def test_npy_of_any_integer_type_and_shape(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.arange(12).reshape(3, 4).astype(dtype))
    assert contents(tmp_path / "a.npy") == [list(range(12))]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"text": "a"', "line 2 is not JSON"),
        ('["a"]', "line 2 has neither a `text` string nor an `input_ids` list"),
        ('{"content": "a"}', "line 2 has neither"),
        ('{"text": 3}', "line 2, text is neither a string nor a flat list"),
        ('{"input_ids": [1, 2.5]}', "line 2, input_ids is neither"),
        ('{"input_ids": [[1], [2]]}', "line 2, input_ids is neither"),
        ('{"input_ids": [true]}', "line 2, input_ids is neither"),
        ('{"input_ids": [99999999999999999999]}', "line 2, input_ids holds a token id beyond 64"),
        ("[" * 100_000, "line 2 is not JSON: it is nested too deeply"),
        ("1" * 5000, "line 2 is not JSON"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str, match: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(DataError, match=match):
        contents(file)


def test_not_utf8(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_bytes("naïve".encode("latin-1"))
        with pytest.raises(DataError, match=r"is not UTF-8 text; convert it"):
            contents(tmp_path / name)


def test_binary_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(b"abc\0\0def")
    with pytest.raises(DataError, match="is a binary file"):
        contents(tmp_path / "a.dat")


@pytest.mark.parametrize("name", ["a.json", "a.parquet", "a.csv", "a.gz", "a.npz"])
def test_containers_are_not_taken_for_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=r"files are not read; write one object a line"):
        contents(tmp_path / name)


def test_npy_of_floats_bools_and_pickles(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.zeros(3))
    with pytest.raises(DataError, match="must hold integer token ids; its entries are float64"):
        contents(tmp_path / "f.npy")
    np.save(tmp_path / "b.npy", np.zeros(3, dtype=bool))
    with pytest.raises(DataError, match="its entries are bool"):
        contents(tmp_path / "b.npy")
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"is not a plain \.npy array"):
        contents(tmp_path / "o.npy")


@pytest.mark.parametrize("keep", [0, 5, 60, 150])
def test_truncated_npy(tmp_path: Path, keep: int) -> None:
    np.save(tmp_path / "a.npy", np.arange(20))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:keep])
    with pytest.raises(DataError, match=r"is not a plain \.npy array"):
        contents(tmp_path / "a.npy")


def test_missing_source_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "wiki-valid.txt").write_text("x")
    with pytest.raises(DataError, match=r"did you mean wiki-valid\.txt; pass a \.txt"):
        open_source(tmp_path / "wiki-vald.txt")
    with pytest.raises(DataError, match="did you mean stdlib"):
        open_source("stdlb")
    with pytest.raises(DataError, match="neither a file or directory"):
        open_source(tmp_path / "no" / "such")
    with pytest.raises(DataError, match="cannot be opened"):
        open_source("x" * 5000)
    with pytest.raises(UsageError, match="names no text"):
        open_source(" ")


def test_directory_without_text(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(DataError, match="holds no text"):
        open_source(tmp_path)


def test_empty_file_is_too_short(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="holds 0 tokens, fewer than one block"):
        token_batches(tmp_path / "a.txt", tokenizer)
