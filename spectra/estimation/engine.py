"""Stochastic Lanczos quadrature of any symmetric operator, in memory or onto disk."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from spectra import record
from spectra.curvature.failures import told
from spectra.curvature.family import Curvature
from spectra.errors import InputWarning
from spectra.estimation.environment import environment
from spectra.estimation.memory import MemoryPlan, plan_memory
from spectra.estimation.output import check_same_run
from spectra.estimation.reference import reference_numbers
from spectra.estimation.runner import Family, Runner
from spectra.estimation.settings import DTYPES, SLQSettings
from spectra.estimation.store import ProbeStore
from spectra.linalg import BasisPolicy, SymmetricOperator
from spectra.quadrature import summarize
from spectra.record import SCHEMA, Spectrum, probe_dim

log = logging.getLogger(__name__)


class _Members:
    """The operators that a family's own `reduce` makes of its batches."""

    def __init__(self, family: Curvature) -> None:
        self._family = family

    def num_operators(self) -> int:
        return self._family.num_operators()

    def operator(self, index: int) -> SymmetricOperator:
        mean = self._family.reduce == "mean"
        return self._family.mean if mean else self._family.operator(index)


class _One:
    """A family of one operator."""

    def __init__(self, operator: SymmetricOperator) -> None:
        self._operator = operator

    def num_operators(self) -> int:
        return 1

    def operator(self, index: int) -> SymmetricOperator:  # noqa: ARG002 - there is only one
        return self._operator


def slq(
    operator: SymmetricOperator,
    *,
    num_probes: int = 1,
    lanczos_steps: int = 100,
    seed: int = 0,
    progress: bool = True,
    **settings: Any,
) -> Spectrum:
    """Return the spectrum of an operator, or of each operator of a family.

    Args:
        operator: Any `SymmetricOperator`; for `spectra.hessian(...)` with reduce="per_batch" one
            spectrum a batch, side by side in the result.
        num_probes: Probes on each operator.
        lanczos_steps: Products with each probe.
        seed: Of the probes.
        progress: Whether to show a progress bar on stderr, where that is a terminal.
        **settings: See `spectra.estimation.settings.SLQSettings`.

    Raises:
        UsageError: If a setting is out of range.
        NumericalError: If the operator is not symmetric, not deterministic, or not finite.
        OutOfMemoryError: If the vectors or the basis do not fit.
    """
    asked = SLQSettings(num_probes=num_probes, lanczos_steps=lanczos_steps, seed=seed, **settings)
    return run(operator, asked, progress=progress)


def run(
    operator: SymmetricOperator,
    settings: SLQSettings,
    *,
    metadata: dict[str, Any] | None = None,
    output: Path | None = None,
    earlier: Spectrum | None = None,
    progress: bool = True,
    description: str = "spectrum",
) -> Spectrum:
    """Run every missing probe, writing the record to `output` after each, and return it.

    Args:
        operator: An operator, or a `Curvature` family.
        settings: What to run.
        metadata: Sections of the record that the caller knows: `checkpoint`, `data`.
        output: Directory of the record; None to keep it in memory.
        earlier: Record to go on from.
        progress: Whether to show a bar.
        description: Its label.

    Raises:
        RecordError: If `earlier` is of another run.
    """
    family: Family = _Members(operator) if isinstance(operator, Curvature) else _One(operator)
    settings = _probe_space(operator, settings)
    room = operator.dim
    if settings.probe_space == "unmasked":
        room = getattr(operator, "dim_unmasked", room)
    settings = _capped(settings, room)
    if earlier is not None:
        decided = earlier.metadata["estimator"]
        settings = settings.with_changes(basis=decided["basis"], basis_dtype=decided["basis_dtype"])
    plan = plan_memory(settings, operator.dim, operator.dtype, operator.device)
    sections = _sections(operator, settings, plan)
    for name, section in (metadata or {}).items():
        sections[name] = sections[name] | section
    steps = min(settings.lanczos_steps, room)
    store = ProbeStore(family.num_operators(), settings.num_probes, steps, sections)
    if earlier is not None:
        check_same_run(earlier.metadata, sections, output or Path("memory"))
        _note_other_threads(earlier, sections)
        store.take_over(earlier)
    _tell(store, plan)
    runner = Runner(
        family,
        settings,
        plan,
        store,
        saved=None if output is None else (lambda s: _write(s, output)),
        progress=progress,
        description=description,
    )
    with told(f"the spectrum of {operator.dim:,} parameters"):
        runner.run()
    finish(store)
    if output is not None:
        _write(store, output)
    return store.snapshot()


