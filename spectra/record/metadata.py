"""What the metadata of a record must be, so that every reader of a record may rely on it.

A record is read by tables, figures and reports, which take a number for a number. One that came
from elsewhere may hold anything: so what is there is of its kind (all may be absent but the
dimension), and no text carries a control character into a terminal, a page or a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from spectra.errors import printable

LONGEST = 10_000  # characters of a text
LARGEST = 1e300
MOST = 1000  # entries of a list of thresholds, or of a reference
NUMBERS = {
    "": ("dim", "dim_unmasked", "masked_fraction"),
    "point": ("toward_grid", "noisy_weights", "proximal", "rederived_scales"),
    "params": ("layer", "weight_norm", "count"),
    "checkpoint": ("step", "w_bits", "a_bits", "kv_bits", "parameters"),
    "checkpoint.quantization": ("resets", "steps_since_reset"),
    "checkpoint.quantization.recipe": (
        "seed", "reset_fraction", "reset_every", "reset_from", "reset_until", "noise_std",
        "cage_lambda", "max_steps", "learning_rate",
    ),
    "data": ("seq_len", "batch_size", "batches"),
    "estimator": ("num_batches", "num_probes", "lanczos_steps", "seed", "block_size"),
    "checks": (
        "product_error", "basis_rounding", "condensed_error", "structural_zero_fraction",
        "orthogonality_loss", "symmetry_error", "determinism_error", "difference_error",
        "matrix_asymmetry", "eigensolver_error",
    ),
    "cost": ("hvps", "seconds", "peak_bytes"),
    "reference": (
        "tau", "near_zero_mean", "near_zero_std", "lambda_min", "lambda_min_std", "lambda_max",
        "lambda_max_std",
    ),
}  # fmt: skip
TEXTS = {
    "": ("surface", "reduce"),
    "params": ("per", "module"),
    "checkpoint": (
        "path", "revision", "sha256", "stored_dtype", "quantizer", "method", "architecture",
        "format",
    ),
    "data": ("source", "sha256"),
    "estimator": ("protocol", "probe_kind", "probe_space", "dtype", "curvature", "basis"),
    "environment": ("device", "torch"),
    "reference": ("label",),
}  # fmt: skip
OBJECTS = ("summary", "reference", "request", "adaptive", "environment.versions")
ESTIMATE = ("value", "stderr", "lower", "upper", "node_sum")
SCOPES = ("batches", "population")
WHOLE = ("dim", "dim_unmasked", "step", "num_batches", "num_probes", "lanczos_steps")


def checked(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata of a record, checked, its texts free of control characters.

    Raises:
        ValueError: With the key of what is not of its kind.
    """
    clean: dict[str, Any] = _clean(metadata)
    for place in {*NUMBERS, *TEXTS, *OBJECTS}:
        found = _section(clean, place)
        for key in NUMBERS.get(place, ()):
            _number(f"{place}.{key}", found.get(key), finite=True)
        for key in TEXTS.get(place, ()):
            _require(f"{place}.{key}", found.get(key), str)
    for key in ("warnings", "notes"):
        _texts(key, clean.get(key))
    params = clean.get("params")
    if isinstance(params, dict):
        _texts("params.names", params.get("names"))
        if isinstance(params.get("select"), list):
            _texts("params.select", params["select"])
    _summary(clean.get("summary") or {})
    _scalars("reference", clean.get("reference"))
    _scalars("request", clean.get("request"))
    return clean


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value, longest=LONGEST)
    if isinstance(value, dict):
        return {printable(key, longest=LONGEST): _clean(entry) for key, entry in value.items()}
    return [_clean(entry) for entry in value] if isinstance(value, list) else value


def _section(metadata: dict[str, Any], place: str) -> dict[str, Any]:
    found: Any = metadata
    for key in place.split(".") if place else ():
        found = found.get(key)
        if isinstance(found, str) and key == "params":  # the selection itself
            return {}
        _require(place, found, dict)
        found = found or {}
    return dict(found)


def _number(place: str, value: Any, *, finite: bool = False) -> None:
    if isinstance(value, bool) and place == "point.rederived_scales":
        return
    kind = int if place.rpartition(".")[2] in WHOLE else (int, float)
    _require(place, value, kind)
    most = 1 << 64 if isinstance(value, int) else LARGEST
    huge = value is not None and abs(value) > most and (finite or math.isfinite(value))
    if isinstance(value, bool) or huge:
        raise ValueError(f"{place.lstrip('.')} is {value!r}, no such number")


def _require(place: str, value: Any, kind: Any) -> None:
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{place.lstrip('.')} is of type {type(value).__name__}")


def _texts(place: str, values: Any) -> None:
    _require(place, values, list)
    for value in values or ():
        if not isinstance(value, str):
            raise ValueError(f"{place} holds a {type(value).__name__}")


def _scalars(place: str, section: dict[str, Any] | None) -> None:
    for key, value in (section or {}).items():
        entries: Iterable[Any] = value if isinstance(value, list) else [value]
        if len(section or ()) > MOST or any(isinstance(one, dict | list) for one in entries):
            raise ValueError(f"{place}.{key} is no setting")


def _summary(summary: dict[str, Any]) -> None:
    rows = summary.get("near_zero")
    _require("summary.near_zero", rows, list)
    if len(rows or ()) > MOST:
        raise ValueError(f"summary.near_zero has more than {MOST} entries")
    for number, row in enumerate(rows or ()):
        place = f"summary.near_zero.{number}"
        if not isinstance(row, dict) or row.get("tau") is None:
            raise ValueError(f"{place} has no threshold")
        for key in ("tau", "relative_tau"):
            _number(f"{place}.{key}", row.get(key))
        _require(f"{place}.note", row.get("note"), str)
        _scopes(place, row)
    _soft(summary.get("soft"))
    _resolution(summary.get("resolution"))
    for key, entry in summary.items():
        if key not in ("near_zero", "soft", "resolution"):
            _require(f"summary.{key}", entry, dict)
            _scopes(f"summary.{key}", entry or {})


def _soft(rows: Any) -> None:
    _require("summary.soft", rows, list)
    if len(rows or ()) > MOST:
        raise ValueError(f"summary.soft has more than {MOST} entries")
    for number, row in enumerate(rows or ()):
        place = f"summary.soft.{number}"
        if not isinstance(row, dict) or row.get("tau") is None:
            raise ValueError(f"{place} has no threshold")
        for key in ("tau", "order"):
            _number(f"{place}.{key}", row.get(key))
        _scopes(place, row)


def _resolution(section: Any) -> None:
    _require("summary.resolution", section, dict)
    for key in ("width", "tau", "order"):
        _number(f"summary.resolution.{key}", (section or {}).get(key))
    needed = (section or {}).get("needed")
    _require("summary.resolution.needed", needed, list)
    for number, row in enumerate((needed or [])[:MOST]):
        _require(f"summary.resolution.needed.{number}", row, dict)
        for key in ("tau", "order", "steps"):
            _number(f"summary.resolution.needed.{number}.{key}", row.get(key))


def _scopes(place: str, entry: dict[str, Any]) -> None:
    for scope in SCOPES:
        found = entry.get(scope)
        _require(f"{place}.{scope}", found, dict)
        for key in ESTIMATE:
            _number(f"{place}.{scope}.{key}", (found or {}).get(key))
        _require(f"{place}.{scope}.note", (found or {}).get("note"), str)
