"""JSON files of others, read with bounds on their size, their nesting and their numbers.

A name in a directory that came from a stranger may be a pipe that never ends or a device; a file
that is sparse costs its maker nothing and its reader everything; an integer of four thousand digits
is a number to Python and an overflow to all that comes after it.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

LARGEST = 1 << 24  # bytes, unless the caller knows of larger ones: settings are kilobytes
DIGITS = 40  # tokenizers write int(1e30) where they mean no bound


def read_json(path: str | Path, *, largest: int = LARGEST) -> Any:
    """Return the content of a JSON file.

    Args:
        path: The file.
        largest: Bytes beyond which it is refused unread.

    Raises:
        OSError: If it cannot be read, or is no regular file.
        ValueError: If it is not JSON in UTF-8, too large, or nested too deeply.
    """
    return parse_json(read_bounded(path, largest=largest))


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: If it is no JSON in UTF-8, is nested too deeply, or holds an integer of more
            digits than any number has.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode(), parse_int=_integer)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_bounded(path: str | Path, *, largest: int = LARGEST) -> bytes:
    """Return the bytes of a regular file of at most `largest` bytes.

    Raises:
        OSError: If it cannot be read, or is no regular file.
        ValueError: If it is larger.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
        raise OSError(errno.EINVAL, "it is no regular file")
    with open(path, "rb") as handle:
        content = handle.read(min(largest, status.st_size) + 1)  # which takes that much memory
    if len(content) > largest or status.st_size > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return content


def _integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"it holds an integer of {len(digits)} digits")
    return int(digits)
