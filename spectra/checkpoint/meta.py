"""What a loaded checkpoint is: the model with the facts that a record keeps about it.

`sha256` is over file contents alone: the weight files in the order of their names, then
`config.json`, then `spectra_quantization.json` where there is one. Names and directories do not
enter, so a copied or renamed checkpoint keeps its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.checkpoint.qat import Qat
from spectra.errors import CheckpointError

PIECE = 1 << 20  # bytes hashed at a time: the file is never held whole


@dataclass(frozen=True)
class CheckpointMeta:
    """Facts about a checkpoint; those of the record's `checkpoint` section and a few more.

    Attributes:
        path: As the caller gave it: a path, a hub id, or "tiny".
        revision: Branch, tag or commit that was asked of the hub; None for local files.
        sha256: Hash of the contents of the weight files, config.json and the quantization file.
        stored_dtype: Types of the stored floating-point tensors, the most frequent first, as in
            "bfloat16, float32"; quantization types for GGUF, as in "Q4_1, F32".
        step: Training step, where the directory, its trainer_state.json or the revision tells.
        w_bits: Bits of a quantized weight; None for a float checkpoint. So below.
        a_bits: Bits of the inputs of the quantized layers; 16 for full precision.
        method: Training method, as in Qat.
        architecture: Class of the model.
        format: "safetensors", "sharded safetensors", "pytorch_model.bin", "sharded
            pytorch_model.bin" or "gguf".
        parameters: Number of parameters, tied weights counted once, a quantizer's own left out.
        notes: What the reader of a result should know, one sentence each.
        kv_bits: Bits of keys and values; 16 for full precision.
        quantizer: Name of the weight quantizer.
        quantization: `Qat.metadata()`.
    """

    path: str
    revision: str | None
    sha256: str
    stored_dtype: str
    step: int | None
    w_bits: float | None
    a_bits: float | None
    method: str | None
    architecture: str
    format: str
    parameters: int
    notes: tuple[str, ...] = ()
    kv_bits: float | None = None
    quantizer: str | None = None
    quantization: dict[str, Any] | None = None

    def metadata(self) -> dict[str, Any]:
        """Return the `checkpoint` section of a record."""
        return {
            "path": self.path,
            "revision": self.revision,
            "sha256": self.sha256,
            "stored_dtype": self.stored_dtype,
            "step": self.step,
            "w_bits": self.w_bits,
            "a_bits": self.a_bits,
            "kv_bits": self.kv_bits,
            "quantizer": self.quantizer,
            "method": self.method,
            "quantization": self.quantization,
            "architecture": self.architecture,
            "format": self.format,
            "parameters": self.parameters,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Checkpoint:
    """A causal language model in evaluation mode, ready for a curvature operator.

    Attributes:
        model: The transformers model, in the type and on the device that were asked for.
        tokenizer: Its tokenizer, or None where the checkpoint has none.
        qat: Its quantization; the model then holds `spectra.quant.QuantLinear` layers, without
            noise. None for a float checkpoint.
        meta: Where it came from.
    """

    model: Any
    tokenizer: Any | None
    qat: Qat | None
    meta: CheckpointMeta


def content_hash(files: Iterable[Path]) -> str:
    """Return the SHA-256 of the contents of `files`, one after the other.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb", buffering=0) as handle:
                while piece := handle.read(PIECE):
                    digest.update(piece)
        except OSError as error:
            raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    return digest.hexdigest()
