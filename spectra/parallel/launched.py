"""What torchrun says of this process, read from its environment and nothing else.

Free of torch, so that the command line can ask who speaks before anything heavy is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from spectra.errors import UsageError


@dataclass(frozen=True)
class Place:
    """One process among those launched together.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
        local_rank: Its number among those of its machine.
        local_size: How many there are on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def speaks(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0


def place() -> Place:
    """Return this process's place; the only one of one where nothing was launched.

    Raises:
        UsageError: If the environment contradicts itself.
    """
    size = _number("WORLD_SIZE", 1)
    if size <= 1:
        return Place()
    rank = _number("RANK", -1)
    found = Place(rank, size, _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", size))
    if not (0 <= found.rank < size and found.local_rank >= 0 and 1 <= found.local_size <= size):
        raise UsageError(
            f"WORLD_SIZE={size} with RANK={os.environ.get('RANK')!r}, LOCAL_RANK="
            f"{os.environ.get('LOCAL_RANK')!r} and LOCAL_WORLD_SIZE="
            f"{os.environ.get('LOCAL_WORLD_SIZE')!r} is no place among processes; start them with "
            "torchrun, or unset WORLD_SIZE."
        )
    return found


def report(message: str) -> None:
    """Leave the sentence where torchrun looks for the reason, which it prints under its own lines.

    https://pytorch.org/docs/stable/elastic/errors.html
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file is None:
        return
    told = {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}
    with contextlib.suppress(OSError):
        Path(file).write_text(json.dumps({"message": told}), encoding="utf-8")


def _number(name: str, default: int) -> int:
    value = os.environ.get(name)
    try:
        return default if value is None else int(value)
    except ValueError:
        raise UsageError(
            f"{name}={value!r} in the environment is no number; start with torchrun, or unset it."
        ) from None
