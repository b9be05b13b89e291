"""Where documents come from: one reader for each kind of `--data SOURCE`.

    stdlib, stdlib:train      the built-in corpus, held-out (default) or training part
    FILE.txt, FILE.py, ...    plain text, one document
    FILE.jsonl                one object a line: `text`, or `input_ids` for token ids
    FILE.npy                  an integer array of token ids
    DIR                       every .txt, .jsonl, .md, .py file below it, in sorted order
    datasets:ID[,CONFIG]:SPLIT[:FIELD]   a hub or local dataset (extra `datasets`)

A reader yields documents lazily, so that a corpus far larger than what is needed costs only what
is read. A document is text (str) or token ids (an int64 array).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectra.data import stdlib
from spectra.errors import DataError, UsageError

Document = str | NDArray[np.int64]

TEXT_SUFFIXES = {".txt", ".md", ".py", ".rst", ".tex", ".text"}
PIECE = 1 << 20  # characters of a plain text file handed to the tokenizer at a time


@dataclass(frozen=True)
class Source:
    """A named stream of documents; `name` is what a record prints."""

    name: str
    documents: Iterator[Document]


def open_source(spec: str | Path) -> Source:
    """Return the documents that `spec` names.

    Raises:
        UsageError: If the specification is not of a known kind.
        DataError: If the file or directory is missing, empty or unreadable.
    """
    text = str(spec)
    if text in ("stdlib", "stdlib:heldout", "stdlib:train"):
        part = text.partition(":")[2] or "heldout"
        return Source(stdlib.describe(part), stdlib.documents(part))
    if text.startswith("datasets:"):
        return Source(text, _dataset(text))
    path = Path(text).expanduser()
    if not path.exists():
        raise DataError(
            f"data={text!r} is neither a file or directory nor a known source; pass a .txt, .jsonl "
            "or .npy file, a directory of text, 'stdlib', or 'datasets:ID:SPLIT'."
        )
    return Source(text, _directory(path) if path.is_dir() else _file(path))


def _file(path: Path) -> Iterator[Document]:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _jsonl(path)
    if suffix == ".npy":
        return _npy(path)
    return _text(path)


def _directory(path: Path) -> Iterator[Document]:
    known = TEXT_SUFFIXES | {".jsonl"}
    found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in known)
    if not found:
        raise DataError(
            f"data={str(path)!r} holds no text: none of its files ends in "
            f"{', '.join(sorted(known))}; point to the directory that holds the text."
        )
    return (document for file in found for document in _file(file))


def _text(path: Path) -> Iterator[Document]:
    try:
        with path.open(encoding="utf-8") as handle:
            while piece := handle.read(PIECE):
                yield piece + handle.readline()  # never cut inside a line
    except UnicodeDecodeError as error:
        raise DataError(
            f"data={str(path)!r} is not UTF-8 text (byte {error.start}); convert it, or pass token "
            "ids as .npy or .jsonl."
        ) from None
    except OSError as error:
        raise DataError(f"data={str(path)!r} cannot be read: {error.strerror}.") from None


def _jsonl(path: Path) -> Iterator[Document]:
    try:
        with path.open(encoding="utf-8") as handle:
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    yield _json_document(path, number, line)
    except UnicodeDecodeError as error:
        raise DataError(f"data={str(path)!r} is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        raise DataError(f"data={str(path)!r} cannot be read: {error.strerror}.") from None


def _json_document(path: Path, number: int, line: str) -> Document:
    where = f"data={str(path)!r}, line {number}"
    try:
        entry = json.loads(line)
    except ValueError as error:  # covers RecursionError's cousins: malformed JSON of any kind
        raise DataError(f"{where} is not JSON: {error}.") from None
    except RecursionError:
        raise DataError(f"{where} is nested too deeply to be a document.") from None
    if isinstance(entry, dict) and isinstance(entry.get("text"), str):
        text: str = entry["text"]
        return text
    if isinstance(entry, dict) and isinstance(entry.get("input_ids"), list):
        return _ids(np.asarray(entry["input_ids"], dtype=object), where)
    raise DataError(f"{where} has neither a `text` string nor an `input_ids` list.")


def _npy(path: Path) -> Iterator[Document]:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"data={str(path)!r} is not a plain .npy array: {error}.") from None
    yield _ids(np.asarray(array).reshape(-1), f"data={str(path)!r}")


def _ids(array: NDArray[np.generic], where: str) -> NDArray[np.int64]:
    if array.dtype == object and all(type(item) is int for item in array.tolist()):
        try:
            return array.astype(np.int64)
        except OverflowError:
            raise DataError(f"{where} holds a token id beyond 64 bits.") from None
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{where} must hold integer token ids; its entries are {array.dtype}.")
    return array.astype(np.int64)


def _dataset(spec: str) -> Iterator[Document]:
    parts = spec.split(":")
    if len(parts) not in (3, 4):
        raise UsageError(f"data={spec!r} must read datasets:ID[,CONFIG]:SPLIT[:FIELD].")
    name, _, config = parts[1].partition(",")
    field = parts[3] if len(parts) == 4 else "text"
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"data={spec!r} needs the package datasets; pip install 'spectra-qat[datasets]'."
        ) from None
    try:
        rows = datasets.load_dataset(name, config or None, split=parts[2])
    except Exception as error:  # whatever the hub, the cache or the builder raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"data={spec!r} could not be loaded: {reason}") from None
    if field not in rows.column_names:
        known = ", ".join(rows.column_names)
        raise DataError(f"data={spec!r} has no column {field!r}; its columns are {known}.")
    return (row[field] for row in rows if row[field])
