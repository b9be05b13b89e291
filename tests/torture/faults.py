"""Faults at a random place of a run: it must end with one sentence, and go on when they are gone.

write, fsync, replace   the k-th call raises ENOSPC or EIO
full disk               the output lies on a file system of a few pages (or, where none may be
                        mounted, no file may grow beyond a limit)
NaN                     the k-th product, or gradient norm, is not a number
out of memory           the k-th product, or training step, raises torch.OutOfMemoryError
failing batch           the k-th forward raises what nobody has foreseen
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.torture.children import Child, Counter
from tests.torture.kills import Reference
from tests.torture.verbs import Verb, differences


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong at a call.

    Attributes:
        name: What it is called in the table.
        place: Finds the owner of the function that fails, and its name.
        happens: What happens instead, given what should have been returned.
        foreseen: Whether it is told in a sentence, without a traceback.
    """

    name: str
    place: Callable[[], tuple[Any, str]]
    happens: Callable[[Any], Any]
    foreseen: bool = True

    def install(self, counter: Counter, at: int | None) -> None:
        """Count the calls, and let the one numbered `at` fail."""
        owner, name = self.place()
        function = getattr(owner, name)

        def wrapper(*arguments: Any, **options: Any) -> Any:
            if counter.add() == at:
                return self.happens(lambda: function(*arguments, **options))
            return function(*arguments, **options)

        setattr(owner, name, wrapper)


def raises(error: Callable[[], Exception]) -> Callable[[Any], Any]:
    def happens(_: Any) -> Any:
        raise error()

    return happens


def not_a_number(found: Any) -> Any:
    return found() * float("nan")


def full() -> Exception:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken() -> Exception:
    return OSError(errno.EIO, os.strerror(errno.EIO))


class _Handle:
    """A file whose writes are counted."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def write(self, content: Any) -> int:
        return int(self._handle.write(content))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()


def _writes() -> tuple[Any, str]:
    opened = Path.open

    def opening(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        handle = opened(path, mode, *arguments, **options)
        return _Handle(handle) if mode == "wb" else handle

    Path.open = opening  # type: ignore[method-assign, assignment]
    return _Handle, "write"


def _product() -> tuple[Any, str]:
    from spectra.linalg import Lanczos

    return Lanczos, "_product"


def _step() -> tuple[Any, str]:
    from transformers import Trainer

    return Trainer, "training_step"


def _forward() -> tuple[Any, str]:
    from spectra.curvature.point import Point

    return Point, "call"


def _memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _unforeseen() -> Exception:
    return RuntimeError("the mat and the cat do not match")


WRITING = [
    Fault("write, no space", _writes, raises(full)),
    Fault("fsync, input/output error", lambda: (os, "fsync"), raises(broken)),
    Fault("replace, no space", lambda: (os, "replace"), raises(full)),
]
ESTIMATING = [
    Fault("NaN in a product", _product, not_a_number),
    Fault("out of memory", _product, raises(_memory)),
    Fault("failing batch", _forward, raises(_unforeseen), foreseen=False),
]
TRAINING = [
    Fault("NaN in a gradient", lambda: (torch.nn.utils, "get_total_norm"), not_a_number),
    Fault("out of memory", _step, raises(_memory)),
    Fault("failing batch", _step, raises(_unforeseen), foreseen=False),
]


def attempts(
    reference: Reference, places: int, draw: random.Random
) -> Iterator[tuple[str, int, int, list[str]]]:
    """Let every fault that a verb can meet happen at random places.

    Yields:
        Its name, how often the verb went on to the same result, of how many, and what was lost.
    """
    kind = reference.verb.arguments[0]
    if kind == "reproduce" or not places:
        return  # made of the other two
    own = ESTIMATING if kind == "estimate" else TRAINING
    for fault in [*WRITING, *own]:
        counter = Counter()
        _run(reference.verb, reference, reference.root / "counted", fault, counter, None)
        calls = counter.value
        wrong: list[list[str]] = []
        for _ in range(places):
            counter.set(0)
            at = draw.randint(1, max(1, calls))
            wrong.append(_attempt(reference, fault, counter, at))
        yield fault.name, *_summed(wrong)
    yield "full disk", *_summed([_full_disk(reference, draw) for _ in range(places)])


def _summed(wrong: list[list[str]]) -> tuple[int, int, list[str]]:
    return sum(not found for found in wrong), len(wrong), [w for found in wrong for w in found]


def _run(
    verb: Verb, reference: Reference, output: Path, fault: Fault, counter: Counter, at: int | None
) -> tuple[int, str]:
    shutil.rmtree(output, ignore_errors=True)
    child = Child(verb.command(output), reference.log, setup=lambda: fault.install(counter, at))
    return child.wait(), child.said()


def _attempt(reference: Reference, fault: Fault, counter: Counter, at: int) -> list[str]:
    output = reference.root / "cut"
    code, said = _run(reference.verb, reference, output, fault, counter, at)
    wrong = [] if code in (0, 1) else [f"call {at}: exit code {code}: {said}"]
    if fault.foreseen and "Traceback" in said:
        wrong.append(f"call {at}: no sentence: {said}")
    if code and not said.strip():
        wrong.append(f"call {at}: not a word")
    return wrong + _goes_on(reference, output)


def _goes_on(reference: Reference, output: Path) -> list[str]:
    child = Child(reference.verb.command(output), reference.log)
    code = child.wait()
    if code:
        return [f"does not go on: exit code {code}: {child.said()}"]
    return differences(reference.output, output)


def _full_disk(reference: Reference, draw: random.Random) -> list[str]:
    place = reference.root / "small"
    place.mkdir(exist_ok=True)
    output = place / "run"
    needed = sum(path.stat().st_size for path in reference.output.rglob("*") if path.is_file())
    size = max(8192, round(needed * draw.uniform(0.1, 0.9)))
    if not _mounted(place, size):
        shutil.rmtree(output, ignore_errors=True)
        child = Child(
            reference.verb.command(output),
            reference.log,
            setup=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 4, size // 4)),
        )
        wrong = _told(child)
        return wrong + _goes_on(reference, output)
    try:
        wrong = _told(Child(reference.verb.command(output), reference.log))
        _mount("-o", f"remount,size={64 * (needed + 4096)}", str(place))
        return wrong + _goes_on(reference, output)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _told(child: Child) -> list[str]:
    code, said = child.wait(), child.said()
    if code == 0 or (code == 1 and "Traceback" not in said):
        return []
    return [f"exit code {code}, no sentence: {said}"]


def _mounted(place: Path, size: int) -> bool:
    return (
        hasattr(os, "geteuid")
        and os.geteuid() == 0
        and _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    )


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
    except OSError:
        return False
