"""One operator over several processes, the model replicated: each differentiates its share of data.

A = Σ_b (N_b/N) A_b over batches is a sum, and so is each A_b over the sequences of its batch. The
sequences of all batches, in order, are cut into one run of equal length for each process; what a
process has of one batch is a batch of its own, weighted by its tokens as every batch is. So whole
batches are shared where they divide evenly, sequences where they do not. A sequence cannot be cut:
attention sees all of it. Nor can batches of a loss whose form is not known here; they go whole.

Process r makes A_r v = Σ over its share; the sum over processes is left to whoever needs it:
`partial_product` is what slices are made of (`spectra.linalg.sliced`), `matvec` adds up whole
vectors, which is what the checks want. A process without data adds zero: with a single sequence one
process works and the others hold their part of the Lanczos vectors, for the memory alone.

Plain autograd and explicit sums; `DistributedDataParallel` has no second derivatives. Clip masks
and projectors act on whole vectors, before and after each process's product; being linear they
commute with the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from spectra.curvature.batches import IGNORED, move, unpack
from spectra.curvature.loss import LanguageModelLoss, Loss
from spectra.curvature.operator import BatchGraph, CurvatureOperator, GraphPolicy
from spectra.curvature.point import Point
from spectra.parallel import Group


class Spread(CurvatureOperator):
    """The operator of some batches, each process differentiating its share of their sequences.

    Attributes:
        batches: This process's share; empty where there is less data than processes.
        own: The operator of that share, None where it is empty.
        group: The processes.
    """

    def __init__(
        self,
        made: type[CurvatureOperator],
        point: Point,
        loss_function: Loss,
        batches: Sequence[Any],
        *,
        group: Group,
        **how: Any,
    ) -> None:
        super().__init__(point, loss_function, batches, **how)
        self.made, self.group, self.all_batches = made, group, self.batches
        self.kind = made.kind
        units = [_sequences(batch, point, loss_function) for batch in self.batches]
        self.batches = tuple(_share(self.batches, units, group, point))
        self.own: CurvatureOperator | None = None
        if self.batches:
            self.own = made(point, loss_function, self.batches, **how)
            self.own.shrunk = self._tell
        if sum(units) < group.size:
            self.notes.append(
                f"{sum(units)} of {group.size} processes have a sequence to differentiate; the "
                "others hold their part of the Lanczos vectors only"
            )
        self._agreed = False

    def _tell(self, graph: GraphPolicy, micro_batch: int | None) -> None:
        if self.shrunk is not None:
            self.shrunk(graph, micro_batch)

    def _build(self, batch: Any, *, second_order: bool) -> BatchGraph:
        assert self.own is not None
        return self.own._build(batch, second_order=second_order)

    def _build_blocks(
        self, batch: Any, leaves: tuple[torch.Tensor, ...] | None = None
    ) -> BatchGraph:
        assert self.own is not None
        return self.own._build_blocks(batch, leaves)

    @property
    def prepared(self) -> bool:
        """Whether losses, gradient and (under "keep") graphs are there."""
        return self._agreed and (self.own is None or self.own.prepared)

    def prepare(self) -> None:
        """Evaluate this process's share once, and agree on loss and terms."""
        if self.own is not None:
            self.own.prepare()
            self.notes += [note for note in self.own.notes if note not in self.notes]
            self.graph, self.graph_bytes = self.own.graph, self.own.graph_bytes
            self.micro_batch = self.own.micro_batch
        if self._agreed:
            return
        counts = [] if self.own is None else self.own._counts
        losses = [] if self.own is None else self.own._losses
        share = (math.fsum(counts), math.fsum(a * b for a, b in zip(counts, losses, strict=True)))
        everyone = self.group.gather(share)
        self._mine, self._terms = share[0], math.fsum(count for count, _ in everyone)
        self._mean_loss = math.fsum(loss for _, loss in everyone) / self._terms
        self._agreed = True

    def release(self) -> None:
        """Free the kept graphs; the next product builds them again."""
        if self.own is not None:
            self.own.release()

    def partial_product(self, V: torch.Tensor) -> torch.Tensor:
        """Return this process's part of the products with the rows of `V`, (P, dim)."""
        self.prepare()
        if self.own is None:
            return torch.zeros_like(V)
        one = len(V) == 1
        found = self.own.matvec(V[0])[None] if one else self.own.matvecs(V)
        return found.mul_(self._mine / self._terms)

    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        """Return A v, (dim,), on every process."""
        self._check_shape(v, (self.dim,))
        return self.matvecs(v[None])[0]

    def matvecs(self, V: torch.Tensor) -> torch.Tensor:
        """Return A applied to the rows of `V`, (k, dim), on every process."""
        self._check_shape(V, (len(V), self.dim))
        return self.group.sum_(self.partial_product(V.to(self.device, self.dtype)))

    @property
    def gradient(self) -> torch.Tensor:
        """Gradient of the mean loss over all processes, (dim,), masked as the surface has it."""
        self.prepare()
        if self.own is None:
            zero = torch.zeros(self.dim, dtype=self.dtype, device=self.device)
            return self.group.sum_(zero)
        return self.group.sum_(self.own.gradient.mul_(self._mine / self._terms))

    @property
    def loss(self) -> float:
        """The mean loss over all terms of all batches of all processes."""
        self.prepare()
        return self._mean_loss

    @property
    def grad_norm(self) -> float:
        """Euclidean norm of the gradient of the mean loss over all processes."""
        if math.isnan(self._grad_norm):
            norm = torch.linalg.vector_norm(self.gradient, dtype=torch.float64)
            self._grad_norm = float(norm)
        return self._grad_norm

    @property
    def tokens(self) -> int:
        """Number of terms in the mean, over all processes."""
        self.prepare()
        return round(self._terms)

    def with_dtype(self, dtype: torch.dtype) -> Spread:
        """Return the same operator evaluated in `dtype`, rebuilding its graphs in each product."""
        return Spread(
            self.made,
            self.point.with_dtype(dtype),
            self.loss_function,
            tuple(move(batch, self.device, dtype) for batch in self.all_batches),
            group=self.group,
            graph=self._rebuilt(),
            micro_batch=self.micro_batch,
            first_batch=self._first,
        )

    def alone(self) -> CurvatureOperator:
        """Return the operator of all the data on this process, its graphs built when needed."""
        return self.made(
            self.point,
            self.loss_function,
            self.all_batches,
            graph=self._rebuilt(),
            micro_batch=self.micro_batch,
            first_batch=self._first,
        )


