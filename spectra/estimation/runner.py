"""Run every probe on every operator and keep what they find: the loop of an estimate.

Operators come one after the other, so that one graph lives at a time; on each, its missing probes
run in blocks. After every block the store is handed to `saved`, which writes the record. A probe
depends on (seed, batch, probe) alone, so an interrupted run that goes on later makes the same
numbers as one that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from spectra.curvature.fingerprint import changed
from spectra.errors import NumericalError
from spectra.estimation.checking import Checks, VectorSampler
from spectra.estimation.halfway import Halfway
from spectra.estimation.memory import MemoryPlan
from spectra.estimation.peak import PeakMemory
from spectra.estimation.progress import ProductBar
from spectra.estimation.settings import SLQSettings
from spectra.estimation.store import ProbeStore
from spectra.linalg import Lanczos, SlicedOperator, SlicedSpace, SymmetricOperator, probe
from spectra.parallel import Group

Saved = Callable[[ProbeStore], None]


class Family(Protocol):
    """What a run needs of its operators: how many, and each by its index."""

    def num_operators(self) -> int:
        """Return the number of operators."""

    def operator(self, index: int) -> SymmetricOperator:
        """Return operator `index`."""


class Runner:
    """The probes of one estimate."""

    def __init__(
        self,
        family: Family,
        settings: SLQSettings,
        plan: MemoryPlan,
        store: ProbeStore,
        *,
        saved: Saved | None = None,
        progress: bool = True,
        description: str = "spectrum",
        slices: Group | None = None,
        halfway: Halfway | None = None,
    ) -> None:
        self.family, self.settings, self.plan, self.store = family, settings, plan, store
        self.saved, self.progress, self.description = saved, progress, description
        self.slices = slices  # the ranks over which vectors are sliced, None where they are whole
        self.halfway = halfway
        self._model: dict[str, int] | None = None
        self.checks = Checks(
            store.metadata.setdefault("checks", {}), store.metadata.setdefault("warnings", [])
        )
        self.cost: dict[str, Any] = store.metadata.setdefault(
            "cost", {"hvps": 0, "seconds": 0.0, "peak_bytes": 0}
        )

    def run(self) -> None:
        """Run every missing probe."""
        todo = self._missing()
        with self._bar(todo) as bar:
            for batch, missing in todo:
                self._batch(batch, missing, bar)

    def watch(self) -> None:
        """Called after every product."""

    def _missing(self) -> list[tuple[int, list[int]]]:
        """Return the batches whose probes are missing, and which."""
        todo = [(b, self.store.missing(b)) for b in range(self.family.num_operators())]
        return [(batch, missing) for batch, missing in todo if missing]

    def _bar(self, todo: list[tuple[int, list[int]]]) -> ProductBar:
        total = sum(len(p) for _, p in todo) * self.store.alphas.shape[2]
        return ProductBar(total, self.description, show=self.progress)

    def _batch(self, batch: int, missing: list[int], bar: ProductBar) -> None:
        operator = self.family.operator(batch)
        prepare = getattr(operator, "prepare", None)
        with PeakMemory(operator.device) as peak:
            started = time.monotonic()
            self._same_model(operator)
            if prepare is not None:
                prepare()
                self._facts(batch, operator)
            if self.settings.check:
                start = self._probe(operator, batch, missing[0])
                self.checks.before(operator, start, self.settings.seed)
                self.checks.structural_zeros(operator, batch, self.store.steps.shape[0])
            size = self.settings.block_size
            for first in range(0, len(missing), size):
                probes = missing[first : first + size]
                if self.halfway is not None:
                    self.halfway.begin()
                self._block(operator, batch, probes, bar)
                try:
                    self._same_model(operator)
                except NumericalError:
                    if self.halfway is not None:  # its states are of the changed model as well
                        self.halfway.forget((batch, probes))
                    raise
                now = time.monotonic()
                self.cost["seconds"] += now - started
                started = now
                largest = max(self.slices.gather(peak.bytes)) if self.slices else peak.bytes
                self.cost["peak_bytes"] = max(self.cost["peak_bytes"], largest)
                self._graphs(operator)
                if self.saved is not None:
                    self.saved(self.store)
                if self.halfway is not None:
                    self.halfway.forget((batch, probes))
            release = getattr(operator, "release", None)
            if release is not None:
                release()

    def _same_model(self, operator: SymmetricOperator) -> None:
        """Raise where the model is not the one that the run began with."""
        found = getattr(operator, "fingerprint", None)
        if not self.settings.check or found is None:
            return
        now = found()
        if self._model is None:
            self._model = now
        names = changed(self._model, now)
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise NumericalError(
                f"{names[0]}{more} changed while the spectrum was estimated, so the products are "
                "not those of one matrix; leave the model alone until it ends: the probe that ran "
                "meanwhile is not kept."
            )

    def _facts(self, batch: int, operator: Any) -> None:
        self.store.losses[batch] = operator.loss
        self.store.grad_norms[batch] = operator.grad_norm
        self.store.tokens[batch] = operator.tokens

    def _graphs(self, operator: Any) -> None:
        """Record how the operator's graphs were held, and what it found along the way."""
        estimator, notes = self.store.metadata["estimator"], self.store.metadata["notes"]
        for name in ("graph", "micro_batch"):
            if hasattr(operator, name):
                estimator[name] = getattr(operator, name)
        found = getattr(operator, "notes", [])
        if self.slices:
            found = [note for rank in self.slices.gather(found) for note in rank]
        notes += [note for note in dict.fromkeys(found) if note not in notes]

    def _probe(self, operator: SymmetricOperator, batch: int, index: int) -> torch.Tensor:
        on_all = self.settings.probe_space == "all"
        return probe(
            operator.dim,
            seed=self.settings.seed,
            batch=batch,
            probe=index,
            kind=self.settings.probe_kind,
            dtype=self.settings.working_dtype(operator.dtype),
            device=operator.device if self.slices is None else "cpu",
            keep=None if on_all else getattr(operator, "keep", None),
        )

    def _in_slices(self, operator: SymmetricOperator) -> SymmetricOperator:
        """Return the operator that Lanczos is run with."""
        if self.slices is None or isinstance(operator.space, SlicedSpace):
            return operator
        return SlicedOperator(operator, self.slices)

    def _block(
        self, operator: SymmetricOperator, batch: int, probes: list[int], bar: ProductBar
    ) -> None:
        starts = torch.stack([self._probe(operator, batch, p) for p in probes])
        lanczos = Lanczos(
            self._in_slices(operator),
            starts,
            basis=self.plan.policy,
            vector_dtype=self.settings.working_dtype(operator.dtype),
        )
        del starts
        steps = self.store.alphas.shape[2]
        kept = steps if self.plan.kept is None else self.plan.kept
        lanczos.reserve(min(kept, steps))
        sampler = self.checks.sampler(steps, lanczos.space) if self.settings.check else None
        self._take(lanczos, batch, probes, sampler, bar)
        while lanczos.num_steps < steps and not lanczos.finished:
            before = int(lanczos.steps.sum())
            if lanczos.num_steps == kept and lanczos.policy.where != "none":
                if sampler is not None:
                    self.checks.orthogonality(lanczos)
                lanczos.condense()
            lanczos.extend(1, observe=sampler)
            self.checks.condensed(lanczos)
            bar.advance(int(lanczos.steps.sum()) - before, lanczos.alphas[0], lanczos.betas[0])
            self.watch()
            if lanczos.num_steps < steps:
                self._keep(lanczos, batch, probes, sampler)
        self.cost["hvps"] += int(lanczos.steps.sum())
        for row, index in enumerate(probes):
            count = int(lanczos.steps[row])
            self.store.put(batch, index, lanczos.alphas[row, :count], lanczos.betas[row, :count])
        if sampler is not None:
            if lanczos.condensed_error is None:
                self.checks.orthogonality(lanczos)
            del lanczos  # its vectors would stand beside the float64 graph of the last check
            self.checks.after(operator, sampler)

    def _keep(
        self, lanczos: Lanczos, batch: int, probes: list[int], sampler: VectorSampler | None
    ) -> None:
        """Write the state of a run on its way, where that was asked for and it is time."""
        if self.halfway is None:
            return
        if self.halfway.every and lanczos.num_steps % self.halfway.every == 0:
            self._same_model(lanczos.operator)
        vectors = None if sampler is None else sampler.vectors
        self.halfway.save(lanczos, (batch, probes), self.checks.section, vectors, self._way())

    def _way(self) -> dict[str, Any]:
        """Return what else a run on its way must know to go on."""
        return {}

    def _take(
        self,
        lanczos: Lanczos,
        batch: int,
        probes: list[int],
        sampler: VectorSampler | None,
        bar: ProductBar,
    ) -> dict[str, Any]:
        """Continue a run from where an interrupted one has left it; return what it knew."""
        if self.halfway is None:
            return {}
        found = self.halfway.take(lanczos, (batch, probes), self.checks.section)
        if found is None:
            return {}
        about, vectors = found
        if sampler is not None:
            sampler.vectors[:] = vectors or []
        self.cost["seconds"] += self.halfway.spent
        bar.advance(int(lanczos.steps.sum()), lanczos.alphas[0], lanczos.betas[0])
        return about