def _tell(store: ProbeStore, plan: MemoryPlan) -> None:
    """Log what is about to be run and what it will take beside the model."""
    batches, probes, steps = store.alphas.shape
    done = int((store.steps > 0).sum())
    log.info(
        "%d operators × %d probes × %d steps = %s products%s; basis %s (%.2f GB), vectors %.2f GB, "
        "%.1f GB free",
        batches,
        probes,
        steps,
        f"{batches * probes * steps:,}",
        f", {done} probes done before" if done else "",
        plan.policy.describe(),
        plan.basis_bytes / 1e9,
        plan.vector_bytes / 1e9,
        plan.available / 1e9,
    )
    for note in store.metadata["notes"]:
        log.info("note: %s", note)


def _write(store: ProbeStore, output: Path) -> None:
    record.save(store.snapshot(), output)


def finish(store: ProbeStore) -> None:
    """Fill in the summary from the probes that have run."""
    _add_basis_rounding(store)
    spectrum = store.snapshot()
    store.metadata["summary"] = summarize(spectrum.measure)
    if store.metadata["estimator"]["protocol"] == "winq":
        store.metadata["reference"] = reference_numbers(spectrum)


def _add_basis_rounding(store: ProbeStore) -> None:
    """Record what storing the basis in a lower precision adds to the product error."""
    estimator = store.metadata["estimator"]
    dtype, stored = DTYPES[estimator["vector_dtype"]], DTYPES[estimator["basis_dtype"]]
    relative = BasisPolicy(estimator["basis"], stored).rounding(
        probe_dim(store.metadata), store.alphas.shape[2], dtype
    )
    ends = store.snapshot().measure.span
    store.metadata["checks"]["basis_rounding"] = relative * max(abs(end) for end in ends)


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


def _sections(
    operator: SymmetricOperator, settings: SLQSettings, plan: MemoryPlan
) -> dict[str, Any]:
    known: dict[str, Any] = {}
    if isinstance(operator, Curvature):
        known = operator.metadata()
    unmasked = known.get("dim_unmasked", operator.dim)
    estimator = settings.metadata() | {
        "basis": plan.policy.where,
        "basis_dtype": _name(plan.policy.dtype or settings.working_dtype(operator.dtype)),
        "vector_dtype": _name(settings.working_dtype(operator.dtype)),
        "dtype": _name(operator.dtype),
        "basis_bytes": plan.basis_bytes,
        "curvature": known.get("kind"),
        "graph": known.get("graph"),
        "protocol": "spectra",
    }
    estimator.pop("max_memory")
    notes = [plan.note] if plan.note else []
    return {
        "schema": SCHEMA,
        "dim": operator.dim,
        "dim_unmasked": unmasked,
        "params": {
            "select": known.get("params"),
            "names": known.get("parameter_names"),
            "count": operator.dim,
        },
        "surface": known.get("surface"),
        "masked_fraction": (operator.dim - unmasked) / operator.dim,
        "point": {
            "toward_grid": None,
            "rederived_scales": None,
            "noisy_weights": None,
            "proximal": known.get("proximal") or None,
        },
        "reduce": known.get("reduce"),
        "checkpoint": {},
        "data": {},
        "estimator": estimator,
        "checks": {},
        "cost": {"hvps": 0, "seconds": 0.0, "peak_bytes": 0},
        "summary": {},
        "environment": environment(operator.device),
        "notes": notes + known.get("notes", []),
        "warnings": [],
    }


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _note_other_threads(earlier: Spectrum, sections: dict[str, Any]) -> None:
    before = earlier.metadata.get("environment", {}).get("threads")
    now = sections["environment"]["threads"]
    if before != now:
        sections["notes"].append(
            f"begun with {before} threads and resumed with {now}: equal to an uninterrupted run up "
            "to rounding, not bit for bit"
        )
