"""A verb in a forked child: torch is imported once, in the parent, which computes nothing."""

from __future__ import annotations

import faulthandler
import mmap
import os
import resource
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

Setup = Callable[[], None]
PATIENCE = 180.0  # seconds after which a child hangs


class Counter:
    """A number that children count up and the parent reads; it outlives those that are killed."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    @property
    def value(self) -> int:
        return int(struct.unpack("q", self._memory[:8])[0])

    def set(self, value: int) -> None:
        self._memory[:8] = struct.pack("q", value)

    def add(self) -> int:
        """Count one more and return the count."""
        self.set(self.value + 1)
        return self.value


STEPS = Counter()  # Lanczos and optimizer steps that were made


def count_steps() -> None:
    """Have this process count its Lanczos and optimizer steps, each when it is done."""
    from transformers import Trainer

    from spectra.linalg import Lanczos

    for owner, name in ((Lanczos, "_step"), (Trainer, "training_step")):
        setattr(owner, name, counted(getattr(owner, name)))


def counted(function: Callable[..., object]) -> Callable[..., object]:
    def wrapper(*arguments: object, **options: object) -> object:
        found = function(*arguments, **options)
        STEPS.add()
        return found

    return wrapper


class Child:
    """A verb at work in another process.

    Args:
        arguments: As on the command line.
        log: File that takes what it says.
        setup: Called in the child before the verb: faults, counters.
    """

    def __init__(self, arguments: Sequence[str], log: Path, setup: Setup | None = None) -> None:
        self.log, self.started = log, time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(arguments, log, setup)

    def kill(self, after: float, number: int = signal.SIGKILL) -> int | None:
        """Send a signal `after` seconds from the start; return the exit code if it was too late."""
        deadline = self.started + after
        while (left := deadline - time.monotonic()) > 0:
            if (code := self.poll()) is not None:
                return code
            time.sleep(min(left, 0.005))
        if (code := self.poll()) is not None:
            return code
        os.kill(self.pid, number)
        return None

    def poll(self) -> int | None:
        found, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None

    def wait(self) -> int:
        """Return the exit code, negative for a signal."""
        while time.monotonic() - self.started < PATIENCE:
            if (code := self.poll()) is not None:
                return code
            time.sleep(0.002)
        os.kill(self.pid, signal.SIGUSR1)  # it says where it is
        time.sleep(1)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"no end after {PATIENCE:g} s: {self.said()}")

    def said(self) -> str:
        """Return the end of what the child said."""
        return self.log.read_text(errors="replace")[-3000:]


def _be_child(arguments: Sequence[str], log: Path, setup: Setup | None) -> None:
    """Run the verb and end the process."""
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        faulthandler.register(signal.SIGUSR1)
        # Bars share a semaphore with all forks; one killed while it holds it would stop the others.
        tqdm.set_lock(threading.RLock())
        count_steps()
        if setup is not None:
            setup()
        from spectra.cli import reproduce
        from spectra.cli.main import main

        reproduce._report = lambda _: []  # figures alone, drawn anew each time: half a minute

        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
