"""What Hessian and Gauss-Newton operators share: batches, their graphs, weights and bookkeeping.

An operator belongs to one set of batches: A = Σ_b (N_b/N) A_b with N_b terms in batch b. Each A_b
is a linear map whose graph depends on the parameters and the batch alone. Neither changes while
Lanczos runs, so the graph may be kept and used for every product:

    keep       first forward and backward once; a product is the second backward alone
    recompute  both are done again within each product and freed after it: the memory of one graph
               whatever the number of batches
    auto       keep, unless the graphs of all batches together would not fit

Changing a parameter in place under a kept graph is noticed by autograd.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, get_args

import torch

from spectra.curvature.batches import move
from spectra.curvature.failures import free_bytes, give_back, told, used_bytes
from spectra.curvature.loss import Loss
from spectra.curvature.point import Point
from spectra.curvature.projector import Projector
from spectra.errors import NumericalError, UsageError
from spectra.linalg.operator import SymmetricOperator
from spectra.parallel.group import Group
from spectra.parallel.launched import Place

GraphPolicy = Literal["auto", "keep", "recompute"]
Blocks = Sequence[torch.Tensor | None]

_HEADROOM = 0.7  # of the free memory, for graphs; the rest is for Lanczos vectors and temporaries


class BatchGraph(Protocol):
    """One batch's loss, gradient and linear map."""

    loss: float
    count: float

    def gradient(self) -> Blocks:
        """Return the gradient of the batch's mean loss, a block for each selected parameter."""

    def product(self, blocks: Sequence[torch.Tensor], *, batched: bool, last: bool) -> Blocks:
        """Return the product with a vector given in blocks.

        Args:
            blocks: One tensor of each parameter's shape, or (k, *shape) when `batched`.
            batched: Whether k vectors come at once.
            last: Whether the graph may be freed.
        """