def share_of(
    batches: Sequence[Any], group: Group, point: Point, loss: Loss
) -> tuple[list[Any], Any]:
    """Return this process's share of the data of a language model, and one sequence of it."""
    units = [_sequences(batch, point, loss) for batch in batches]
    return _share(batches, units, group, point), _rows(batches[0], 0, 1, point)


def _sequences(batch: Any, point: Point, loss: Loss) -> int:
    """Return how many parts a batch has: its sequences with a label that counts, or one."""
    if not isinstance(loss, LanguageModelLoss):
        return 1
    return len(_counting(unpack(batch, point.model)[1]))


def _counting(labels: torch.Tensor) -> torch.Tensor:
    """Return the indices of the rows of unshifted labels, (B, T), that count."""
    return (labels[:, 1:] != IGNORED).any(dim=1).nonzero().squeeze(1)


def _share(batches: Sequence[Any], units: Sequence[int], group: Group, point: Point) -> list[Any]:
    """Return what this process has of each batch, where that is anything."""
    total = sum(units)
    first, last = (total * k // group.size for k in (group.rank, group.rank + 1))
    found, start = [], 0
    for batch, count in zip(batches, units, strict=True):
        low, high = max(first - start, 0), min(last - start, count)
        start += count
        if low >= high:
            continue
        found.append(batch if high - low == count else _rows(batch, low, high, point))
    return found


def _rows(batch: Any, low: int, high: int, point: Point) -> dict[str, torch.Tensor]:
    """Return the sequences `low` to `high` of those of a batch of token ids that count."""
    inputs, labels = unpack(batch, point.model)
    chosen, size = _counting(labels)[low:high], len(labels)
    parts = {
        key: value[chosen.to(value.device)] if len(value) == size else value
        for key, value in inputs.items()
    }
    return parts | {"labels": labels[chosen]}
