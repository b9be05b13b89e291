"""Vectors in slices over processes: each holds one contiguous part of every Lanczos vector.

The basis is what does not fit one device: m·n·4 bytes. Over R processes each holds m·n·4/R of it.
Process r keeps the entries [r c, (r + 1) c) with c = ⌈n/R⌉; the last slices are shorter, or empty.

What a step moves, beside the product's own work: the slices of q are gathered to the whole vector
for the product (`whole`), the processes' parts of the product are added and handed out in slices
(`scatter`), 4n bytes each way; and three sums of scalars, for α, the Gram–Schmidt coefficients and
β, one collective each whatever the number of vectors or of runs in the block.

*α and β are the same bits on every process*, so that all of them take the same branch (breakdown, a
second pass, a converged Ritz vector): a sum over processes is a gather of the parts, added in the
order of the ranks by everyone, never an all-reduce, whose order of additions is the backend's. The
parts are float64 sums of a slice each, so the result differs from one process's by the rounding of
float64 (coefficients of a pass: by that of the working type, as a matrix product's would).

*Products.* An operator with `partial_product` contributes its part, A = Σ_r A_r, from this
process's share of the data; one without is known whole on each process, which repeats the product
and keeps its slice: that shares the memory of the basis and no work.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from spectra.linalg.operator import SymmetricOperator
from spectra.linalg.space import DenseSpace
from spectra.parallel import Group

# torch renames these two; the older names warn where the newer exist.
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

_HERE = DenseSpace()  # of the entries held here
PIECE = 1 << 16  # entries of a small tensor gathered at once: the gather holds R times as many


class SlicedSpace(DenseSpace):
    """Vectors of dimension `dim`, this process holding the entries `start` to `stop`.

    Attributes:
        group: The processes.
        dim: Dimension n of the whole vectors.
        start: First entry held here.
        stop: Entry behind the last.
    """

    def __init__(self, group: Group, dim: int) -> None:
        self.group, self.dim = group, dim
        self._width = math.ceil(dim / group.size)
        self.start = min(dim, group.rank * self._width)
        self.stop = min(dim, self.start + self._width)

    def length(self, dim: int) -> int:
        """Return the number of entries held here."""
        assert dim == self.dim
        return self.stop - self.start

    def take(self, whole: torch.Tensor) -> torch.Tensor:
        """Return the slice of whole vectors, (..., n)."""
        return whole[..., self.start : self.stop]

    def whole(self, part: torch.Tensor) -> torch.Tensor:
        """Return the vectors, (P, n), of which each process holds a slice (P, length)."""
        if self.group.size == 1:
            return part
        by_vector = self.gathered(self._padded(part, self._width)).transpose(0, 1)
        return by_vector.reshape(len(part), -1)[:, : self.dim]

    def scatter(self, parts: torch.Tensor) -> torch.Tensor:
        """Return the slices, (P, length), of Σ_r parts, whole vectors (P, n) that are used up."""
        if self.group.size == 1:
            return parts
        padded = self._padded(parts, self._width * self.group.size)
        return self.scattered(padded, self._width)[:, : self.stop - self.start].contiguous()

    def gathered(self, mine: torch.Tensor) -> torch.Tensor:
        """Return the rows (P, w) of every process, (R, P, w)."""
        every = mine.new_empty(self.group.size, *mine.shape)
        if self.group.size == 1:
            every[0] = mine
        else:
            self._exchange(_all_gather, every.view(-1, mine.shape[1]), mine.contiguous())
        return every

    def scattered(self, rows: torch.Tensor, width: int) -> torch.Tensor:
        """Return columns [r w, (r + 1) w) of the sum of all processes' `rows`, (P, R w), used up.

        Gloo has no reduce-scatter of its own: it reduces the whole and takes a slice, at twice the
        time of doing that here.
        """
        first = self.group.rank * width
        if rows.device.type == "cpu" or self.group.size == 1:
            return self.group.sum_(rows)[:, first : first + width].clone()
        by_rank = rows.view(len(rows), self.group.size, width).transpose(0, 1)
        mine = rows.new_empty(len(rows), width)
        self._exchange(_reduce_scatter, mine, by_rank.reshape(-1, width))
        return mine

    def _padded(self, rows: torch.Tensor, width: int) -> torch.Tensor:
        missing = width - rows.shape[1]
        return torch.nn.functional.pad(rows, (0, missing)) if missing else rows.contiguous()

    def _exchange(self, collective: Any, output: torch.Tensor, given: torch.Tensor) -> None:
        group = self.group.process_group
        self.group.finish(collective(output, given, group=group, async_op=True))

    def total(self, partial: torch.Tensor) -> torch.Tensor:
        """Return Σ_r partial, added in float64 in the order of the ranks, the same everywhere."""
        pieces = [self._sum(piece.double()) for piece in partial.reshape(-1).split(PIECE)]
        return torch.cat(pieces).view(partial.shape).to(partial.dtype)

    def _sum(self, flat: torch.Tensor) -> torch.Tensor:
        result = torch.zeros_like(flat)
        for part in self.group.gather_tensors(flat):
            result += part
        return result

    def agreed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the first process's `values`: LAPACK's bits are those of its processor."""
        found: NDArray[np.float64] = self.group.broadcast(values)
        return found

    def dots(self, X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
        """Return the inner products of the rows, (P,) float64, in one collective."""
        return self.total(_HERE.dots(X, Y))

    def dot(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return ⟨x, y⟩, 0-dimensional float64."""
        return self.total(_HERE.dot(x, y))


class SlicedOperator(SymmetricOperator):
    """`operator`, a map of whole vectors, as one of slices.

    Attributes:
        operator: With `partial_product(V)`, (P, n) to (P, n), its part of the products; or any
            operator, known whole on every process.
    """

    def __init__(self, operator: Any, group: Group) -> None:
        self.operator = operator
        self.dim, self.dtype, self.device = operator.dim, operator.dtype, operator.device
        self.slices = SlicedSpace(group, operator.dim)
        self.space = self.slices

    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        """Return the slice of A v from that of v, (length,)."""
        return self.matvecs(v.unsqueeze(0))[0]

    def matvecs(self, V: torch.Tensor) -> torch.Tensor:
        """Return the slices of the products from those of the vectors, (P, length)."""
        whole = self.slices.whole(V)
        partial = getattr(self.operator, "partial_product", None)
        if partial is not None:
            parts = partial(whole)
            wide = parts if parts.dtype.itemsize >= 4 else parts.float()
            return self.slices.scatter(wide)
        one = len(whole) == 1
        found = self.operator.matvec(whole[0])[None] if one else self.operator.matvecs(whole)
        return self.slices.take(found).contiguous()
