"""Stochastic Lanczos quadrature of any symmetric operator, in memory or onto disk."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from spectra import record
from spectra.curvature.failures import told
from spectra.curvature.family import Curvature
from spectra.errors import InputWarning, UsageError
from spectra.estimation.adaptive import AdaptiveRunner, plan_beside_graph, vectors_kept
from spectra.estimation.ending import finish
from spectra.estimation.exact import ExactRunner, check_size
from spectra.estimation.families import Members, One
from spectra.estimation.halfway import Halfway, found_states, remove_states
from spectra.estimation.memory import WORK_VECTORS, MemoryPlan
from spectra.estimation.outcome import conclude, list_asked
from spectra.estimation.output import check_same_run, identity
from spectra.estimation.planner import settled
from spectra.estimation.runner import Family, Runner
from spectra.estimation.sections import note_other_threads, sections_of
from spectra.estimation.settings import SLQSettings
from spectra.estimation.shares import found_shares, remove_shares
from spectra.estimation.sharing import (
    SharingRunner,
    check_alike,
    in_words,
    refuse_adaptive,
)
from spectra.estimation.slicing import arrange, planned
from spectra.estimation.store import GrowingStore, ProbeStore
from spectra.estimation.target import Edge, Target, as_target
from spectra.linalg import SymmetricOperator
from spectra.parallel import Group
from spectra.parallel.launched import Place
from spectra.record import Spectrum

log = logging.getLogger(__name__)


def slq(
    operator: SymmetricOperator,
    *,
    num_probes: int | None = None,
    lanczos_steps: int | None = None,
    tol: float | None = None,
    tau: str | float | Sequence[float] | None = None,
    negative_mass: bool = False,
    edge: Edge = "soft",
    scope: Literal["batches", "population"] = "batches",
    max_hvps: int | None = None,
    seed: int = 0,
    progress: bool = True,
    **settings: Any,
) -> Spectrum:
    """Return the spectrum of an operator, or of each operator of a family.

    With `tol` it is the adaptive estimate: runs are extended until every asked mass is known to
    ±tol, or `max_hvps` products are spent (spectra.estimation.planner); `metadata["adaptive"]` says
    what was asked, what was reached and why it stopped.

    Args:
        operator: Any `SymmetricOperator`; for `spectra.hessian(...)` with reduce="per_batch" one
            spectrum a batch, side by side in the result.
        num_probes: Probes on each operator (1; with `tol`, what the probe error requires).
        lanczos_steps: Products with each probe (100); not with `tol`.
        tol: Half the width that the whole interval of each asked mass may have.
        tau: Thresholds: the masses of |λ| ≤ τ are asked; "auto" for the finest reachable.
        negative_mass: Whether the mass of negative eigenvalues is asked as well.
        edge: With `tol`: "soft" for shares with the weight 1/(1 + (λ/τ)⁴), "sharp" for |λ| ≤ τ.
        scope: Of the asked intervals, "batches" or "population".
        max_hvps: Products that may be spent (1,200).
        seed: Of the probes.
        progress: Whether to show a progress bar on stderr, where that is a terminal.
        **settings: See `spectra.estimation.settings.SLQSettings`.

    Raises:
        UsageError: If a setting is out of range.
        NumericalError: If the operator is not symmetric, not deterministic, or not finite.
        OutOfMemoryError: If the vectors or the basis do not fit.
    """
    target = as_target(
        tol,
        tau=tau,
        negative_mass=negative_mass,
        edge=edge,
        scope=scope,
        max_hvps=max_hvps,
        num_probes=num_probes,
        lanczos_steps=lanczos_steps,
    )
    asked = SLQSettings(
        num_probes=1 if num_probes is None else num_probes,
        lanczos_steps=100 if lanczos_steps is None else lanczos_steps,
        seed=seed,
        **settings,
    )
    return run(operator, asked, target=target, progress=progress)


def run(
    operator: SymmetricOperator,
    settings: SLQSettings,
    *,
    target: Target | None = None,
    metadata: dict[str, Any] | None = None,
    output: Path | None = None,
    earlier: Spectrum | None = None,
    progress: bool = True,
    description: str = "spectrum",
    ranks: Group | None = None,
    save_state_every: int | None = None,
) -> Spectrum:
    """Run every missing probe, writing the record to `output` after each, and return it.

    Args:
        operator: An operator, or a `Curvature` family.
        settings: What to run.
        target: What an adaptive run is to reach; None for the steps in `settings`.
        metadata: Sections of the record that the caller knows: `checkpoint`, `data`.
        output: Directory of the record; None to keep it in memory.
        earlier: Record to go on from.
        progress: Whether to show a bar.
        description: Its label.
        ranks: The processes that share the probes, each of which calls this; None for this alone.
        save_state_every: Steps after which the state of a probe is written beside the record.

    Raises:
        RecordError: If `earlier` is of another run.
    """
    operator, slices, ranks = arrange(operator, settings, ranks or Group(Place()))
    everyone = slices or ranks
    refuse_adaptive(target, ranks)
    family: Family = Members(operator) if isinstance(operator, Curvature) else One(operator)
    settings = _probe_space(operator, settings)
    if settings.exact:
        settings = _exact(settings, operator, target, ranks, slices)
    room = operator.dim
    if settings.probe_space == "unmasked":
        room = getattr(operator, "dim_unmasked", room)
    if target is None:
        settings = _decided(_capped(settings, room), earlier)
        kept = None if earlier is None else earlier.metadata["estimator"].get("basis_steps")
        plan = planned(operator, settings, ranks, slices, kept)
    else:
        count = family.num_operators()
        settings = _decided(settled(settings, target, room, operator.dim, count), earlier)
        plan = plan_beside_graph(family, settings, vectors_kept(earlier, target), slices)
    sections = sections_of(operator, settings, plan, target, everyone.size)
    for name, section in (metadata or {}).items():
        sections[name] = sections[name] | section
    store = _store(family, settings, target, sections)
    if everyone.size > 1:
        check_alike(sections, everyone)
    writes = output is not None and ranks.speaks
    if earlier is not None:
        check_same_run(earlier.metadata, sections, output or Path("memory"))
        done = everyone.first(lambda: _is_done(earlier, store, target, output))
        if done:
            return earlier
        note_other_threads(earlier, sections)
        notes = sections["notes"]
        notes += [note for note in earlier.metadata.get("notes", []) if note not in notes]
        store.take_over(earlier)
        if output is not None and writes and found_shares(output):
            _write(store, output)  # what ranks had left is part of `earlier`
            remove_shares(output)
    _tell(store, plan, settings)
    options: dict[str, Any] = {
        "saved": None if not writes or output is None else (lambda s: _write(s, output)),
        "progress": progress and ranks.speaks,
        "description": description,
        "slices": slices,
    }
    if settings.exact:
        runner: Runner = ExactRunner(family, settings, plan, store, **options)
    elif ranks.size > 1:
        runner = SharingRunner(family, settings, plan, store, **options).join(ranks, output)
    elif target is None:
        runner = Runner(family, settings, plan, store, **options)
    else:
        runner = AdaptiveRunner(family, settings, plan, store, **options).pursue(target, earlier)
    if output is not None and slices is None and not settings.exact:
        runner.halfway = _halfway(runner, sections, output, save_state_every)
    with told(f"the spectrum of {operator.dim:,} parameters"):
        runner.run()
    finish(store)
    if target is not None:
        found = store.snapshot()
        store.metadata["adaptive"] |= conclude(found, target)
        list_asked(found, target, store.metadata)
    if output is not None and writes:
        _write(store, output)
        remove_shares(output)
        remove_states(output)
    return store.snapshot()


def exact(
    operator: SymmetricOperator | Curvature,
    *,
    seed: int = 0,
    check: bool = True,
    max_memory: int | None = None,
    progress: bool = True,
) -> Spectrum:
    """Return every eigenvalue of an operator, for up to 20,000 coordinates.

    Args:
        operator: A symmetric operator, or a `Curvature` family: one spectrum an operator.
        seed: Of the vectors that the checks are made with.
        check: Whether to measure determinism, symmetry and the product error.
        max_memory: Bytes the dense matrix may take; None for 70 % of what is free.
        progress: Whether to show a bar.

    Returns:
        A spectrum of the same kind as that of `slq`, whose numbers have no resolution error and no
        probe error; its `alphas` are the eigenvalues, ascending.

    Raises:
        UsageError: If there are more coordinates, or they do not fit the memory.
    """
    settings = SLQSettings(exact=True, seed=seed, check=check, max_memory=max_memory)
    return run(operator, settings, progress=progress)


def _exact(
    settings: SLQSettings,
    operator: SymmetricOperator | Curvature,
    target: Target | None,
    ranks: Group,
    slices: Group | None,
) -> SLQSettings:
    """Return the settings of an exact spectrum: as many steps as coordinates, and no basis."""
    if target is not None:
        raise UsageError(
            "exact and tol contradict each other: nothing is left to reach; leave tol out."
        )
    if ranks.size > 1 or slices is not None:
        raise UsageError("exact works in one process; start it without torchrun.")
    room = int(getattr(operator, "dim_unmasked", operator.dim))
    check_size(room, settings.max_memory)
    return settings.with_changes(
        lanczos_steps=max(room, 1), num_probes=1, basis="none", block_size=1, probe_kind="sphere"
    )


def _is_done(
    earlier: Spectrum, store: ProbeStore, target: Target | None, output: Path | None
) -> bool:
    """Whether an earlier record is all that is asked, so that it stays as it is."""
    left = output is not None and (found_shares(output) or found_states(output))
    same = target is None and earlier.steps.shape == store.steps.shape
    return bool(same and earlier.complete and earlier.metadata.get("summary") and not left)


def _halfway(
    runner: Runner, sections: dict[str, Any], output: Path, every: int | None
) -> Halfway | None:
    """Return what keeps the states of unfinished probes, None where there are none to keep."""
    if every is None and not found_states(output):
        return None
    estimator, asked = sections["estimator"], sections.get("adaptive", {}).get("asked")
    whose = identity(sections) | {"basis_steps": estimator["basis_steps"], "asked": asked}
    write = runner.saved
    assert write is not None
    if every is not None:
        size = runner.plan.basis_bytes + runner.plan.vector_bytes * 2 // WORK_VECTORS
        log.info(
            "the state of a probe is written every %d steps: up to %.2f GB in %s, twice that while "
            "one takes the place of another",
            every,
            size / 1e9,
            output,
        )
    return Halfway(output, every or 0, whose, lambda: write(runner.store))


def _store(
    family: Family, settings: SLQSettings, target: Target | None, sections: dict[str, Any]
) -> ProbeStore:
    shape = family.num_operators(), settings.num_probes
    if target is None:
        return ProbeStore(*shape, settings.lanczos_steps, sections)
    return GrowingStore(*shape, 0, sections)


def _decided(settings: SLQSettings, earlier: Spectrum | None) -> SLQSettings:
    """Return the settings with the basis that the part of the run before was made with."""
    if earlier is None:
        return settings
    before = earlier.metadata["estimator"]
    return settings.with_changes(basis=before["basis"], basis_dtype=before["basis_dtype"])


def _tell(store: ProbeStore, plan: MemoryPlan, settings: SLQSettings) -> None:
    """Log what is about to be run and what it will take beside the model."""
    batches, probes = store.steps.shape
    done = int((store.steps > 0).sum())
    asked = store.metadata.get("adaptive", {}).get("asked", {})
    most = asked.get("max_hvps", batches * probes * settings.lanczos_steps)
    log.info(
        "%d operators × %d probes × %s%d steps = %s%s products%s; basis %s (%.2f GB), vectors "
        "%.2f GB, %.1f GB free",
        batches,
        probes,
        "up to " if asked else "",
        settings.lanczos_steps,
        "at most " if asked else "",
        f"{most:,}",
        f", {done} probes done before" if done else "",
        plan.policy.describe(),
        plan.basis_bytes / 1e9,
        plan.vector_bytes / 1e9,
        plan.available / 1e9,
    )
    shared = in_words(store)
    if shared:
        log.info(shared)
    for note in store.metadata["notes"]:
        log.info("note: %s", note)


def _write(store: ProbeStore, output: Path) -> None:
    record.save(store.snapshot(), output)


def _probe_space(operator: SymmetricOperator, settings: SLQSettings) -> SLQSettings:
    """Return the settings with probes on all coordinates where no coordinate is an exact zero."""
    shifted = isinstance(operator, Curvature) and operator.point.surface.proximal > 0
    return settings.with_changes(probe_space="all") if shifted else settings


def _capped(settings: SLQSettings, dim: int) -> SLQSettings:
    if settings.lanczos_steps <= dim:
        return settings
    warnings.warn(
        f"lanczos_steps={settings.lanczos_steps} exceeds the operator's dimension {dim}; "
        f"{dim} steps are run, which is the whole spectrum that one probe can see.",
        InputWarning,
        stacklevel=4,
    )
    return settings.with_changes(lanczos_steps=dim)
