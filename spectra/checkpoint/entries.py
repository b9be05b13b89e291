"""What may lie in a checkpoint directory: files, directories, and links that stay inside.

An archive from a stranger may hold links to any file of the machine that unpacks it, pipes, and
devices; the readers below would follow them. So a link must lead to a file of the same directory,
or of the run above a `checkpoint-N`. The hub's cache is made of links, from `snapshots/REVISION`
into the `blobs` beside it, and is as good as files.
"""

from __future__ import annotations

import re
from pathlib import Path

from spectra.errors import CheckpointError

CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def check_entries(name: str, directory: Path) -> set[str]:
    """Return the names of what lies in `directory`.

    Args:
        name: What the caller gave, for messages.
        directory: Where the files of a checkpoint or a tokenizer are.

    Raises:
        CheckpointError: If it cannot be read, or a link leads out of it, or something in it is
            neither file nor directory.
    """
    try:
        entries = list(directory.iterdir())
        inside = _inside(directory)
        for entry in entries:
            if entry.is_symlink() and not entry.is_dir():
                _check_link(name, entry, inside)
            elif not (entry.is_file() or entry.is_dir()):
                raise CheckpointError(
                    f"ckpt={name!r} holds {entry.name!r}, which is neither a file nor a directory; "
                    "remove it."
                )
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        reason = getattr(error, "strerror", None) or "a link leads to itself"
        raise CheckpointError(f"ckpt={name!r} cannot be read: {reason}.") from None
    return {entry.name for entry in entries}


def _inside(directory: Path) -> list[Path]:
    place = directory.resolve()
    inside = [place]
    if CHECKPOINT.fullmatch(place.name):
        inside.append(place.parent)
    if place.parent.name == "snapshots":
        inside.append((place.parent.parent / "blobs").resolve())
    return inside


def _check_link(name: str, entry: Path, inside: list[Path]) -> None:
    target = entry.resolve()
    if not any(target.is_relative_to(place) for place in inside):
        raise CheckpointError(
            f"ckpt={name!r} holds {entry.name!r}, a link out of its directory, to {str(target)!r}; "
            "copy that file in its place if it belongs to the checkpoint."
        )
    if target.exists() and not target.is_file():
        raise CheckpointError(
            f"ckpt={name!r} holds {entry.name!r}, a link to what is no file; remove it."
        )
