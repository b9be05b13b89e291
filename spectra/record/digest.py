"""Content hashes: what was changed after it was written is not read as whole.

SHA-256 over every array (name, type, shape, bytes) and over the metadata as canonical JSON. A zip
archive has check sums of its own against decay; this one also sees an archive that was put together
again, and arrays beside metadata that are not theirs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY = "content_sha256"


def content_sha256(metadata: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the hash of JSON metadata, its own `content_sha256` left out, and of arrays."""
    digest = hashlib.sha256(json_sha256(metadata).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def json_sha256(content: Mapping[str, Any]) -> str:
    """Return the hash of a JSON object, its own `content_sha256` left out."""
    plain = {key: value for key, value in content.items() if key != KEY}
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
