"""What the packed formats share: checks of stored tensors from headers alone, and bit fields.

    code_i = (word >> (bits · i)) & (2^bits − 1),    i = 0 … ⌊width/bits⌋ − 1,  lowest bits first

Bits of a word above its last field belong to no code and must be zero.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from spectra.checkpoint.locate import Location, shorten
from spectra.checkpoint.tensors import TensorInfo
from spectra.errors import CheckpointError

Stored = Mapping[str, TensorInfo]
Linear = Callable[[], Mapping[str, tuple[int, int]]]  # layer -> (out, in) of the model


def by_name(tensors: Collection[TensorInfo]) -> dict[str, TensorInfo]:
    """Return the tensors by their names."""
    return {tensor.name: tensor for tensor in tensors}


def check_tensor(
    location: Location,
    stored: Stored,
    name: str,
    dtypes: Sequence[torch.dtype],
    shape: tuple[int, ...],
) -> None:
    """Refuse a tensor that is missing, of another type, or of another shape.

    Raises:
        CheckpointError: With the name of the tensor and what was wanted.
    """
    if name not in stored:
        raise CheckpointError(f"ckpt={location.name!r} lacks the tensor {name}; copy it again.")
    found = stored[name]
    if found.dtype not in dtypes:
        wanted = " or ".join(_plain(dtype) for dtype in dtypes)
        raise CheckpointError(
            f"ckpt={location.name!r}: the tensor {name} is stored as {_plain(found.dtype)}, and "
            f"its format has {wanted} there; save the checkpoint again."
        )
    if found.shape != shape:
        raise CheckpointError(
            f"ckpt={location.name!r}: the tensor {name} is stored with shape {found.shape}, but "
            f"its format and config.json make it {shape}; use the config.json saved with it."
        )


def check_layers(
    location: Location, found: Collection[str], linear: Collection[str], what: str
) -> None:
    """Refuse packed layers that are not those of the model.

    Raises:
        CheckpointError: If one is missing, or belongs to no layer.
    """
    lacking = sorted(set(linear) - set(found))
    if lacking:
        raise CheckpointError(
            f"ckpt={location.name!r} lacks {what} of {len(lacking)} of its {len(linear)} linear "
            f"layers: {shorten(lacking)}; copy it again."
        )
    strange = sorted(set(found) - set(linear))
    if strange:
        raise CheckpointError(
            f"ckpt={location.name!r} stores {what} of no linear layer: {shorten(strange)}; use "
            "the config.json saved with it."
        )


def unpack_fields(
    location: Location, name: str, words: torch.Tensor, bits: int, count: int
) -> torch.Tensor:
    """Return codes (count, columns), int64, of words (rows, columns), fields along the rows.

    Raises:
        CheckpointError: If bits are set that belong to no code.
    """
    width = words.dtype.itemsize * 8
    fields = width // bits
    wide = words.to(torch.int64) & ((1 << width) - 1)
    if bool((wide >> (bits * fields)).any()):
        raise CheckpointError(
            f"ckpt={location.name!r}: the tensor {name} has bits set above its {fields} codes of "
            f"{bits} bits; it is damaged, or packed otherwise: pass the checkpoint it was made "
            "from."
        )
    shifts = torch.arange(fields) * bits
    codes = (wide[:, None, :] >> shifts[None, :, None]) & ((1 << bits) - 1)
    return codes.reshape(-1, words.shape[1])[:count]


def _plain(dtype: torch.dtype | None) -> str:
    return "a type of its own" if dtype is None else str(dtype).removeprefix("torch.")
