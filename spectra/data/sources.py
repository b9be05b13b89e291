"""Where documents come from: one reader for each kind of `--data SOURCE`.

    stdlib, stdlib:train      the built-in corpus, held-out (default) or training part
    FILE.txt, FILE.py, ...    plain text, one document
    FILE.jsonl                one object a line: `text`, or `input_ids` for token ids
    FILE.npy                  an integer array of token ids, one document
    DIR                       every .txt, .jsonl, .md, .py, ... file below it, in sorted order
    datasets:ID[,CONFIG]:SPLIT[:FIELD]   a hub or local dataset (extra `datasets`)

Everything is lazy: a document is an iterable of pieces, each text (str) or token ids (an int64
array), so that a corpus far larger than what is needed costs only what is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spectra.data import readers, stdlib
from spectra.data.readers import Document
from spectra.errors import DataError, UsageError, nearest

TEXT_SUFFIXES = {".txt", ".md", ".py", ".rst", ".tex", ".text"}
# Reading these as plain text would give tokens of the container, not of the text in it.
CONTAINERS = {".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zip", ".xz", ".zst", ".npz"}
BUILT_IN = {"stdlib": "heldout", "stdlib:heldout": "heldout", "stdlib:train": "train"}


@dataclass(frozen=True)
class Source:
    """A named stream of documents; `name` is what a record prints."""

    name: str
    documents: Iterator[Document]


def open_source(spec: str | Path) -> Source:
    """Return the documents that `spec` names.

    Raises:
        UsageError: If the specification is not of a known kind.
        DataError: If the file or directory is missing, empty or unreadable; for contents, when
            they are read.
    """
    text = str(spec)
    if not text.strip():
        raise UsageError(f"data={text!r} names no text; pass a file, a directory or stdlib.")
    if text in BUILT_IN:
        part = BUILT_IN[text]
        return Source(stdlib.describe(part), ((document,) for document in stdlib.documents(part)))
    if text.startswith("datasets:"):
        return Source(text, readers.dataset(text))
    path = Path(text).expanduser()
    try:
        exists = path.exists()
    except OSError as error:
        raise DataError(f"data={text!r} cannot be opened: {error.strerror}.") from None
    if not exists:
        raise DataError(_missing(text, path))
    return Source(text, iter(_directory(path)) if path.is_dir() else _file(path))


def _file(path: Path) -> Iterator[Document]:
    suffix = path.suffix.lower()
    if suffix in CONTAINERS:
        raise UsageError(
            f"data={str(path)!r}: {suffix} files are not read; write one object a line as .jsonl, "
            "plain text as .txt, or use datasets:..."
        )
    if suffix == ".jsonl":
        return readers.jsonl(path)
    if suffix == ".npy":
        return iter([readers.npy(path)])
    return iter([readers.text(path)])


def _directory(path: Path) -> Iterable[Document]:
    known = TEXT_SUFFIXES | {".jsonl"}
    relative = (p.relative_to(path) for p in path.rglob("*") if p.suffix.lower() in known)
    shown = (p for p in relative if not any(part.startswith(".") for part in p.parts))
    found = [path / p for p in sorted(shown, key=Path.as_posix) if (path / p).is_file()]
    if not found:
        raise DataError(
            f"data={str(path)!r} holds no text: none of its files ends in "
            f"{', '.join(sorted(known))}; point to the directory that holds the text."
        )
    return (document for file in found for document in _file(file))


def _missing(text: str, path: Path) -> str:
    try:
        siblings = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        siblings = []
    near = nearest(path.name, [*siblings, *BUILT_IN]).rstrip("?")
    return (
        f"data={text!r} is neither a file or directory nor a known source{near}; pass a .txt, "
        ".jsonl or .npy file, a directory of text, 'stdlib', or 'datasets:ID:SPLIT'."
    )
