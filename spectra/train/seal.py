"""Checkpoints that are known to be whole: hashes of what training needs to go on, written last.

    checkpoint-N/spectra_files.json    {"version": 1, "files": {name: SHA-256}, "content_sha256": …}

The Trainer writes its files without flushing them, so after a power failure a checkpoint may have
all its names and not all its bytes. `seal` flushes them to the disk and then says what they are; a
checkpoint whose files are others now is not gone on from. One without a seal, of before or killed
within the last moment of a save, is judged by the Trainer's own state, which it writes last.

Random states of further ranks are written by these, at their own time, and are not covered.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from spectra.record.atomic import flush_directory, write_atomically
from spectra.record.digest import KEY, json_sha256, sha256_of
from spectra.record.jsonfile import read_json

FILE = "spectra_files.json"
VERSION = 1
COVERED = (
    "model*.safetensors",
    "model*.json",
    "pytorch_model*.bin",
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "spectra_quantization.json",
)


def seal(directory: Path) -> None:
    """Flush the files of a checkpoint to the disk, and write down what they are.

    Raises:
        OSError: If that is not possible.
    """
    files = {}
    for path in sorted({path for pattern in COVERED for path in directory.glob(pattern)}):
        flush_file(path)
        files[path.name] = sha256_of(path)
    flush_directory(directory)
    flush_directory(directory.parent)
    content: dict[str, Any] = {"version": VERSION, "files": files}
    content[KEY] = json_sha256(content)
    write_atomically(directory / FILE, (json.dumps(content, indent=1) + "\n").encode())


def flush_file(path: Path) -> None:
    """Flush a file that others have written to the disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def sealed(directory: Path) -> bool | None:
    """Return whether a checkpoint's files are those that were sealed; None without a seal."""
    try:
        content = read_json(directory / FILE)
        files = content["files"]
        whole = content["version"] == VERSION and content[KEY] == json_sha256(content)
        return (
            whole
            and all(_is_covered(directory, name) for name in files)
            and all(sha256_of(directory / name) == digest for name, digest in files.items())
        )
    except FileNotFoundError as error:
        return None if error.filename == str(directory / FILE) else False
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _is_covered(directory: Path, name: str) -> bool:
    """Whether a name is one that a seal may hold: that of a regular file of the checkpoint."""
    known = "/" not in name and any(fnmatch.fnmatch(name, pattern) for pattern in COVERED)
    if known and not (directory / name).exists():
        raise FileNotFoundError(errno.ENOENT, "is missing", str(directory / name))
    return known and (directory / name).is_file()


class Seals(TrainerCallback):  # type: ignore[misc]
    """Seals every checkpoint that the Trainer has saved."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seal the checkpoint of this step."""
        del control, kwargs
        if args.should_save:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
