"""An estimate whose probes are shared by several ranks, each with the whole model.

Every rank runs its share (spectra.estimation.shares) as a single process would, and in the end all
have the record that a single process makes. What is checked once a record is checked by the rank
that has the first place, as a single process does it: rank 0.

Time is that of the slowest rank, memory the largest of any, products those of all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spectra.errors import RecordError, UsageError
from spectra.estimation.checking import BatchChecks
from spectra.estimation.memory import MemoryPlan, shared_bytes
from spectra.estimation.output import identity
from spectra.estimation.progress import ProductBar
from spectra.estimation.runner import Runner
from spectra.estimation.settings import SLQSettings
from spectra.estimation.shares import Incoming, draw_token, merge, share_out, write_share
from spectra.estimation.store import ProbeStore
from spectra.estimation.target import Target
from spectra.linalg import SymmetricOperator
from spectra.parallel import Group
from spectra.record import Spectrum

NO_ADAPTIVE = (
    "tol={tol:g} makes every run depend on those before it, which {ranks} processes cannot share; "
    "start it without torchrun, or pass --lanczos_steps in place of --tol."
)


def refuse_adaptive(target: Target | None, ranks: Group) -> None:
    """Refuse an adaptive estimate of several ranks."""
    if target is not None and ranks.size > 1:
        raise UsageError(NO_ADAPTIVE.format(tol=target.tol, ranks=ranks.size))


def agree_on_memory(
    operator: SymmetricOperator,
    settings: SLQSettings,
    ranks: Group,
    plan: Callable[[SLQSettings], MemoryPlan],
) -> MemoryPlan:
    """Return one plan for all ranks, which fits the one with the least memory."""
    if ranks.size == 1:
        return plan(settings)
    free = shared_bytes(operator.device)
    if settings.max_memory is not None:
        free = min(free, settings.max_memory)
    least = min(ranks.gather(free))
    return ranks.first(lambda: plan(settings.with_changes(max_memory=least)))


def check_alike(sections: dict[str, Any], ranks: Group) -> None:
    """Raise RecordError if the ranks are about to estimate different things."""
    mine = identity(sections)
    for rank, other in enumerate(ranks.gather(mine)):
        for key, value in other.items():
            if mine[key] != value:
                raise RecordError(
                    f"ranks {ranks.rank} and {rank} have different runs before them: {key} "
                    "differs; give every machine the same checkpoint, data and versions."
                )


def in_words(store: ProbeStore) -> str:
    """Return who shares what, "" where one process does all."""
    ranks, threads = (store.metadata["environment"][name] for name in ("ranks", "threads"))
    if ranks == 1:
        return ""
    left = int((store.steps == 0).sum())
    idle = f"; {ranks - left} have nothing to do" if left < ranks else ""
    unit = "thread" if threads == 1 else "threads"
    return f"{ranks} processes of {threads} {unit} (OMP_NUM_THREADS) share {left} probes{idle}"


class SharingRunner(Runner):
    """One rank's share of an estimate."""

    def join(self, ranks: Group, output: Path | None) -> SharingRunner:
        """Set with whom the work is shared and where; return self."""
        self.ranks, self.output = ranks, output
        self._meanwhile: Callable[[], None] | None = None
        self.token = ranks.first(draw_token)
        if not ranks.speaks:
            self.checks = BatchChecks(self.checks.section, self.checks.warned)
            self.saved = None if output is None else self._write_share
            self.progress = False
        return self

    def run(self) -> None:
        """Run this rank's share of the missing probes; in the end every rank has all of them."""
        todo = self._missing()
        mine = share_out(todo, self.settings.block_size, self.ranks.size)[self.ranks.rank]
        with self._bar(todo) as bar:
            if self.ranks.speaks and self.output is not None:
                self._receive(Incoming(self.output, self.token), bar)
            for batch, missing in mine:
                self._batch(batch, missing, bar)
            done: Spectrum | None = None if self.ranks.speaks else self.store.snapshot()
            everyone = self.ranks.gather(done, meanwhile=self._meanwhile)
        for other in everyone:
            if other is not None:
                merge(self.store, other)
        whole = self.ranks.broadcast(self.store.snapshot())
        self.store.take_over(whole)

    def watch(self) -> None:
        """Stop where another rank has failed."""
        self.ranks.check()

    def _write_share(self, store: ProbeStore) -> None:
        assert self.output is not None
        write_share(store, self.output, self.ranks.rank, self.token)

    def _receive(self, incoming: Incoming, bar: ProductBar) -> None:
        """From now on, merge what the others write into every record written here."""
        write = self.saved
        assert write is not None

        def merged(store: ProbeStore) -> None:
            self._merge(incoming, bar)
            write(store)

        def waiting() -> None:
            if self._merge(incoming, bar):
                write(self.store)

        self.saved, self._meanwhile = merged, waiting

    def _merge(self, incoming: Incoming, bar: ProductBar) -> int:
        gained = sum(merge(self.store, other) for other in incoming.new())
        bar.advance(gained, np.zeros(0), np.zeros(0))
        return gained
