"""One process a directory: an advisory lock that ends with the process that holds it.

`flock` on a small file in the directory. The kernel gives the lock back when the process ends, in
whichever way, so a file that a killed one has left behind is no obstacle. The file tells who holds
it. It is removed while the lock is held; who has opened it before and locks it after holds a file
that has no name any more, sees that, and tries again.

Where the file system has no locks the directory is used without one.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spectra.errors import SpectraError, UsageError, WriteError
from spectra.record.atomic import make_directory, remnants, remove_remnants

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

FILE = ".spectra.lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_held: set[int] = set()


def _drop_in_child() -> None:
    """Close what a forked child has inherited: it would hold the lock longer than its parent."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_in_child)


@contextmanager
def holding(directory: Path) -> Iterator[None]:
    """Hold `directory`, which is made if need be, for the time of the block.

    What killed processes have left of files they were writing is removed.
    If nothing is in it afterwards it goes again, with those above that were made for it.

    Raises:
        UsageError: If another process holds it.
        WriteError: If the disk is full, read-only, or gone.
    """
    if fcntl is None or (directory.exists() and not directory.is_dir()):
        yield  # what is no directory is refused by those who know what it should be
        return
    made: list[Path] = []
    try:
        made = make_directory(directory)
        descriptor = _acquire(directory)
    except OSError as error:
        _remove(made)
        if error.errno in _FULL:
            raise WriteError(
                f"output={str(directory)!r} cannot be written ({error.strerror}); make room, or "
                "pass another --output."
            ) from None
        descriptor = None  # who writes there will say what is wrong with it
    if descriptor is None:
        yield
        return
    _held.add(descriptor)
    try:
        remove_remnants(directory)
        yield
    finally:
        if descriptor in _held:  # not in a forked child
            _held.discard(descriptor)
            with suppress(OSError):
                if _named(descriptor, directory / FILE):
                    (directory / FILE).unlink()
            os.close(descriptor)
            _remove(made)


def tidy(directory: Path) -> None:
    """Remove what a killed process has left in a directory, unless another one holds it.

    For a directory that is not to be held again: the process ended after its work was whole on the
    disk and before it had let go.
    """
    if (directory / FILE).exists() or remnants(directory):
        with suppress(SpectraError), holding(directory):
            pass


def _acquire(directory: Path) -> int | None:
    """Return the descriptor of the locked file, None where there are no locks."""
    path = directory / FILE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _named(descriptor, path):
                os.close(descriptor)
                continue
            with suppress(OSError):  # on a full disk it holds as well, without a name
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
        except BlockingIOError:
            holder = os.pread(descriptor, 256, 0)
            os.close(descriptor)
            raise UsageError(
                f"output={str(directory)!r} is in use by {_who(holder)}; two runs cannot write to "
                "one directory: wait for it to end, end it, or pass another --output."
            ) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            return None
        return descriptor


def _named(descriptor: int, path: Path) -> bool:
    """Whether `path` is the name of the open file still."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _who(content: bytes) -> str:
    pid, _, host = content.decode(errors="replace").strip().partition(" ")
    return f"process {pid} on {host}" if pid and host else "another process"


def _remove(made: list[Path]) -> None:
    for path in made:
        try:
            path.rmdir()
        except OSError:  # something is in it
            return
