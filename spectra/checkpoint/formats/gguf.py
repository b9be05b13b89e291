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

from spectra.errors import CheckpointError

WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value
STRING, ARRAY = 8, 9
ALIGNMENT = 32  # bytes, unless `general.alignment` says otherwise


@dataclass(frozen=True)
class GgufHeader:
    """What the header of a GGUF file tells.

    Attributes:
        architecture: `general.architecture`, as in "llama".
        types: Quantization types, that of the most weights first.
        tensors: Number of tensors.
    """

    architecture: str
    types: tuple[str, ...]
    tensors: int


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
    except (ValueError, KeyError, ArithmeticError):
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
    end = 0
    for _ in range(tensors):
        _, at = _string(data, at)
        (rank,) = struct.unpack_from("<I", data, at)
        *shape, code, offset = struct.unpack_from(f"<{rank}QIQ", data, at + 4)
        at += 4 + 8 * rank + 12
        kind = kinds(code)
        block, width = sizes[kind]
        elements[kind.name] += math.prod(shape)
        end = max(end, offset + math.prod(shape) // block * width)
    alignment = int(facts.get("general.alignment", ALIGNMENT))
    needed = -(-at // alignment) * alignment + end
    if needed > len(data):
        raise CheckpointError(
            f"{str(path)!r} is truncated: {len(data):,} bytes of at least {needed:,}; copy or "
            "download it again."
        )
    types = tuple(name for name, _ in elements.most_common())
    return GgufHeader(str(facts["general.architecture"]), types, tensors)


def _string(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise struct.error
    return data[at + 8 : end].decode(), end


def _value(data: mmap.mmap, at: int, kind: int) -> tuple[Any, int]:
    if kind == STRING:
        return _string(data, at)
    if kind != ARRAY:
        # Only strings and the alignment are wanted; other numbers may pass as unsigned.
        piece = data[at : at + WIDTHS[kind]]
        return int.from_bytes(piece, "little"), at + WIDTHS[kind]
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
