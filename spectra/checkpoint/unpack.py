"""The tensors of a checkpoint whose layers are packed, or named otherwise -> those of the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spectra.checkpoint.locate import CONSOLIDATED, Location
from spectra.checkpoint.plan import Plan
from spectra.checkpoint.tensors import TensorInfo, read_tensors
from spectra.errors import CheckpointError


@dataclass(frozen=True)
class Unpacked:
    """What transformers is given in the place of the files.

    Attributes:
        state: Name -> tensor of the plain model.
        scales: Layer -> learned scales, for packed layers that have them.
        zeros: Layer -> zero points, None where there are none.
    """

    state: dict[str, torch.Tensor]
    scales: dict[str, torch.Tensor]
    zeros: dict[str, torch.Tensor] | None


def unpack(location: Location, tensors: list[TensorInfo], plan: Plan | None) -> Unpacked | None:
    """Return the tensors of the plain model, None where transformers reads the files itself.

    Raises:
        CheckpointError: If a file cannot be read, a code is out of range, or a weight not finite.
    """
    packed = plan.packed if plan else None
    if packed is None and location.format != CONSOLIDATED:
        return None
    expected = plan.expected if plan else frozenset()
    state = read_tensors(location, [t.name for t in tensors if t.name not in expected])
    scales: dict[str, torch.Tensor] = {}
    zeros: dict[str, torch.Tensor] = {}
    for name, stored in (packed.names if packed else {}).items():
        assert packed is not None
        layer = packed.unpack(name, read_tensors(location, stored))
        if layer.scale is not None:
            _check_finite(location, name, layer.scale)
            scales[name] = layer.scale.contiguous()
        if layer.zero is not None:
            zeros[name] = layer.zero.contiguous()
        # In the layout of an ordinary model: products of transposed matrices round otherwise.
        state[f"{name}.weight"] = layer.weight.contiguous()
    return Unpacked(state, scales, zeros or None)


def _check_finite(location: Location, name: str, scale: torch.Tensor) -> None:
    bad = int((~torch.isfinite(scale)).sum())
    if bad:
        raise CheckpointError(
            f"ckpt={location.name!r}: the scales of {name} hold {bad} values among "
            f"{scale.numel()} that are NaN or Inf; use a checkpoint from before it diverged."
        )
