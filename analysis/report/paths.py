"""How a report names the places its numbers are from."""

from __future__ import annotations

from pathlib import Path


def shorter(root: Path, place: str | Path) -> str:
    """Return `place` as seen from `root` where it is below, so that a report may be moved."""
    path = Path(place)
    whole = path.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(path)
