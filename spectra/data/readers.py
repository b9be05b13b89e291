"""One reader a file format: path -> documents, each an iterable of pieces, nothing read ahead.

Plain text comes in pieces of about one mebibyte, cut after a line end where lines are not longer
than that; token ids in pieces of as many entries, from a memory map.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra.errors import DataError, UsageError
from spectra.record.jsonfile import parse_json

Piece = str | NDArray[np.int64]
Document = Iterable[Piece]

LONGEST_LINE = 1 << 26  # characters
PIECE = 1 << 20  # characters, or token ids, handed over at a time
# A split may carry a slice, train[:100], whose colon does not separate.
DATASET = re.compile(
    r"datasets:(?P<id>[^:,]+)(,(?P<config>[^:]+))?:(?P<split>[^:\[]+(\[[^\]]*\])?)(:(?P<field>[^:]+))?"
)


def text(path: Path) -> Iterator[Piece]:
    """Yield the pieces of a UTF-8 text file, which is one document.

    Raises:
        DataError: If it cannot be read, or is not text.
    """
    try:
        with path.open(encoding="utf-8-sig") as handle:
            while piece := handle.read(PIECE):
                piece += handle.readline(PIECE)
                if "\0" in piece:
                    raise DataError(
                        f"data={str(path)!r} is a binary file, not text; pass text, or token ids "
                        "as .npy or .jsonl."
                    )
                yield piece
    except UnicodeDecodeError:
        raise DataError(_not_utf8(path)) from None
    except OSError as error:
        raise DataError(f"data={str(path)!r} cannot be read: {error.strerror}.") from None


def jsonl(path: Path) -> Iterator[Document]:
    """Yield one document a line, from its `text` or `input_ids`.

    Raises:
        DataError: If the file cannot be read, or a line is not such an object.
    """
    try:
        with path.open(encoding="utf-8-sig") as handle:
            for number, line in enumerate(iter(lambda: handle.readline(LONGEST_LINE), ""), start=1):
                if len(line) == LONGEST_LINE:
                    raise DataError(
                        f"data={str(path)!r}, line {number} has {LONGEST_LINE:,} characters or "
                        "more; write shorter documents."
                    )
                if line.strip():
                    yield (_json_piece(f"data={str(path)!r}, line {number}", line),)
    except UnicodeDecodeError:
        raise DataError(_not_utf8(path)) from None
    except OSError as error:
        raise DataError(f"data={str(path)!r} cannot be read: {error.strerror}.") from None


def npy(path: Path) -> Iterator[Piece]:
    """Yield the pieces of an integer array of any shape, read in C order.

    Raises:
        DataError: If it is not a plain array of integers; pickled objects are never read.
    """
    where = f"data={str(path)!r}"
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except Exception as error:  # a header of odd bytes leads numpy to errors of many kinds
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise DataError(f"{where} is not a plain .npy array: {reason}.") from None
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.integer):
        kind = getattr(array, "dtype", "archives")
        raise DataError(f"{where} must hold integer token ids; its entries are {kind}.")
    flat = array.reshape(-1)
    for start in range(0, flat.size, PIECE):
        yield flat[start : start + PIECE].astype(np.int64)


def dataset(spec: str) -> Iterator[Document]:
    """Return the rows of a dataset of the package `datasets`, a document each.

    Raises:
        UsageError: If the specification is malformed.
        DataError: If the package, the dataset or the column is missing, or a row is neither text
            nor token ids.
    """
    parts = DATASET.fullmatch(spec)
    if parts is None:
        raise UsageError(f"data={spec!r} must read datasets:ID[,CONFIG]:SPLIT[:FIELD].")
    field = parts["field"] or "text"
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"data={spec!r} needs the package datasets; pip install 'spectra-qat[datasets]'."
        ) from None
    try:
        rows = datasets.load_dataset(parts["id"], parts["config"], split=parts["split"])
    except Exception as error:  # whatever the hub, the cache or the builder raises
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise DataError(f"data={spec!r} could not be loaded: {reason}.") from None
    if field not in rows.column_names:
        known = ", ".join(rows.column_names)
        raise DataError(f"data={spec!r} has no column {field!r}; its columns are {known}.")
    column = rows.select_columns([field])
    return (
        (_piece(row[field], f"data={spec!r}, row {number}"),)
        for number, row in enumerate(column)
        if row[field]
    )


def _json_piece(where: str, line: str) -> Piece:
    try:
        entry = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}.") from None
    if isinstance(entry, dict):
        for field in ("text", "input_ids"):
            if field in entry:
                return _piece(entry[field], f"{where}, {field}")
    raise DataError(f"{where} has neither a `text` string nor an `input_ids` list.")


def _piece(value: Any, where: str) -> Piece:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise DataError(f"{where} is neither a string nor a flat list of integer token ids.")
    try:
        return np.array(value, dtype=np.int64)
    except OverflowError:
        raise DataError(f"{where} holds a token id beyond 64 bits.") from None


def _not_utf8(path: Path) -> str:
    return f"data={str(path)!r} is not UTF-8 text; convert it, or pass token ids as .npy or .jsonl."
