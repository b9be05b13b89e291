"""GGUF: weights in quantization blocks, configuration and tokenizer in one file.

transformers unpacks the blocks into ordinary float tensors, w = scale · code (+ minimum), so the
model that is analysed is the dequantized one: exactly what the file encodes, not the model it was
made from. The header is read here as well, since it tells the quantization types and whether the
file is complete, at no cost:

    "GGUF", version u32, tensors u64, entries u64, entries × (string key, u32 type, value),
    tensors × (string name, u32 rank, rank × u64 extent, u32 type, u64 offset), padding, data

with a string as its u64 length and UTF-8 bytes, all little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.checkpoint.bounds import check_numbers
from spectra.errors import CheckpointError

WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value
STRING, ARRAY, FLOATS = 8, 9, (6, 12)
SIGNED = (1, 3, 5, 11)
LARGEST_RANK, LARGEST_ALIGNMENT = 8, 1 << 20
ALIGNMENT = 32  # bytes, unless `general.alignment` says otherwise


@dataclass(frozen=True)
class GgufHeader:
    """What the header of a GGUF file tells.

    Attributes:
        architecture: `general.architecture`, as in "llama".
        types: Quantization types, that of the most weights first.
        tensors: Number of tensors.
        values: Number of values in them.
    """

    architecture: str
    types: tuple[str, ...]
    tensors: int
    values: int


def load_arguments(path: Path) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that read `path` into plain float tensors."""
    from transformers import GgufConfig

    # Left to itself, transformers keeps blocks packed where it has kernels for them.
    return {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)}


def forget_blocks(model: Any) -> None:
    """Remove the traces that make transformers take the unpacked `model` for a quantized one."""
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in vars(model):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def require_gguf() -> Any:
    """Return the package gguf.

    Raises:
        CheckpointError: If it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise CheckpointError(
            "A .gguf file needs the package gguf; pip install 'spectra-qat[gguf]'."
        ) from None
    return gguf


def read_gguf_header(path: Path) -> GgufHeader:
    """Return the header of the GGUF file `path`.

    Raises:
        CheckpointError: If gguf is not installed, or the file is none, truncated or damaged.
    """
    gguf = require_gguf()
    try:
        with path.open("rb") as handle:
            if handle.read(4) != b"GGUF":
                raise CheckpointError(f"{str(path)!r} is not a GGUF file; copy it again.")
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, data, gguf.GGMLQuantizationType, gguf.GGML_QUANT_SIZES)
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except struct.error:
        raise CheckpointError(
            f"{str(path)!r} is truncated inside its header; copy or download it again."
        ) from None
    except (ValueError, KeyError, TypeError, ArithmeticError):
        raise CheckpointError(
            f"{str(path)!r} is damaged, or of a GGUF version that is not known here; copy or "
            "convert it again."
        ) from None


def _parse(path: Path, data: mmap.mmap, kinds: Any, sizes: Any) -> GgufHeader:
    version, tensors, entries = struct.unpack_from("<IQQ", data, 4)
    if version not in (2, 3):
        raise ValueError(version)
    at = 24
    facts: dict[str, Any] = {}
    for _ in range(entries):
        key, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        facts[key], at = _value(data, at + 4, kind)
    elements: Counter[str] = Counter()
    places, names = [], set()
    for _ in range(tensors):
        name, at = _string(data, at)
        names.add(name)
        (rank,) = struct.unpack_from("<I", data, at)
        if rank > LARGEST_RANK:
            raise ValueError(rank)
        *shape, code, offset = struct.unpack_from(f"<{rank}QIQ", data, at + 4)
        at += 4 + 8 * rank + 12
        kind = kinds(code)
        block, width = sizes[kind]
        elements[kind.name] += math.prod(shape)
        places.append((offset, offset + math.prod(shape) // block * width))
    alignment = facts.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= LARGEST_ALIGNMENT:
        raise ValueError(alignment)
    _check_places(path, places, len(names))
    check_numbers(str(path), {k: v for k, v in facts.items() if isinstance(v, int)})
    end = max((end for _, end in places), default=0)
    needed = -(-at // alignment) * alignment + end
    if needed > len(data):
        raise CheckpointError(
            f"{str(path)!r} is truncated: {len(data):,} bytes of at least {needed:,}; copy or "
            "download it again."
        )
    types = tuple(name for name, _ in elements.most_common())
    return GgufHeader(str(facts["general.architecture"]), types, tensors, sum(elements.values()))


def _check_places(path: Path, places: list[tuple[int, int]], names: int) -> None:
    """Refuse tensors that lie on each other, by which a small file could fill any memory."""
    at = 0
    for begin, end in sorted(places):
        if begin < at or names < len(places):
            raise CheckpointError(
                f"{str(path)!r} is damaged: its tensors overlap, or have one name; copy it again."
            )
        at = end


def _string(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise struct.error
    return data[at + 8 : end].decode(), end


def _value(data: mmap.mmap, at: int, kind: int) -> tuple[Any, int]:
    if kind == STRING:
        return _string(data, at)
    if kind in FLOATS:
        return None, at + WIDTHS[kind]
    if kind != ARRAY:
        piece = data[at : at + WIDTHS[kind]]
        return int.from_bytes(piece, "little", signed=kind in SIGNED), at + WIDTHS[kind]
    inner, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if inner in WIDTHS:
        return None, at + count * WIDTHS[inner]
    for _ in range(count):
        if inner != STRING:
            raise ValueError(inner)
        (length,) = struct.unpack_from("<Q", data, at)
        at += 8 + length
    return None, at
