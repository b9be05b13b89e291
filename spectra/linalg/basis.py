"""Where the Lanczos basis lives, in which type, and what it costs.

Full reorthogonalization needs every Lanczos vector: steps × n × itemsize bytes. The policy says
where they are kept: on the operator's device, on the host, or not at all. Without a basis converged
Ritz values come back as ghosts; the bounds of the distribution function stay valid and become
wider, counts of outliers do not survive. Half-precision storage costs little accuracy, because the
basis only cleans rounding out of the next vector: a stored q + e, ‖e‖ ≤ u, meets the next vector w
in ⟨e, w⟩ ≈ u‖w‖/√n, so that m of them act like an error u √(m/n) ‖H‖ of the products, which
vanishes for large n (`BasisPolicy.rounding`). It needs √n q instead of q: the entries of a unit
vector of 10⁹ dimensions are below float16's normal range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from spectra.errors import UsageError
from spectra.linalg.space import DenseSpace, VectorSpace
from spectra.linalg.transfers import Piece, pieces

Where = Literal["device", "host", "none"]
TILE = 1 << 20  # columns converted to the working dtype at a time, in elements of one tile
STORAGE = {"float64", "float32", "float16", "bfloat16"}


@dataclass(frozen=True)
class BasisPolicy:
    """`where` the basis is kept and the `dtype` it is stored in (None: the vectors' own)."""

    where: Where = "device"
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.where not in ("device", "host", "none"):
            raise UsageError(f"basis={self.where!r} is not known; pass 'device', 'host' or 'none'.")

    def nbytes(self, dim: int, steps: int, vector_dtype: torch.dtype) -> int:
        """Return the bytes that `steps` vectors of length `dim` take."""
        if self.where == "none":
            return 0
        return dim * steps * (self.dtype or vector_dtype).itemsize

    def rounding(self, dim: int, steps: int, vector_dtype: torch.dtype) -> float:
        """Return u √(m/n): what storage in a lower precision does to products, relative to ‖H‖."""
        stored = self.dtype or vector_dtype
        if self.where == "none" or stored.itemsize >= vector_dtype.itemsize:
            return 0.0
        return float(torch.finfo(stored).eps) / 2 * math.sqrt(min(steps, dim) / dim)

    def describe(self) -> str:
        """Return e.g. "device, float32" for records and plans."""
        name = "working dtype" if self.dtype is None else str(self.dtype).removeprefix("torch.")
        return "none" if self.where == "none" else f"{self.where}, {name}"


class StoredRows(Protocol):
    """Vectors in a file, (k, n), that are read to where they belong without a copy in between."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def read_into(self, target: torch.Tensor) -> None:
        """Fill `target`, (k, n)."""


Rows = torch.Tensor | StoredRows


class Basis:
    """The stored Lanczos vectors of one run, rows of a contiguous (capacity, n) matrix.

    Of vectors that are sharded over processes it holds this process's entries; n below is their
    number, and what is summed over them is a part of the sum.
    """

    def __init__(
        self,
        dim: int,
        policy: BasisPolicy,
        dtype: torch.dtype,
        device: torch.device,
        space: VectorSpace | None = None,
    ) -> None:
        self.space: VectorSpace = space or DenseSpace()
        self.policy, self.dim, self.size, self.condensed = policy, self.space.length(dim), 0, False
        self.work_dtype, self.work_device = dtype, device
        stored = policy.dtype or dtype
        self._scale = dim**0.5 if stored.itemsize < 4 else 1.0
        place = torch.device("cpu") if policy.where == "host" else device
        self._pinned = policy.where == "host" and device.type == "cuda"
        self._rows = torch.empty(0, self.dim, dtype=stored, device=place)

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` vectors in all."""
        if self.policy.where == "none" or self.condensed or capacity <= self._rows.shape[0]:
            return
        rows = torch.empty(
            capacity,
            self.dim,
            dtype=self._rows.dtype,
            device=self._rows.device,
            pin_memory=self._pinned,
        )
        rows[: self.size] = self._rows[: self.size]
        self._rows = rows

    def append(self, vector: torch.Tensor) -> None:
        """Store one more unit vector."""
        if self.policy.where == "none" or self.condensed:
            return
        if self.size == self._rows.shape[0]:
            self.reserve(max(8, self.size * 2))
        row = self._rows[self.size]
        row.copy_(vector if self._scale == 1.0 else vector * self._scale)
        self.size += 1

    @property
    def is_plain(self) -> bool:
        """Whether the rows can be used as they are, without conversion or transfer."""
        return self._rows.dtype == self.work_dtype and self._rows.device == self.work_device

    def coefficients(self, x: torch.Tensor) -> torch.Tensor:
        """Return this process's part of the inner products (size,) of the rows with `x`, (n,).

        Rows that are not plain are converted (and moved) in pieces, as they are needed.
        """
        rows = self._rows[: self.size]
        if self.is_plain and self.size:
            return self.space.gram(rows, x)
        found = torch.zeros(self.size, dtype=self.work_dtype, device=self.work_device)
        for across, along, piece in self._pieces(rows):
            found[across] += self.space.gram(piece, x[along])
        return found

    def remove(self, coefficients: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Subtract the components of `x`, (n,), along the rows, in place.

        Args:
            coefficients: The rows' inner products with `x`, (size,), summed over processes.
            x: The vector.

        Returns:
            The norm of what was removed, 0-dimensional float64 on the device of `x`.
        """
        rows = self._rows[: self.size]
        if self.is_plain and self.size:
            self.space.subtract(rows, coefficients, x)
        else:
            coefficients = coefficients / self._scale**2
            for across, along, piece in self._pieces(rows):
                self.space.subtract(piece, coefficients[across], x[along])
        norm: torch.Tensor = torch.linalg.vector_norm(coefficients, dtype=torch.float64)
        return norm * self._scale

    def _pieces(self, rows: torch.Tensor) -> Iterator[Piece]:
        """Yield `rows` in the working type, in pieces.

        Column tiles, which stay in the cache, on the device itself; rows from the host to a GPU.
        """
        if self._pinned:
            yield from pieces(rows, self.work_device, self.work_dtype)
            return
        width = max(1, TILE // max(1, self.size))
        for start in range(0, self.dim if self.size else 0, width):
            along = slice(start, min(start + width, self.dim))
            yield slice(0, self.size), along, self._convert(rows[:, along])

    def _convert(self, tile: torch.Tensor) -> torch.Tensor:
        return tile.to(self.work_device, self.work_dtype, non_blocking=self._pinned)

    def combine(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Return Σ_j coefficients[j, :] ⊗ q_j for coefficients (k, r), k ≤ size, as (r, n)."""
        size = coefficients.shape[0]
        rows = self._rows[:size]
        result = torch.empty(
            coefficients.shape[1], self.dim, dtype=self.work_dtype, device=self.work_device
        )
        width = self.dim if self.is_plain else max(1, TILE // size)
        weights = (coefficients / self._scale).to(self.work_device, self.work_dtype)
        start = 0
        for tile in rows.split(width, dim=1):
            result[:, start : start + tile.shape[1]] = weights.T @ self._convert(tile)
            start += tile.shape[1]
        return result

    def condense(self, coefficients: torch.Tensor) -> None:
        """Replace the k stored vectors by Σ_j coefficients[j, :] ⊗ q_j, (k, r), r ≤ k, in place.

        Nothing is added from here on (`append` does nothing): the rows stay these.
        """
        size, count = coefficients.shape
        weights = coefficients.T.to(self.work_device, self.work_dtype)
        for tile in self._rows[:size].split(max(1, TILE // size), dim=1):
            tile[:count] = (weights @ self._convert(tile)).to(tile)
        self.size, self.condensed = count, True

    def orthogonality_loss(self, count: int | None = None) -> float:
        """Return max |QᵀQ − I| over the first `count` stored vectors (default: all)."""
        size = self.size if count is None else min(count, self.size)
        if size == 0:
            return float("nan")
        rows = self._rows[:size]
        gram = torch.zeros(size, size, dtype=torch.float64)
        for tile in rows.split(max(1, TILE // size), dim=1):
            wide = tile.double()
            gram += (wide @ wide.T).cpu()
        gram = self.space.total(gram.to(self.work_device)).cpu() / self._scale**2
        return float((gram - torch.eye(size, dtype=torch.float64)).abs().max())

    def rows(self) -> torch.Tensor:
        """Return the stored vectors as they are stored, (size, n)."""
        return self._rows[: self.size]

    def load(self, rows: Rows) -> None:
        """Take over vectors returned by `rows`, or those that a file holds."""
        self.condensed = False
        count = int(rows.shape[0])
        self.reserve(count)
        if self.policy.where == "none":
            return
        if isinstance(rows, torch.Tensor):
            self._rows[:count] = rows
        else:
            rows.read_into(self._rows[:count])
        self.size = count
