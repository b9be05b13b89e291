"""What a record says of its run before the first probe: the sections of its metadata."""

from __future__ import annotations

from typing import Any

from spectra.curvature.family import Curvature
from spectra.estimation.environment import environment
from spectra.estimation.memory import MemoryPlan
from spectra.estimation.settings import SLQSettings
from spectra.estimation.target import Target
from spectra.linalg import SymmetricOperator
from spectra.record import SCHEMA, Spectrum


def sections_of(
    operator: SymmetricOperator,
    settings: SLQSettings,
    plan: MemoryPlan,
    target: Target | None,
    ranks: int = 1,
) -> dict[str, Any]:
    """Return the metadata of a record of `operator`, results left empty."""
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
        "basis_steps": plan.kept,
        "curvature": known.get("kind"),
        "graph": known.get("graph"),
        "protocol": "spectra",
    }
    estimator.pop("max_memory")
    notes = [plan.note] if plan.note else []
    adaptive: dict[str, Any] = {}
    if target is not None:
        asked = {"asked": target.metadata(), "basis_steps": plan.kept, "stopped": None}
        adaptive, estimator["adaptive"] = {"adaptive": asked}, True
    return adaptive | {
        "schema": SCHEMA,
        "dim": operator.dim,
        "dim_unmasked": unmasked,
        "params": {
            "select": known.get("params"),
            "names": known.get("parameter_names"),
            "count": operator.dim,
            "weight_norm": known.get("weight_norm"),
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
        "request": {},
        "estimator": estimator,
        "checks": {},
        "cost": {"hvps": 0, "seconds": 0.0, "peak_bytes": 0},
        "summary": {},
        "environment": environment(operator.device, ranks),
        "notes": notes + known.get("notes", []),
        "warnings": [],
    }


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def note_other_threads(earlier: Spectrum, sections: dict[str, Any]) -> None:
    """Add a note where a run goes on with another number of threads than it began with."""
    before = earlier.metadata.get("environment", {}).get("threads")
    now = sections["environment"]["threads"]
    if before != now:
        sections["notes"].append(
            f"begun with {before} threads and resumed with {now}: equal to an uninterrupted run up "
            "to rounding, not bit for bit"
        )
