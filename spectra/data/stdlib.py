"""The built-in corpus: the source text of the Python standard library on the user's machine.

Real text, nothing to download. It differs between Python versions, so results name the version and
carry a hash of the tokens. A file belongs to the training or the held-out part by a hash of its
path, so a file that exists in two versions falls on the same side in both.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

HELDOUT_SHARE = 16  # of 256: one file in sixteen is held out
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}


def path_hash(relative: str) -> bytes:
    """Return the hash that orders a file and decides its part, from its POSIX relative path."""
    return hashlib.sha256(relative.encode()).digest()


def files(part: str) -> list[Path]:
    """Return the source files of `part` ("train" or "heldout") in an order fixed by their paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for directory, below, names in os.walk(root):
        below[:] = [name for name in below if name not in SKIPPED]
        for path in (Path(directory, name) for name in names if name.endswith(".py")):
            digest = path_hash(path.relative_to(root).as_posix())
            if (digest[0] < HELDOUT_SHARE) == (part == "heldout"):
                found.append((digest, path))
    return [path for _, path in sorted(found)]


def documents(part: str) -> Iterator[str]:
    """Yield the text of each file of `part`, skipping the few that are not UTF-8."""
    for path in files(part):
        try:
            yield path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue


def describe(part: str) -> str:
    """Return the name under which a record mentions this corpus."""
    return f"stdlib:{part} (Python {platform.python_version()})"
