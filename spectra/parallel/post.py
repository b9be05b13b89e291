"""Messages between ranks by the launcher's key-value store: values, failures, signs of life.

Every rank writes under keys of its own and reads those of the others; nobody blocks inside the
store, so that a failure is seen wherever a rank waits. When an exchange is complete, all ranks have
read the one before it, whose values are then removed. Values are pickled: who can write to the
store can run code, as with torch's own exchanges of objects; torchrun's port is for its ranks only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store
from torch.distributed.rendezvous import rendezvous

from spectra.errors import SpectraError
from spectra.parallel.outcome import ElsewhereError, Outcome

T = TypeVar("T")

BEAT, PATIENCE = 5.0, 180.0  # seconds between signs of life, and without one until a rank is lost
FAREWELL = 20.0  # seconds that rank 0 has to say what went wrong
SHORT, LONG = 1e-3, 0.05  # seconds between two looks, at first and later


class Post:
    """The store as one rank of a group sees it."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store: Any = PrefixStore(f"spectra/{attempt}", store)
        self._number = self._block = 0
        self._beats = {k: ("", time.monotonic()) for k in range(size) if k != rank}
        self.made_group, self._inside = False, False
        thread = threading.Thread(target=self._live, args=(store.clone(),), daemon=True)
        thread.start()

    @staticmethod
    def join(rank: int, size: int, timeout: timedelta) -> Post:
        """Return the post of this rank, from the process group that exists or from torchrun's."""
        if dist.is_initialized():
            store = _get_default_store()
        else:
            try:
                store, _, _ = next(iter(rendezvous("env://", timeout=timeout)))
            except (RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise SpectraError(
                    f"rank {rank} of {size} cannot reach the others ({reason}); start all of them "
                    "with one torchrun command a machine."
                ) from None
        return Post(store, rank, size)

    def fresh(self) -> Any:
        """Return a store for a new process group."""
        self.made_group = True
        return PrefixStore(f"group/{self._block}", self._store)

    def exchange(self, value: T, meanwhile: Callable[[], None] | None = None) -> list[T]:
        """Return the values of all ranks, in their order; `meanwhile` is called while waiting."""
        self._number += 1
        return self._collect("value", self._number, value, heed=True, meanwhile=meanwhile)

    def begin(self) -> None:
        """Enter a block of common work."""
        self._block, self._inside = self._block + 1, True

    def end(self, mine: Outcome, *, wait: bool) -> list[Outcome]:
        """Leave it; return how it ended on every rank, without waiting if not `wait`."""
        self._inside = False
        with _told():
            if mine.failed:
                self._store.set(f"failed/{self._block}", str(self.rank))
            if not wait:
                self._store.set(f"outcome/{self._block}/{self.rank}", pickle.dumps(mine))
                return [mine]
        found: list[Outcome] = self._collect("outcome", self._block, mine, heed=False)
        if any(outcome.failed for outcome in found):
            # Ranks left the block at different exchanges; count on from a number all agree on.
            self._number = (self._block + 1) << 32
        return found

    def check(self, *, alive: bool = False) -> None:
        """Raise if another rank has failed in this block or, with `alive`, is gone."""
        with _told():
            if self._inside and self._store.check([f"failed/{self._block}"]):
                number = self._store.get(f"failed/{self._block}").decode()
                raise ElsewhereError(f"rank {number} has failed")
        lost = self._lost() if alive else None
        if lost is not None:
            raise SpectraError(f"rank {lost} has given no sign of life for {PATIENCE:.0f} seconds")

    def leave(self) -> None:
        """Tell that rank 0 has nothing more to say, or wait for that, not for long."""
        until = time.monotonic() + FAREWELL
        with contextlib.suppress(RuntimeError):  # it has gone, and its store with it
            if self.rank == 0:
                self._store.set("left", "")
            while not self._store.check(["left"]) and time.monotonic() < until:
                time.sleep(LONG)

    def _collect(
        self,
        what: str,
        number: int,
        mine: Any,
        *,
        heed: bool,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Any]:
        found: list[Any] = [None] * self.size
        found[self.rank] = mine
        with _told():
            self._store.set(f"{what}/{number}/{self.rank}", pickle.dumps(mine))
            for other in range(self.size):
                if other != self.rank:
                    key = f"{what}/{number}/{other}"
                    found[other] = self._one(key, other, heed=heed, meanwhile=meanwhile)
            self._store.delete_key(f"{what}/{number - 1}/{self.rank}")
        return found

    def _one(
        self, key: str, other: int, *, heed: bool, meanwhile: Callable[[], None] | None
    ) -> Any:
        nap, looked, called = SHORT, time.monotonic(), time.monotonic()
        while not self._store.check([key]):
            if heed:
                self.check()
            if time.monotonic() - looked > BEAT:
                looked = time.monotonic()
                if self._lost() == other:
                    if heed:
                        self.check(alive=True)
                    return Outcome.gone()
            if meanwhile is not None and time.monotonic() - called > 1.0:
                meanwhile()
                called = time.monotonic()
            time.sleep(nap)
            nap = min(LONG, 1.5 * nap)
        return pickle.loads(self._store.get(key))

    def _lost(self) -> int | None:
        """Return a rank that has been silent for too long."""
        now = time.monotonic()
        with _told():
            for other, (before, since) in self._beats.items():
                key = f"alive/{other}"
                beat = self._store.get(key).decode() if self._store.check([key]) else ""
                if beat != before:
                    self._beats[other] = (beat, now)
                elif now - since > PATIENCE:
                    return other
        return None

    def _live(self, store: Any) -> None:
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        own, beat = PrefixStore(f"spectra/{attempt}", store), 0
        while True:
            beat += 1
            try:
                own.set(f"alive/{self.rank}", str(beat))
            except RuntimeError:
                return  # the store has ended, and the run with it
            time.sleep(BEAT)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise SpectraError(
            f"the launcher's store is gone, and other ranks with it: {reason}"
        ) from None
