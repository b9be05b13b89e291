"""Files that are there whole or not at all, and stay when the power fails.

A file is written under a temporary name in its own directory, flushed to the disk and renamed over
the old one; then the directory is flushed, because the new name is an entry of it. A process killed
at any instant leaves the previous content or the new one, and perhaps a temporary file that nothing
reads (`is_remnant`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_REMNANT = re.compile(r"\..+\.\d+\.tmp")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`.

    Raises:
        OSError: If that is not possible; the old content is then as it was.
    """
    with replacing(path) as handle:
        handle.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to, in binary, that takes the place of `path` when the block ends well.

    Raises:
        OSError: If it cannot be written; the old content is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # what lies there may be a link to elsewhere
        with temporary.open("xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_directory(path.parent)


def flush_directory(directory: Path) -> None:
    """Flush the entries of a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> list[Path]:
    """Make a directory with all above it, lastingly; return those that were made, lowest first."""
    missing = []
    place = directory
    while not place.exists():
        missing.append(place)
        place = place.parent
    directory.mkdir(parents=True, exist_ok=True)
    for made in missing:
        flush_directory(made.parent)
    return missing


def is_remnant(path: Path) -> bool:
    """Whether a file is what a killed process has left of one that it was writing."""
    return _REMNANT.fullmatch(path.name) is not None


def remnants(directory: Path) -> list[Path]:
    """Return what killed processes have left of files in `directory` that they were writing."""
    return [path for path in directory.glob(".*.tmp") if is_remnant(path)]


def remove_remnants(directory: Path) -> None:
    """Remove what killed processes have left; only for who holds the directory's lock."""
    for path in remnants(directory):
        path.unlink(missing_ok=True)
