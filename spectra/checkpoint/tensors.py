"""Names, types and shapes of the stored tensors, read without reading the weights.

A safetensors file is: the length N of the header (8 bytes, little-endian), N bytes of JSON
{name: {dtype, shape, data_offsets: [begin, end]}}, then the data, which ends where the last tensor
ends. So a truncated file is recognized from its first kilobytes and its size. Every byte of the
data belongs to one tensor: what overlaps could make a small file fill any memory. A pickle is
opened on the meta device, see pickles.py.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from spectra.checkpoint.formats import consolidated
from spectra.checkpoint.locate import CONSOLIDATED, PARAMS, Location, shorten
from spectra.checkpoint.pickles import open_state, zipped
from spectra.checkpoint.quiet import first_line
from spectra.errors import CheckpointError
from spectra.record.jsonfile import parse_json

HEADER_LIMIT = 100_000_000  # bytes, the format's own limit
LEAST_ENTRY = 40  # bytes of a header that a tensor takes; lists without end take two each
LARGEST_RANK, LARGEST_EXTENT = 64, 1 << 63
TYPES = {
    "F64": (torch.float64, 8),
    "F32": (torch.float32, 4),
    "F16": (torch.float16, 2),
    "BF16": (torch.bfloat16, 2),
    "I64": (torch.int64, 8),
    "I32": (torch.int32, 4),
    "I16": (torch.int16, 2),
    "I8": (torch.int8, 1),
    "U8": (torch.uint8, 1),
    "BOOL": (torch.bool, 1),
    "F8_E4M3": (torch.float8_e4m3fn, 1),
    "F8_E5M2": (torch.float8_e5m2, 1),
}
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor; `dtype` is None where torch has no such type."""

    name: str
    dtype: torch.dtype | None
    shape: tuple[int, ...]


def list_tensors(location: Location) -> list[TensorInfo]:
    """Return what the weight files of `location` hold; empty for weights not fetched.

    Raises:
        CheckpointError: If a file is damaged or truncated, is a pickle of more than tensors, or
            lacks tensors that the shard index promises.
    """
    if location.format == CONSOLIDATED:
        return [
            TensorInfo(name, tensor.dtype, tensor.shape)
            for tensor in _state(location.weights[0])
            if (name := consolidated.here(tensor.name)) is not None
        ]
    read = _state if "bin" in location.format else read_header
    found: dict[str, TensorInfo] = {}
    for path in location.weights:
        entries = read(path)
        promised = {t for t, file in (location.index or {}).items() if file == path.name}
        lacking = sorted(promised - {entry.name for entry in entries})
        if lacking:
            raise CheckpointError(
                f"{str(path)!r} lacks {len(lacking)} of the {len(promised)} tensors that the index "
                f"promises: {shorten(lacking)}; copy or download both again."
            )
        found.update({entry.name: entry for entry in entries})
    return list(found.values())


def read_tensors(location: Location, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return the stored tensors of these names, on the CPU and in their stored types.

    Raises:
        CheckpointError: If a file cannot be read. Names that are nowhere are left out.
    """
    wanted, found = set(names), {}
    if location.format == CONSOLIDATED:
        return _translated(location, wanted)
    for path in location.weights:
        try:
            if "bin" in location.format:
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped(path))
                found.update({n: t.clone() for n, t in state.items() if n in wanted})
                continue
            with safe_open(path, framework="pt") as file:
                found.update({n: file.get_tensor(n) for n in file.keys() if n in wanted})  # noqa: SIM118
        except Exception as error:  # the readers' own errors, of a file that has changed since
            raise CheckpointError(f"{str(path)!r} cannot be read: {first_line(error)}.") from None
    return found


def _translated(location: Location, wanted: set[str]) -> dict[str, torch.Tensor]:
    """Return tensors of a consolidated file by their names here, rows in the order of here."""
    (path,), found = location.weights, {}
    params = consolidated.read_params(location.directory / PARAMS)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped(path))
    except Exception as error:  # the readers' own errors, of a file that has changed since
        raise CheckpointError(f"{str(path)!r} cannot be read: {first_line(error)}.") from None
    for stored, tensor in state.items():
        name = consolidated.here(stored)
        if name in wanted and name is not None:
            found[name] = consolidated.rotated(name, tensor, params).clone()
    return found


def float_types(tensors: Iterable[TensorInfo]) -> list[torch.dtype]:
    """Return the floating-point types among `tensors`, that of the most elements first."""
    elements: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        if tensor.dtype is not None and tensor.dtype.is_floating_point:
            elements[tensor.dtype] += math.prod(tensor.shape)
    return [dtype for dtype, _ in elements.most_common()]


def read_header(path: Path) -> list[TensorInfo]:
    """Return the tensors that the header of a safetensors file lists.

    Raises:
        CheckpointError: If it is no safetensors file, or its data are not what its header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            start = handle.read(8)
            if start.startswith(b"version "):
                raise CheckpointError(
                    f"{str(path)!r} is a Git LFS pointer, not the weights; run `git lfs pull`."
                )
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if size < 8 or (length <= HEADER_LIMIT and 8 + length > size):
                raise CheckpointError(_truncated(path, size, 8 + length))
            raw = handle.read(length) if length <= HEADER_LIMIT else b""
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    try:
        entries = _entries(raw)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CheckpointError(
            f"{str(path)!r} is not a safetensors file: its header cannot be parsed; copy or "
            "download it again."
        ) from None
    _check_data(path, [place for _, *place in entries], size - 8 - length)
    return [info for info, *_ in entries]


def _entries(raw: bytes) -> list[tuple[TensorInfo, int, int]]:
    most = len(raw) // LEAST_ENTRY + 8
    if raw.count(b"{") > most or raw.count(b"[") > 2 * most:
        raise ValueError("nested")
    header = parse_json(raw)
    header.pop("__metadata__", None)
    return [_entry(name, entry) for name, entry in header.items()]


def _entry(name: str, entry: dict[str, Any]) -> tuple[TensorInfo, int, int]:
    begin, end = offsets = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if len(shape) > LARGEST_RANK or any(
        type(n) is not int or not 0 <= n < LARGEST_EXTENT for n in (*offsets, *shape)
    ):
        raise ValueError(name)
    dtype, width = TYPES.get(entry["dtype"], (None, None))
    if begin > end or (width is not None and end - begin != width * math.prod(shape)):
        raise ValueError(name)
    return TensorInfo(name, dtype, shape), begin, end


def _check_data(path: Path, places: list[list[int]], size: int) -> None:
    at = 0
    for begin, end in sorted(places):
        if begin != at:
            raise CheckpointError(
                f"{str(path)!r} is not a safetensors file: its tensors overlap, or leave bytes "
                "between them; copy or download it again."
            )
        at = end
    before = path.stat().st_size - size
    if at > size:
        raise CheckpointError(_truncated(path, before + size, before + at))
    if at < size:
        raise CheckpointError(
            f"{str(path)!r} is not a safetensors file: {size - at:,} bytes follow its last tensor; "
            "copy or download it again."
        )


def _truncated(path: Path, size: int, needed: int) -> str:
    return (
        f"{str(path)!r} is truncated: {size:,} bytes of at least {needed:,}; copy or download it "
        "again."
    )


def _state(path: Path) -> list[TensorInfo]:
    return [TensorInfo(k, v.dtype, tuple(v.shape)) for k, v in open_state(path).items()]
