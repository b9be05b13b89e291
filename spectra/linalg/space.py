"""The vector space Lanczos works in: the few operations it needs of long vectors.

`VectorSpace` is the whole interface, so vectors that are sharded over processes need only another
implementation (inner products summed over ranks). `DenseSpace` is flat torch vectors on one device.
Inner products accumulate in float64 whatever the vectors' dtype; results stay on the device until
Lanczos asks for them, once a step.
"""

from __future__ import annotations

from typing import Protocol

import torch

CHUNK = 1 << 18  # elements upcast at a time on the CPU: 2 MB of float64, inside the cache
CUDA_CHUNK = 1 << 25


class VectorSpace(Protocol):
    """What Lanczos asks of a space of vectors."""

    def dot(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return ⟨x, y⟩ as a 0-dimensional float64 tensor."""

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """Return ‖x‖ as a 0-dimensional float64 tensor."""

    def axpy(self, a: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add a·x to y in place; `a` is a 0-dimensional float64 tensor."""

    def gram(self, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the inner products (k,) of the k rows of `rows` with `x`."""

    def subtract(self, rows: torch.Tensor, coefficients: torch.Tensor, x: torch.Tensor) -> None:
        """Subtract Σ_i coefficients_i · rows_i from x in place."""


class DenseSpace:
    """Flat vectors on one device."""

    def dot(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return ⟨x, y⟩ accumulated in float64."""
        if x.dtype == torch.float64:
            return torch.dot(x, y)
        size = CHUNK if x.device.type == "cpu" else CUDA_CHUNK
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for a, b in zip(x.split(size), y.split(size), strict=True):
            wide = a.double()
            total += torch.dot(wide, wide if x is y else b.double())
        return total

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """Return ‖x‖ accumulated in float64."""
        return self.dot(x, x).sqrt()

    def axpy(self, a: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add a·x to y in place."""
        y.addcmul_(x, a.to(y.dtype).expand_as(x))

    def gram(self, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return rows @ x."""
        return torch.mv(rows, x)

    def subtract(self, rows: torch.Tensor, coefficients: torch.Tensor, x: torch.Tensor) -> None:
        """Subtract rowsᵀ @ coefficients from x in place."""
        x.addmv_(rows.T, coefficients, alpha=-1)
