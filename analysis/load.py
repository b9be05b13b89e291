"""Many records as one tidy table: a row a run, plain dtypes, `_se`, `_lower`, `_upper` columns.

A row holds the scalar summary only; its `path` leads back to the quadrature (`spectrum(row)`), from
which figures are drawn. Soft shares of order 2 have the columns `soft_0.1` and so on, and
`resolved_tau` is the smallest threshold of the ladder that the record knows. An estimate `x` has
the columns `x`, `x_se`, `x_lower`, `x_upper`, all of the scope asked for; masses with sharp edges
also have `_node_sum`, the plain sum of node weights that other tools report and whose error is not
known.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.labels import config_id, is_reference, known, method_of, section
from analysis.studies import RecordWarning as RecordWarning
from analysis.studies import searched
from spectra import quadrature, record
from spectra.errors import RecordError, SpectraError, UsageError, printable
from spectra.quadrature.soft import DEFAULT_ORDER
from spectra.record.files import ARRAYS, METADATA
from spectra.record.spectrum import Spectrum

TEXT = (
    "path", "name", "model", "revision", "sha256", "stored_dtype", "quantizer", "method", "surface",
    "params", "per", "module", "reduce", "protocol", "scope", "data_source", "data_sha256",
    "probe_kind", "dtype", "device", "config_id", "warnings",
)  # fmt: skip
INTEGERS = (
    "step", "dim", "dim_unmasked", "seq_len", "batch_size", "num_batches", "num_probes",
    "lanczos_steps", "seed", "train_seed", "layer", "tokens", "hvps", "peak_bytes",
)  # fmt: skip
POINT = ("toward_grid", "rederived_scales", "noisy_weights", "proximal")
TEXT_DTYPE: Any = "str" if int(pd.__version__.split(".")[0]) >= 3 else object
KEPT = 2048  # records held in memory
PART = ("per", "layer", "module", "weight_norm")
ESTIMATES = ("lambda_min", "lambda_max", "mean_eigenvalue", "negative_mass")


def load(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, scope: str = "batches"
) -> pd.DataFrame:
    """Return every record at or below `paths` as a DataFrame, a row a run.

    Args:
        paths: A record, a directory that holds records at any depth, or several of these.
        scope: Which intervals to give: "batches" (the batches used) or "population" (over data;
            missing for records with fewer than three batches).

    Returns:
        Rows ordered by path, numbers in paths compared as numbers.

    Raises:
        RecordError: If a path does not exist, or no readable record is found.
        UsageError: If `scope` is not known.
    """
    if scope not in ("batches", "population"):
        raise UsageError(f"scope={scope!r} is not known; pass 'batches' or 'population'.")
    roots = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    asked = ", ".join(repr(str(root)) for root in roots) or "an empty list"
    places = find_records(roots)
    if not places:
        raise RecordError(
            f"{asked} holds no record (no {ARRAYS} at any depth); pass a directory that "
            "`spectra estimate --output` wrote to."
        )
    rows, damaged = [], []
    for place, name in places.items():
        try:
            rows.append(_row(_loaded(place), place, name, scope))
        except SpectraError as error:
            damaged.append(place)
            warnings.warn(f"left out: {error}", RecordWarning, stacklevel=2)
    if not rows:
        raise RecordError(
            f"none of the {len(damaged)} records at {asked} can be read; restore them, or "
            "estimate again."
        )
    return _tidy(rows)


def spectrum(row: Any) -> Spectrum:
    """Return the record behind a row of `load`, or behind a path, with its quadrature.

    It is shared by all who ask for the same file: to change it, `spectra.record.load` another.
    """
    if isinstance(row, Spectrum):
        return row
    if isinstance(row, (str, os.PathLike)):
        return _loaded(Path(row))
    path = row.get("path") if isinstance(row, Mapping | pd.Series) else getattr(row, "path", None)
    if not isinstance(path, str):
        raise UsageError("this row has no 'path'; pass a row of analysis.load, or a path.")
    return _loaded(Path(path))


def _loaded(place: Path) -> Spectrum:
    """Return a record, the same object as long as its file is the same: reports ask many times."""
    try:
        found = (place / ARRAYS if place.is_dir() else place).stat()
    except OSError:
        return record.load(place)  # which says what is wrong
    return _cached(place.absolute(), found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=KEPT)
def _cached(place: Path, *version: int) -> Spectrum:
    del version
    return record.load(place)


def find_records(roots: Iterable[str | os.PathLike[str]]) -> dict[Path, str]:
    """Return {directory: name} of all records at or below `roots`, each once, in natural order."""
    found: dict[Path, tuple[Path, str]] = {}
    for root in map(Path, roots):
        if root.name in (ARRAYS, METADATA):
            root = root.parent
        if not root.is_dir():
            raise RecordError(f"{str(root)!r} is not a directory; pass where records were written.")
        for directory, below, files in os.walk(root, followlinks=False):
            below.sort()
            if ARRAYS in files:
                place = Path(directory)
                name = place.relative_to(root).as_posix() if place != root else place.resolve().name
                found.setdefault(place.resolve(), (place, name))
    return dict(sorted(found.values(), key=lambda item: natural(str(item[0]))))


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key that compares numbers in a text as numbers."""
    pieces = re.split(r"(\d+)", text)
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in pieces]


