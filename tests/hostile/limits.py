"""Bounds within which an input must be refused or read: time, memory, files, and nothing run."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 60
MEMORY = 1 << 30  # bytes beyond what the process has, for the attack and its reader together


class TooSlowError(BaseException):
    """The reader was still at it; no `except Exception` may swallow this."""


class TooLargeError(BaseException):
    """The reader took more memory than it may."""


@contextlib.contextmanager
def within(seconds: float | None = None, memory: int = MEMORY) -> Iterator[None]:
    """Raise TooSlowError after `seconds` (SECONDS); allow no more than `memory` bytes anew."""
    old = signal.signal(signal.SIGALRM, _too_slow)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if held := _status("VmData"):
        resource.setrlimit(resource.RLIMIT_DATA, (held + memory, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS if seconds is None else seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGALRM, old)


@contextlib.contextmanager
def small_peak(memory: int) -> Iterator[None]:
    """Raise TooLargeError if the peak of resident memory in this block grows by more."""
    before, peak = _status("VmRSS"), Path("/proc/self/clear_refs")
    if peak.exists():
        peak.write_text("5")  # the peak begins anew
    yield
    grown = _status("VmHWM") - before
    if grown > memory:
        raise TooLargeError(f"resident memory grew by {grown:,} bytes")


def tree(place: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of everything below a directory, links not followed."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(place.rglob("*"))
    }


def _too_slow(*_: Any) -> None:
    raise TooSlowError


def _status(key: str) -> int:
    """Return bytes that Linux tells of this process; 0 elsewhere, where nothing is limited."""
    path = Path("/proc/self/status")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0
