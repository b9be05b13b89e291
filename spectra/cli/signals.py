"""SIGINT and SIGTERM as exceptions in the main thread, so that a verb can say what is kept.

    SIGINT (Ctrl-C)  KeyboardInterrupt, exit code 130
    SIGTERM          Terminated, a KeyboardInterrupt too, exit code 143

A second signal ends the process at once. One that follows within `SAME` seconds is the first one
again: `timeout` and launchers send it to a process and to its group. Where several processes were
launched, the launcher itself ends those that take too long, and every further signal is ignored.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SAME = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came."""


def exit_code(error: KeyboardInterrupt) -> int:
    """Return 128 + the number of the signal, as shells have it."""
    return 128 + (signal.SIGTERM if isinstance(error, TerminatedError) else signal.SIGINT)


@contextmanager
def as_exceptions(*, launched: bool = False) -> Iterator[None]:
    """Raise signals as exceptions for the time of the block; outside the main thread do nothing.

    Args:
        launched: Whether this is one of several processes under a launcher.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[float] = []

    def handler(number: int, frame: FrameType | None) -> None:
        del frame
        if first:
            if not launched and time.monotonic() - first[0] > SAME:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        first.append(time.monotonic())
        raise TerminatedError if number == signal.SIGTERM else KeyboardInterrupt

    before: dict[Any, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, was in before.items():
        if was is not signal.SIG_IGN:  # of a process in the background, as nohup has it
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)