def summary_of(found: Spectrum) -> dict[str, Any]:
    """Return the record's summary, computed if an interrupted run left none."""
    summary = section(found.metadata, "summary")
    if is_reference(found.metadata) or not found.finished:
        return summary
    if not summary:
        return quadrature.summarize(found.measure)
    if "soft" not in summary and found.measure.spherical:  # a record of before
        return summary | quadrature.soft_summary(found.measure)
    return summary


def _row(found: Spectrum, place: Path, name: str, scope: str) -> dict[str, Any]:
    meta = found.metadata
    checkpoint, data = section(meta, "checkpoint"), section(meta, "data")
    estimator, checks = section(meta, "estimator"), section(meta, "checks")
    cost, params = section(meta, "cost"), meta.get("params")
    summary = summary_of(found)
    row: dict[str, Any] = {
        "path": str(place),
        "name": name,
        "model": checkpoint.get("path"),
        "revision": checkpoint.get("revision"),
        "sha256": checkpoint.get("sha256"),
        "stored_dtype": checkpoint.get("stored_dtype"),
        "step": checkpoint.get("step"),
        "w_bits": checkpoint.get("w_bits"),
        "a_bits": checkpoint.get("a_bits"),
        "quantizer": checkpoint.get("quantizer"),
        "method": checkpoint.get("method") and method_of(meta),
        "train_seed": section(section(checkpoint, "quantization"), "recipe").get("seed"),
        "surface": meta.get("surface"),
        "params": params.get("select") if isinstance(params, dict) else params,
        **{key: section(meta, "params").get(key) for key in PART},
        "reduce": meta.get("reduce"),
        "dim": meta.get("dim"),
        "dim_unmasked": meta.get("dim_unmasked"),
        "masked_fraction": meta.get("masked_fraction"),
        **{key: section(meta, "point").get(key) for key in POINT},
        "structural_zero_fraction": checks.get("structural_zero_fraction"),
        "product_error": checks.get("product_error"),
        "data_source": data.get("source"),
        "data_sha256": data.get("sha256"),
        "seq_len": data.get("seq_len"),
        "batch_size": data.get("batch_size"),
        "protocol": estimator.get("protocol"),
        "num_batches": estimator.get("num_batches", found.steps.shape[0]),
        "num_probes": estimator.get("num_probes", found.steps.shape[1]),
        "lanczos_steps": estimator.get("lanczos_steps", found.alphas.shape[2]),
        "seed": estimator.get("seed"),
        "probe_kind": estimator.get("probe_kind"),
        "dtype": estimator.get("dtype"),
        "device": section(meta, "environment").get("device"),
        "complete": found.complete,
        "search": searched(place),
        "scope": scope,
        "tokens": int(found.tokens.sum()),
    }
    row |= _losses(found)
    for end in ("", "_se"):  # missing where the record does not tell the norm of its weights
        norm = row["weight_norm"]
        row[f"grad_weight_ratio{end}"] = row[f"grad_norm{end}"] / norm if norm else None
    for key in ESTIMATES:
        row |= _columns(key, _pick(summary.get(key), scope))
    row |= _derived(summary, meta.get("dim"), scope)
    for entry in summary.get("near_zero") or []:
        row |= _near_zero(entry, scope)
    for entry in summary.get("soft") or []:
        order = "" if entry.get("order") == DEFAULT_ORDER else f"order{entry.get('order')}_"
        row |= _columns(f"soft_{order}{entry['tau']:g}", _pick(entry, scope))
    known_from = section(summary, "resolution")
    row["resolved_tau"], row["resolved_order"] = known_from.get("tau"), known_from.get("order")
    dimension = section(summary, "effective_dimension")
    row |= _columns("effective_dimension", _pick(dimension, scope))
    row["effective_dimension_tau"] = dimension.get("tau")
    row |= {f"reference_{key}": value for key, value in section(meta, "reference").items()}
    row["seconds"], row["hvps"] = cost.get("seconds"), cost.get("hvps")
    row["peak_bytes"] = cost.get("peak_bytes")
    row["warnings"] = "; ".join(map(str, meta.get("warnings") or []))
    row["config_id"] = config_id(meta)
    return row


