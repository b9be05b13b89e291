"""The output directory of a run: whose it is, whether to begin, go on, or refuse.

A run is the same run when everything that decides its numbers is the same: checkpoint contents,
data, parameters, surface, point, seed, steps, precision, basis. The number of probes may grow. An
adaptive run may be asked for more than before.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from spectra import record
from spectra.errors import RecordError, UsageError
from spectra.estimation.halfway import remove_states
from spectra.estimation.shares import found_shares, joined
from spectra.record import Spectrum
from spectra.record.atomic import is_remnant
from spectra.record.lock import FILE as LOCK

ESTIMATOR_KEYS = (
    "lanczos_steps",
    "seed",
    "probe_kind",
    "dtype",
    "vector_dtype",
    "basis",
    "basis_dtype",
    "block_size",
    "curvature",
)
CHECKPOINT_KEYS = ("sha256", "quantizer", "w_bits", "a_bits", "kv_bits")
POINT_KEYS = ("toward_grid", "rederived_scales", "noisy_weights", "proximal")


def identity(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what decides a run's numbers, as flat keys."""
    estimator, checkpoint = metadata.get("estimator", {}), metadata.get("checkpoint", {})
    point = metadata.get("point", {})
    adaptive = bool(estimator.get("adaptive"))
    if adaptive:  # its steps are a result, not a setting
        estimator = estimator | {"lanczos_steps": None}
    return {
        "dim": metadata.get("dim"),
        "surface": metadata.get("surface"),
        "reduce": metadata.get("reduce"),
        "params": metadata.get("params", {}).get("names"),
        **{f"checkpoint.{key}": checkpoint.get(key) for key in CHECKPOINT_KEYS},
        "data.sha256": metadata.get("data", {}).get("sha256"),
        "estimator.adaptive": adaptive,
        **{f"estimator.{key}": estimator.get(key) for key in ESTIMATOR_KEYS},
        "estimator.matmul_precision": estimator.get("matmul_precision") or "highest",
        "estimator.probe_space": estimator.get("probe_space", "unmasked"),
        **{f"point.{key}": point.get(key) or 0 for key in POINT_KEYS},
        "dim_unmasked": metadata.get("dim_unmasked"),
    }


def open_output(directory: Path, *, resume: bool, overwrite: bool) -> Spectrum | None:
    """Return the record to go on from, or None to begin; nothing is created yet.

    Raises:
        UsageError: If the directory holds a run and neither `resume` nor `overwrite` is given, or
            holds other files.
        RecordError: If it cannot be written, or its record is damaged.
    """
    if resume and overwrite:
        raise UsageError("resume and overwrite contradict each other; pass one of them.")
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"output={str(directory)!r} is a file; pass a directory.")
    held = directory.is_dir() and any(_counts(path) for path in directory.iterdir())
    if held and (record.exists(directory) or found_shares(directory)):
        if resume:
            return load_all(directory)
        if not overwrite:
            raise UsageError(
                f"output={str(directory)!r} holds a run already; pass --resume to go on with it, "
                "--overwrite to replace it, or another --output."
            )
    elif held and not (resume or overwrite):
        raise UsageError(
            f"output={str(directory)!r} is not empty and holds no run of Spectra; pass an empty or "
            "new directory."
        )
    nearest = directory
    while not nearest.exists():
        nearest = nearest.parent
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise RecordError(
            f"output={str(directory)!r} cannot be written: {str(nearest)!r} is not a directory you "
            "may write to; pass another --output."
        )
    if overwrite:
        remove_states(directory)  # of the run before: it may have been this very one
    return None  # an overwritten run stays until the first probe of the new one replaces it


def _counts(path: Path) -> bool:
    """Whether a file is of the user or of a run, not what keeping order in the directory takes."""
    return not is_remnant(path) and path.name != LOCK


def load_all(directory: Path) -> Spectrum:
    """Return the record in `directory` with what ranks of interrupted runs have left beside it.

    What belongs to another run than the record, or is damaged, stays where it is.

    Raises:
        RecordError: If the record is damaged, or there is none and nothing else can be read.
    """
    shares = found_shares(directory)
    if not shares or record.exists(directory):
        known = [record.load(directory)]
    else:
        known = [record.load(shares.pop(0))]
    whose = identity(known[0].metadata)
    for path in shares:
        try:
            share = record.load(path)
        except RecordError:
            continue
        if identity(share.metadata) == whose:
            known.append(share)
    return joined(known) if len(known) > 1 else known[0]


def check_same_run(earlier: dict[str, Any], now: dict[str, Any], directory: Path) -> None:
    """Raise RecordError naming the first difference, if the two records are of different runs."""
    old, new = identity(earlier), identity(now)
    for key, value in new.items():
        if old[key] != value:
            shown = "" if isinstance(value, list) else f" ({old[key]!r} there, {value!r} now)"
            raise RecordError(
                f"output={str(directory)!r} holds another run: {key} differs{shown}; pass the "
                "same arguments as before, or another --output."
            )
    there = int(earlier.get("estimator", {}).get("num_probes", 0))
    if there > int(now["estimator"]["num_probes"]):
        raise RecordError(
            f"output={str(directory)!r} was begun with num_probes={there}, more than "
            f"{now['estimator']['num_probes']}; a run may gain probes, not lose them."
        )