class CurvatureOperator(SymmetricOperator):
    """A symmetric map of the selected parameters, the count-weighted mean over batches.

    Attributes:
        point: Model, selection, surface, dtype and device.
        batches: The batches.
        graph: The policy in force; "auto" is decided by `prepare`.
        graph_bytes: Memory of all kept graphs together, once measured.
        batched_products: Whether `matvecs` sends several vectors through the graph at once.
        notes, group: What a reader should know; the processes that share the data, mostly one.
    """

    kind = "curvature"
    group = Group(Place())

    def __init__(
        self,
        point: Point,
        loss_function: Loss,
        batches: Sequence[Any],
        *,
        graph: GraphPolicy = "auto",
        first_batch: int = 0,
    ) -> None:
        if graph not in get_args(GraphPolicy):
            raise UsageError(f"graph={graph!r} is not known; pass auto, keep or recompute.")
        if not batches:
            raise UsageError("0 batches were given; a curvature operator needs at least one.")
        self.point, self.loss_function = point, loss_function
        self.batches = tuple(batches)
        self.selection = point.selection
        self.dim, self.dtype, self.device = self.selection.dim, point.dtype, point.device
        self.graph: GraphPolicy = graph
        self.graph_bytes: int | None = None
        self.batched_products = self.device.type == "cuda"
        self.notes: list[str] = []
        self._first = first_batch
        self._graphs: list[BatchGraph] = []
        self._counts: list[float] = []
        self._losses: list[float] = []
        self._grad_norm = math.nan

    @property
    def keep(self) -> torch.Tensor | Projector | None:
        """Coordinates, (dim,) boolean, or subspace outside which the operator is exactly zero."""
        return self.point.surface.keep

    @property
    def dim_unmasked(self) -> int:
        """Number of coordinates that are not masked; the rank of a projector."""
        return self.point.surface.dim_unmasked

    # What a kind of curvature provides.

    @abstractmethod
    def _build(self, batch: Any, *, second_order: bool) -> BatchGraph:
        """Return the graph of one batch; without `second_order` only loss and gradient are used."""

    # Preparation.

    @property
    def prepared(self) -> bool:
        """Whether losses, gradient and (under "keep") graphs are there."""
        return len(self._counts) == len(self.batches)

    def prepare(self) -> None:
        """Evaluate every batch once and, under "keep", keep its graph.

        Raises:
            NumericalError: If a loss is not finite.
            OutOfMemoryError: If a graph does not fit.
        """
        if self.prepared and (self._graphs or self.graph == "recompute"):
            return
        self.release()
        self._counts, self._losses = [], []
        total = self._zero(self.dim)
        before = used_bytes(self.device)
        for position in range(len(self.batches)):
            graph = self._graph(position, second_order=self.graph != "recompute")
            self._counts.append(graph.count)
            self._losses.append(graph.loss)
            self._accumulate(total, graph)
            if self.graph != "recompute":
                self._graphs.append(graph)
                del graph
                self._decide(position, used_bytes(self.device) - before)
        if self.graph == "auto":
            self.graph = "keep"
        self.point.surface.restrict_(total)
        norm = torch.linalg.vector_norm(total, dtype=torch.float64)
        self._grad_norm = float(norm) / math.fsum(self._counts)

    def _zero(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def _accumulate(self, total: torch.Tensor, graph: BatchGraph) -> None:
        blocks = graph.gradient()
        for (_, place), block in zip(self.selection.slices(), blocks, strict=True):
            if block is not None:
                total[place].add_(block.reshape(-1), alpha=graph.count)

    def _decide(self, position: int, spent: int) -> None:
        built, batches = position + 1, len(self.batches)
        self.graph_bytes = max(spent, 0) * batches // built
        if self.graph != "auto" or built == batches:
            return
        needed = max(spent, 0) / built * (batches - built)
        if needed > _HEADROOM * free_bytes(self.device):
            self.graph = "recompute"
            self._graphs.clear()
            self.notes.append(
                f"the graphs of {batches} batches (about {self.graph_bytes / 2**30:.1f} GiB) do "
                "not fit together: each product rebuilds them, at 3 gradients instead of 2"
            )

    def release(self) -> None:
        """Free the kept graphs; the next product builds them again."""
        if self._graphs:
            self._graphs.clear()
            give_back(self.device)

    def _graph(self, position: int, *, second_order: bool) -> BatchGraph:
        number = self._first + position
        with told(f"the {self.kind} of batch {number} ({self.dim:,} parameters)"):
            graph = self._build(self.batches[position], second_order=second_order)
        if not math.isfinite(graph.loss):
            raise NumericalError(
                f"the loss of batch {number} is {graph.loss}; a curvature needs a finite loss: "
                "look for NaN or Inf in the weights, or use a wider dtype than "
                f"{str(self.dtype).removeprefix('torch.')}."
            )
        return graph

    # Products.

    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        """Return A v, (dim,).

        Raises:
            UsageError: If `v` is not of length `dim`.
        """
        self._check_shape(v, (self.dim,))
        return self._product(v.to(self.device, self.dtype), batched=False)

    def matvecs(self, V: torch.Tensor) -> torch.Tensor:
        """Return A applied to the rows of `V`, (k, dim); all at once where `batched_products`."""
        self._check_shape(V, (len(V), self.dim))
        if self.batched_products and len(V) > 1:
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*performance drop.*")
                    return self._product(V.to(self.device, self.dtype), batched=True)
            except (RuntimeError, torch.OutOfMemoryError) as error:
                self.batched_products = False
                reason = str(error).splitlines()[0][:120]
                self.notes.append(f"several vectors at once failed ({reason}); one at a time")
        return super().matvecs(V)

    def _check_shape(self, v: torch.Tensor, shape: tuple[int, ...]) -> None:
        if v.shape != shape:
            raise UsageError(
                f"a vector of shape {tuple(v.shape)} does not fit this operator; pass {shape}."
            )

    def _product(self, v: torch.Tensor, *, batched: bool) -> torch.Tensor:
        self.prepare()
        surface = self.point.surface
        blocks = self.selection.split(surface.restrict(v))
        total, result = sum(self._counts), None
        for graph, last in self._each_graph():
            with told(f"a product with the {self.kind} ({self.dim:,} parameters)"):
                out = graph.product(blocks, batched=batched, last=last)
                flat = self.selection.flatten(out, like=v, lead=v.shape[:-1])
            share = graph.count / total
            if result is None:
                result = flat if share == 1 else flat.mul_(share)
            else:
                result.add_(flat, alpha=share)
        assert result is not None
        return surface.shift_(surface.restrict_(result), v)

    def _each_graph(self) -> Iterator[tuple[BatchGraph, bool]]:
        if self.graph == "recompute":
            for position in range(len(self.batches)):
                yield self._graph(position, second_order=True), True
        else:
            for graph in self._graphs:
                yield graph, False

    # What `prepare` found.
    @property
    def gradient(self) -> torch.Tensor:
        """Gradient of the mean loss, (dim,), masked as the surface has it, without a penalty's.

        Computed anew where no graphs are kept.
        """
        self.prepare()
        total = self._zero(self.dim)
        for position in range(len(self.batches)):
            kept = self._graphs[position] if self._graphs else None
            self._accumulate(total, kept or self._graph(position, second_order=False))
        return self.point.surface.restrict_(total).div_(math.fsum(self._counts))

    @property
    def loss(self) -> float:
        """The mean loss over all terms of all batches."""
        self.prepare()
        pairs = zip(self._losses, self._counts, strict=True)
        return math.fsum(loss * count for loss, count in pairs) / math.fsum(self._counts)

    @property
    def grad_norm(self) -> float:
        """Euclidean norm of the gradient of the mean loss."""
        self.prepare()
        return self._grad_norm

    @property
    def weight_norm(self) -> float:
        """Euclidean norm of the selected parameters."""
        norms = (
            torch.linalg.vector_norm(leaf.detach(), dtype=torch.float64)
            for leaf in self.point.leaves()
        )
        return math.hypot(*map(float, norms))

    @property
    def tokens(self) -> int:
        """Number of terms (labels that count) in the mean; batches, where a loss gives no count."""
        self.prepare()
        return round(math.fsum(self._counts))

    def with_dtype(self, dtype: torch.dtype) -> CurvatureOperator:
        """Return the same operator evaluated in `dtype`, rebuilding its graphs in each product."""
        return type(self)(
            self.point.with_dtype(dtype),
            self.loss_function,
            tuple(move(batch, self.device, dtype) for batch in self.batches),
            graph="recompute",
            first_batch=self._first,
        )
