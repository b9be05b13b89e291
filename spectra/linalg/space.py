"""The vector space Lanczos works in: the few operations it needs of long vectors.

`VectorSpace` is the whole interface, so vectors that are sharded over processes need only another
implementation (`spectra.linalg.sliced`: inner products summed over ranks). `DenseSpace` is flat
torch vectors on one device. Inner products accumulate in float64 whatever the vectors' dtype;
results stay on the device until Lanczos asks for them, once a step.

What is summed over processes is asked for in one call a pass, for all runs of a block at once
(`dots`, `total`): a collective inside a loop over runs, rows or tiles would cost its latency each
time.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

CHUNK = 1 << 18  # elements upcast at a time on the CPU: 2 MB of float64, inside the cache
CUDA_CHUNK = 1 << 25


class VectorSpace(Protocol):
    """What Lanczos asks of a space of vectors."""

    def length(self, dim: int) -> int:
        """Return how many entries of a vector of dimension `dim` this process holds."""

    def take(self, whole: torch.Tensor) -> torch.Tensor:
        """Return the part of whole vectors (..., n) that this process holds."""

    def whole(self, part: torch.Tensor) -> torch.Tensor:
        """Return the vectors (P, n) of which this process holds the part (P, length)."""

    def total(self, partial: torch.Tensor) -> torch.Tensor:
        """Return `partial`, a small tensor of the same shape everywhere, summed over processes."""

    def agreed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the first process's `values`, of whatever shape, on every process."""

    def dots(self, X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
        """Return the inner products (P,) of the rows of `X` with those of `Y`, in float64."""

    def dot(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return ⟨x, y⟩ as a 0-dimensional float64 tensor."""

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """Return ‖x‖ as a 0-dimensional float64 tensor."""

    def axpy(self, a: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add a·x to y in place; `a` is a 0-dimensional float64 tensor."""

    def gram(self, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return this process's part of the inner products (k,) of `rows` with `x`.

        They are whole after `total`, which the caller asks for once a pass.
        """

    def subtract(self, rows: torch.Tensor, coefficients: torch.Tensor, x: torch.Tensor) -> None:
        """Subtract Σ_i coefficients_i · rows_i from x in place."""


class DenseSpace:
    """Flat vectors on one device."""

    def length(self, dim: int) -> int:
        """Return `dim`: every vector is held whole."""
        return dim

    def take(self, whole: torch.Tensor) -> torch.Tensor:
        """Return `whole` itself."""
        return whole

    def whole(self, part: torch.Tensor) -> torch.Tensor:
        """Return `part` itself."""
        return part

    def total(self, partial: torch.Tensor) -> torch.Tensor:
        """Return `partial` itself: there is one process."""
        return partial

    def agreed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `values` themselves."""
        return values

    def dots(self, X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
        """Return ⟨x, y⟩ of each pair of rows."""
        if X is Y:
            return torch.stack([self.dot(x, x) for x in X])
        return torch.stack([self.dot(x, y) for x, y in zip(X, Y, strict=True)])

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
