"""A Lanczos run on its way, on disk: one file in the safetensors format, with a hash of itself.

    8 bytes       length of the header, little endian
    header        JSON: {"__metadata__": {...}, name: {dtype, shape, data_offsets}}
    data          alphas, betas, steps, ended, current, previous, basis.0, …, then what was added,
                  and last `sha256`: of everything before it

The basis is gigabytes, so nothing is copied: tensors go to the file in pieces, and rows of the
basis from the file to where they belong. The file is there whole or not at all
(spectra.record.atomic), any safetensors reader reads it, and it holds no code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from spectra.errors import RecordError
from spectra.linalg.lanczos import Lanczos
from spectra.record.atomic import replacing

PIECE = 1 << 24  # bytes written, read or moved from a device at a time
LARGEST_HEADER = 1 << 24
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
_PLAIN = ("alphas", "betas", "steps", "ended", "current", "previous")


def state_bytes(lanczos: Lanczos) -> int:
    """Return about how large the file of a run would be now."""
    state = lanczos.state_dict(copy=False)
    tensors = [state["current"], state["previous"], *state["bases"]]
    return sum(t.numel() * t.element_size() for t in tensors)


def write_state(
    path: Path, lanczos: Lanczos, about: Mapping[str, Any], added: Mapping[str, torch.Tensor]
) -> None:
    """Write the state of a run to `path`, in place of what is there.

    Args:
        path: The file.
        lanczos: The run.
        about: What else is to be known when it goes on, JSON values.
        added: Further tensors.

    Raises:
        OSError: If it cannot be written; what was there is then as it was.
    """
    state = lanczos.state_dict(copy=False)
    tensors = {name: state[name] for name in _PLAIN}
    tensors |= {f"basis.{p}": rows for p, rows in enumerate(state["bases"])} | dict(added)
    told = {"about": json.dumps(dict(about)), "condensed": json.dumps(state["condensed_error"])}
    header = _header(tensors, told)
    digest = hashlib.sha256(header)
    with replacing(path) as handle:
        handle.write(header)
        for tensor in tensors.values():
            for piece in _pieces(tensor):
                digest.update(piece)
                handle.write(piece)
        handle.write(digest.digest())


class SavedState:
    """A file that `write_state` wrote.

    Attributes:
        about: What was to be known.

    Raises:
        RecordError: If it is damaged, or no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._check()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordError(
                f"the Lanczos state {str(path)!r} is damaged ({type(error).__name__}: {error}); "
                "delete it: its probe begins anew."
            ) from None

    def _check(self) -> None:
        digest, size = hashlib.sha256(), self.path.stat().st_size
        with self.path.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 0 < length <= min(LARGEST_HEADER, size):
                raise ValueError("no header")
            header = json.loads(handle.read(length))
            self._begin = 8 + length
            handle.seek(0)
            left = size - 32
            while left > 0 and (piece := handle.read(min(PIECE, left))):
                digest.update(piece)
                left -= len(piece)
            if handle.read(33) != digest.digest():
                raise ValueError("its content is not that of its hash")
        told = header.pop("__metadata__")
        self._entries: dict[str, dict[str, Any]] = header
        self.about: dict[str, Any] = json.loads(told["about"])
        self._condensed: float | None = json.loads(told["condensed"])

    def load_into(self, lanczos: Lanczos) -> None:
        """Continue `lanczos` from here.

        Raises:
            UsageError: If it has other vectors, or another basis policy.
        """
        state: dict[str, Any] = {name: self.tensor(name) for name in _PLAIN}
        count = len(state["current"])
        state["bases"] = [self._rows(f"basis.{p}") for p in range(count)]
        state["condensed_error"] = self._condensed
        lanczos.load_state_dict(state)

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor of the file, on the CPU."""
        rows = self._rows(name)
        found = torch.empty(rows.shape, dtype=rows.dtype)
        rows.read_into(found)
        return found

    def _rows(self, name: str) -> _Rows:
        entry = self._entries[name]
        start, end = entry["data_offsets"]
        return _Rows(
            self.path,
            self._begin + start,
            end - start,
            tuple(entry["shape"]),
            _TYPES[entry["dtype"]],
        )


class _Rows:
    """A tensor in a file; see `spectra.linalg.basis.StoredRows`."""

    def __init__(
        self, path: Path, start: int, size: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        self.path, self.start, self.size = path, start, size
        self.shape, self.dtype = shape, dtype

    def read_into(self, target: torch.Tensor) -> None:
        """Fill `target`, of the same shape and type, on any device."""
        flat = target.view(-1)
        with self.path.open("rb") as handle:
            handle.seek(self.start)
            for part in flat.split(PIECE // self.dtype.itemsize):
                _fill(handle, part)


def _fill(handle: BinaryIO, part: torch.Tensor) -> None:
    place = part if part.device.type == "cpu" else torch.empty(part.shape, dtype=part.dtype)
    handle.readinto(place.view(torch.uint8).numpy().data)  # type: ignore[attr-defined]
    if place is not part:
        part.copy_(place)


def _pieces(tensor: torch.Tensor) -> Iterator[memoryview]:
    flat = tensor.detach().contiguous().view(-1)
    for part in flat.split(PIECE // tensor.element_size()):
        if part.numel():
            yield part.cpu().view(torch.uint8).numpy().data


def _header(tensors: Mapping[str, torch.Tensor], told: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(told)}
    place = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + size],
        }
        place += size
    entries["sha256"] = {"dtype": "U8", "shape": [32], "data_offsets": [place, place + 32]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
