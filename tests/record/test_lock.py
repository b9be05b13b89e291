"""One process a directory: the second is refused by name, and a dead one is no obstacle."""

from __future__ import annotations

import errno
import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from spectra.errors import UsageError, WriteError
from spectra.record import lock
from spectra.record.lock import FILE, holding, tidy


class Other:
    """A process that holds a directory until it is told to go."""

    def __init__(self, directory: Path) -> None:
        ready, told = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            with holding(directory):
                os.write(ready[1], b"1")
                os.read(told[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        self._told = told[1]

    def leave(self) -> None:
        os.write(self._told, b"1")
        os.waitpid(self.pid, 0)

    def die(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def test_the_second_process_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    other = Other(tmp_path / "run")
    words = rf"in use by process {other.pid} on {socket.gethostname()}; .* another --output"
    with pytest.raises(UsageError, match=words), holding(tmp_path / "run"):
        raise AssertionError
    assert (tmp_path / "run" / FILE).exists()
    other.leave()
    with holding(tmp_path / "run"):
        (tmp_path / "run" / "result").touch()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["result"]


def test_a_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    other = Other(tmp_path)
    (tmp_path / ".spectrum.npz.17.tmp").write_bytes(b"half")
    other.die()
    assert (tmp_path / FILE).exists()
    with holding(tmp_path):
        assert str(os.getpid()) in (tmp_path / FILE).read_text()
    assert not list(tmp_path.iterdir())  # nor is what it was writing


def test_what_a_killed_process_left_goes_unless_it_is_held(tmp_path: Path) -> None:
    run = tmp_path / "run"
    tidy(run)
    assert not run.exists()
    other = Other(run)
    (run / ".spectrum.npz.17.tmp").write_bytes(b"half")
    tidy(run)
    assert len(list(run.iterdir())) == 2
    other.die()
    tidy(run)
    assert not list(run.iterdir())


def test_one_process_does_not_hold_a_directory_twice(tmp_path: Path) -> None:
    with holding(tmp_path), pytest.raises(UsageError, match=f"process {os.getpid()}"):  # noqa: SIM117
        with holding(tmp_path):
            raise AssertionError


def test_directories_made_for_nothing_go_again(tmp_path: Path) -> None:
    with holding(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    with holding(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "x").touch()
    assert (tmp_path / "a" / "b" / "x").exists()


def test_a_child_does_not_hold_what_its_parent_held(tmp_path: Path) -> None:
    """A worker that outlives a killed parent must not keep others out."""
    ready, told = os.pipe(), os.pipe()
    with holding(tmp_path):
        pid = os.fork()
        if pid == 0:
            os.write(ready[1], b"1")
            os.read(told[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
    with holding(tmp_path):
        os.write(told[1], b"1")
    os.waitpid(pid, 0)


def test_the_file_of_who_left_meanwhile_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before the holder removed it, locked after: it has no name, and nobody sees it."""
    flock, calls = lock.fcntl.flock, []

    def slow(descriptor: int, how: int) -> None:
        if not calls:
            (tmp_path / FILE).unlink()
        calls.append(descriptor)
        flock(descriptor, how)

    monkeypatch.setattr(lock, "fcntl", SimpleNamespace(flock=slow, LOCK_EX=2, LOCK_NB=4))
    with holding(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / FILE).exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.os, "open", full)
    with pytest.raises(WriteError, match=os.strerror(number)), holding(tmp_path):
        raise AssertionError


def test_file_systems_without_locks_are_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "fcntl", SimpleNamespace(flock=none, LOCK_EX=2, LOCK_NB=4))
    with holding(tmp_path):
        pass