def _pick(entry: Any, scope: str) -> dict[str, Any]:
    found = entry.get(scope) if isinstance(entry, dict) else None
    return found if isinstance(found, dict) else {}


def _columns(name: str, estimate: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: estimate.get("value"),
        f"{name}_se": estimate.get("stderr"),
        f"{name}_lower": estimate.get("lower"),
        f"{name}_upper": estimate.get("upper"),
    }


def _derived(summary: Mapping[str, Any], dim: Any, scope: str) -> dict[str, Any]:
    square = rms_of(_pick(summary.get("mean_square_eigenvalue"), scope))
    mean = _pick(summary.get("mean_eigenvalue"), scope)
    trace = {
        key: float(dim) * mean[key]
        for key in ("value", "stderr", "lower", "upper")
        if known(dim) and known(mean.get(key))
    }
    return _columns("rms_eigenvalue", square) | _columns("trace", trace)


def rms_of(square: Mapping[str, Any]) -> dict[str, float]:
    """Return √ of an estimate of a mean square, ends and (first order) standard error."""
    if not known(square.get("value")):
        return {}
    root = {
        key: math.sqrt(max(square[key], 0.0))
        for key in ("value", "lower", "upper")
        if known(square.get(key))
    }
    if known(square.get("stderr")) and root["value"] > 0:
        root["stderr"] = square["stderr"] / (2 * root["value"])
    return root


def near_zero_name(entry: Mapping[str, Any]) -> str:
    """Return the column of one threshold: near_zero_0.0015, or near_zero_rel_0.0001."""
    relative = entry.get("relative_tau")
    return f"near_zero_rel_{relative:g}" if known(relative) else f"near_zero_{entry['tau']:g}"


def _near_zero(entry: Mapping[str, Any], scope: str) -> dict[str, Any]:
    name, estimate = near_zero_name(entry), _pick(entry, scope)
    row = _columns(name, estimate) | {f"{name}_node_sum": estimate.get("node_sum")}
    if known(entry.get("relative_tau")):
        row[f"{name}_tau"] = entry.get("tau")
    return row


def _losses(found: Spectrum) -> dict[str, float]:
    """Return the token-weighted mean loss and the mean gradient norm, with standard errors."""
    row = {}
    for key, values in (("loss", found.losses), ("grad_norm", found.grad_norms)):
        there = np.isfinite(values)
        counts = found.tokens[there] if key == "loss" else np.ones(int(there.sum()))
        size, total = int(there.sum()), float(counts.sum())
        row[key], row[f"{key}_se"] = math.nan, math.nan
        if size and total > 0:
            shares = counts / total
            mean = float(shares @ values[there])
            row[key] = mean
            if size > 1:
                spread = float(shares**2 @ (values[there] - mean) ** 2)
                row[f"{key}_se"] = math.sqrt(spread * size / (size - 1))
    return row


def _tidy(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    columns: dict[str, pd.Series[Any]] = {}
    for name in frame.columns:
        values = frame[name]
        if name in TEXT:
            words = [str(value) if known(value) else None for value in values]
            if name != "path":  # which must lead back to the record
                words = [None if word is None else printable(word) for word in words]
            columns[name] = pd.Series(words, index=frame.index, dtype=TEXT_DTYPE)
        elif name in ("complete", "search"):
            columns[name] = values.astype(bool)
        else:
            numbers = pd.to_numeric(values, errors="coerce").astype("float64")
            whole = name in INTEGERS and bool((numbers.abs() < 2.0**63).all())
            columns[name] = numbers.astype("int64") if whole else numbers
    return pd.DataFrame(columns)
