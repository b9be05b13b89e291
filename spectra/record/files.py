"""Records on disk: one directory with `spectrum.npz` and `spectrum.json`.

`spectrum.npz` (no pickles) holds the arrays and, as UTF-8 bytes, the metadata, so that one atomic
replacement moves the whole record from one state to the next: a process killed at any instant
leaves the previous record or the new one. `spectrum.json` is the same metadata for people and grep,
written second; where the two differ the npz is right.

Both are written atomically (spectra.record.atomic). The metadata hold a hash of all the rest
(spectra.record.digest), which is checked on loading; records of before have none.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra.errors import RecordError, WriteError, printable
from spectra.record.atomic import make_directory, write_atomically
from spectra.record.digest import KEY, content_sha256
from spectra.record.jsonfile import parse_json
from spectra.record.metadata import checked
from spectra.record.spectrum import SCHEMA, Spectrum, probe_dim

ARRAYS = "spectrum.npz"
METADATA = "spectrum.json"
FLOATS = ("alphas", "betas", "losses", "grad_norms")
INTEGERS = ("steps", "tokens")
LARGEST = 1 << 28  # bytes, unpacked; a record is megabytes
LARGEST_METADATA = 1 << 24
DERIVED = ("nodes", "weights")  # for readers with numpy alone
CLOSE = 1e-6  # to which a rule's moments are those of the coefficients


def save(spectrum: Spectrum, directory: Path) -> Path:
    """Write `spectrum` into `directory` (created if absent) and return the directory.

    Raises:
        WriteError: If the directory cannot be written.
    """
    text = save_arrays(spectrum, directory / ARRAYS)
    with _writing(directory):
        write_atomically(directory / METADATA, (text + "\n").encode())
    return directory


def save_arrays(spectrum: Spectrum, path: Path) -> str:
    """Write the `.npz` side of a record to `path`, and return the metadata in it as JSON.

    Raises:
        WriteError: If it cannot be written.
    """
    names = (*FLOATS, *INTEGERS, *DERIVED)
    arrays: dict[str, NDArray[Any]] = {n: np.asarray(getattr(spectrum, n)) for n in names}
    metadata = _plain(spectrum.metadata)
    metadata[KEY] = content_sha256(metadata, arrays)
    text = json.dumps(metadata, indent=1, ensure_ascii=False, allow_nan=False)
    arrays["metadata"] = np.frombuffer(text.encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    with _writing(path.parent):
        make_directory(path.parent)
        write_atomically(path, buffer.getvalue())
    return text


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"the record {str(directory)!r} cannot be written ({error.strerror}); probes saved "
            "before are untouched: make room or pass another --output, then --resume."
        ) from None


def exists(directory: Path) -> bool:
    """Whether `directory` holds a record."""
    return (directory / ARRAYS).is_file()


def load(path: str | Path) -> Spectrum:
    """Return the record in the directory `path` (or whose `spectrum.npz` is `path`).

    Raises:
        RecordError: If it is missing, damaged, or of a schema this version does not know.
    """
    place = Path(path)
    file = place / ARRAYS if place.is_dir() else place
    if file.name == METADATA:
        file = file.with_name(ARRAYS)
    if not file.is_file():
        raise RecordError(
            f"{str(path)!r} holds no record ({ARRAYS} is missing); pass the directory that "
            "`spectra estimate --output` wrote."
        )
    try:
        return _read(file)
    except RecordError:
        raise
    except Exception as error:  # damaged bytes make zipfile, zlib, lzma, tokenize, … raise anything
        raise RecordError(
            f"the record {str(file)!r} is damaged ({type(error).__name__}: {error}); restore it or "
            "estimate again."
        ) from None


def _read(file: Path) -> Spectrum:
    with zipfile.ZipFile(file) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST:
            raise RecordError(
                f"the record {str(file)!r} unpacks to {size:,} bytes; no record is that large: it "
                "was not written by Spectra."
            )
    points = None
    with np.load(file, allow_pickle=False) as arrays:
        text = arrays["metadata"].tobytes()
        if len(text) > LARGEST_METADATA:
            raise ValueError(f"its metadata have {len(text):,} bytes")
        metadata = parse_json(text)
        if isinstance(metadata, dict) and KEY in metadata:
            stored = {name: arrays[name] for name in (*FLOATS, *INTEGERS, *DERIVED)}
            if content_sha256(metadata, stored) != metadata[KEY]:
                raise RecordError(
                    f"the record {str(file)!r} was changed after it was written (its content is "
                    f"not that of its {KEY}); restore it, or estimate again."
                )
            points = (stored["nodes"].astype(np.float64), stored["weights"].astype(np.float64))
        floats = {name: arrays[name].astype(np.float64) for name in FLOATS}
        integers = {name: arrays[name].astype(np.int64) for name in INTEGERS}
    metadata = checked(upgrade(metadata, str(file)))
    _check_shapes(floats | integers, metadata)
    exact = bool(metadata.get("estimator", {}).get("exact"))
    _check_points(points, floats["alphas"], integers["steps"], exact=exact)
    return Spectrum(**floats, **integers, metadata=metadata, points=points)


def upgrade(metadata: Any, where: str) -> dict[str, Any]:
    """Return metadata of the present schema, patched from older ones.

    Raises:
        RecordError: If the schema is unknown.
    """
    if not isinstance(metadata, dict) or metadata.get("schema") != SCHEMA:
        found = metadata.get("schema") if isinstance(metadata, dict) else None
        raise RecordError(
            f"the record {where!r} has schema {found!r}, this version reads {SCHEMA}; upgrade "
            "Spectra, or estimate again."
        )
    return metadata


def _check_shapes(arrays: dict[str, NDArray[Any]], metadata: dict[str, Any]) -> None:
    batches, probes, length = arrays["alphas"].shape
    expected = {
        "betas": (batches, probes, length),
        "steps": (batches, probes),
        "losses": (batches,),
        "grad_norms": (batches,),
        "tokens": (batches,),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, expected {shape}")
    steps = arrays["steps"]
    if steps.size and not (steps.min() >= 0 and steps.max() <= length):
        raise ValueError("steps are out of range")
    if not np.isfinite(arrays["alphas"]).all() or not np.isfinite(arrays["betas"]).all():
        raise ValueError("coefficients are not finite")
    if metadata.get("estimator", {}).get("exact") and (np.diff(arrays["alphas"]) < 0).any():
        raise ValueError("exact eigenvalues are not in ascending order")
    if (arrays["betas"] < 0).any():
        raise ValueError("an off-diagonal coefficient is negative")
    dim, unmasked = int(metadata["dim"]), int(metadata.get("dim_unmasked", metadata["dim"]))
    within = probe_dim(metadata)
    if not (0 <= unmasked <= dim and within >= 1) or (steps.size and steps.max() > within):
        raise ValueError(f"dimensions {dim} and {unmasked} do not fit the steps")


def _check_points(
    points: tuple[NDArray[Any], ...] | None, alphas: NDArray[Any], steps: Any, *, exact: bool
) -> None:
    """Refuse nodes and weights that are not of the coefficients, as far as a glance tells."""
    for name, derived in zip(DERIVED, points or (), strict=False):
        if derived.shape != alphas.shape or not np.isfinite(derived).all():
            raise ValueError(f"{name} are not those of the coefficients")
    if points is None:
        return
    for b, p in np.argwhere(steps > 0):
        m = int(steps[b, p])
        nodes, weights = points[0][b, p, :m], points[1][b, p, :m]
        scale = float(np.abs(nodes).max())
        if not (
            (np.diff(nodes) >= 0).all()
            and (weights >= 0).all()
            and abs(float(weights.sum()) - 1) <= CLOSE
            and (
                np.array_equal(nodes, alphas[b, p, :m])
                if exact
                else abs(float(weights @ nodes) - float(alphas[b, p, 0])) <= CLOSE * scale
            )
        ):
            raise ValueError("nodes and weights are not those of the coefficients")


def _plain(value: Any) -> Any:
    """Return `value` in JSON's own types; what is not finite becomes null.

    Texts are written so that they can be: the path of a model may hold bytes that are no UTF-8.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return printable(str(value))
