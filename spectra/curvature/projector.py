"""The orthogonal projector J = Rᵀ M R that a straight-through estimator puts on either side of ∇²L.

M is a 0/1 mask of coordinates. R is block diagonal: an orthonormal map for each weight whose
quantizer has its grid in another basis, the identity for the others. J is symmetric, J² = J, its
rank is the number of ones in M, and J z of a Gaussian z is the Gaussian on its range: normalized,
uniform on the unit sphere there, which is what probes are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Rotation(NamedTuple):
    """One block of R.

    Attributes:
        place: Its coordinates in the flat vector.
        shape: Shape of the weight.
        to: R of a tensor (..., *shape).
        back: Rᵀ of it.
    """

    place: slice
    shape: torch.Size
    to: Callable[[torch.Tensor], torch.Tensor]
    back: Callable[[torch.Tensor], torch.Tensor]


class Projector:
    """J, applied to flat vectors (..., dim) of any dtype and device.

    Attributes:
        mask: M, (dim,) boolean.
        rotations: The blocks of R other than the identity.
    """

    def __init__(self, mask: torch.Tensor, rotations: tuple[Rotation, ...]) -> None:
        self.mask, self.rotations = mask, rotations

    def __call__(self, v: torch.Tensor) -> torch.Tensor:
        """Return J v, a new tensor."""
        if not self.rotations:
            return v * self.mask.to(v.device)
        return self.apply_(v.clone())

    def apply_(self, v: torch.Tensor) -> torch.Tensor:
        """Replace `v` by J v in place and return it."""
        for place, shape, to, _ in self.rotations:
            _turn_(v[..., place], shape, to)
        v.mul_(self.mask.to(v.device))
        for place, shape, _, back in self.rotations:
            _turn_(v[..., place], shape, back)
        return v


def _turn_(block: torch.Tensor, shape: torch.Size, turn: Callable[..., torch.Tensor]) -> None:
    block.copy_(turn(block.reshape(*block.shape[:-1], *shape)).reshape(block.shape))
