"""The graphs of an operator's batches: cut, built, kept or rebuilt, made smaller on a full device.

Running out of memory inside an evaluation frees everything and goes on with the next smaller way
(`graphs.smaller`); the evaluation that failed is begun anew, so whoever asked for a product gets
it, and nothing outside the operator is lost. The change is logged and noted.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, get_args

import torch

from spectra.curvature.failures import free_bytes, give_back, told, used_bytes
from spectra.curvature.graphs import COSTS, BatchGraph, GraphPolicy, smaller
from spectra.curvature.loss import Loss
from spectra.curvature.pieces import check_rows, cut, num_rows, rows_are_apart
from spectra.curvature.point import Point
from spectra.curvature.precision import matmul_precision
from spectra.curvature.stages import NotAChainError
from spectra.errors import NumericalError, OutOfMemoryError, UsageError
from spectra.linalg.operator import SymmetricOperator

log = logging.getLogger(__name__)

T = TypeVar("T")

_HEADROOM = 0.7  # of the free memory, for graphs; the rest is for Lanczos vectors and temporaries


class GraphHolder(SymmetricOperator):
    """What an operator knows of its batches' graphs.

    Attributes:
        point: Model, selection, surface, dtype and device.
        batches: The batches.
        graph: The policy in force; "auto" is decided by `prepare`.
        micro_batch: Rows (sequences) of a batch that share a graph; None for all.
        graph_bytes: Memory of all kept graphs together, once measured.
        notes: What a reader should know.
        shrunk: Told `graph` and `micro_batch` whenever memory ended and they were changed.
    """

    kind = "curvature"

    def __init__(
        self,
        point: Point,
        loss_function: Loss,
        batches: Sequence[Any],
        *,
        graph: GraphPolicy = "auto",
        micro_batch: int | None = None,
        first_batch: int = 0,
    ) -> None:
        if graph not in get_args(GraphPolicy):
            raise UsageError(f"graph={graph!r} is not known; pass auto, keep, recompute or blocks.")
        if not batches:
            raise UsageError("0 batches were given; a curvature operator needs at least one.")
        self.point, self.loss_function = point, loss_function
        self.batches = tuple(batches)
        self.selection = point.selection
        self.dim, self.dtype, self.device = self.selection.dim, point.dtype, point.device
        check_rows(micro_batch, self.batches, point, loss_function)
        self.graph: GraphPolicy = graph
        self.micro_batch = micro_batch
        self.graph_bytes: int | None = None
        self.notes: list[str] = []
        self.shrunk: Callable[[GraphPolicy, int | None], None] | None = None
        self._first = first_batch
        self._cut: tuple[int | None, list[tuple[int, Any]]] | None = None
        self._graphs: list[BatchGraph] = []
        self._counts: list[float] = []
        self._losses: list[float] = []
        self._grad_norm = math.nan

    # What a kind of curvature provides.

    @abstractmethod
    def _build(self, batch: Any, *, second_order: bool) -> BatchGraph:
        """Return the graph of one batch; without `second_order` only loss and gradient are used."""

    @abstractmethod
    def _build_blocks(
        self, batch: Any, leaves: tuple[torch.Tensor, ...] | None = None
    ) -> BatchGraph:
        """Return what makes products with one batch block by block.

        Args:
            batch: The batch.
            leaves: In the place of the selected parameters; None for `point.leaves()`.

        Raises:
            NotAChainError: If the model is no chain of blocks.
        """

    # Pieces and their graphs.

    @property
    def pieces(self) -> list[Any]:
        """The batches, cut into pieces of at most `micro_batch` rows."""
        return [piece for _, piece in self._numbered()]

    def _numbered(self) -> list[tuple[int, Any]]:
        if self._cut is None or self._cut[0] != self.micro_batch:
            pieces = [
                (self._first + index, piece)
                for index, batch in enumerate(self.batches)
                for piece in cut(batch, self.micro_batch, self.point, self.loss_function)
            ]
            self._cut = (self.micro_batch, pieces)
        return self._cut[1]

    @property
    def prepared(self) -> bool:
        """Whether losses, gradient and (unless they are recomputed) graphs are there."""
        return len(self._counts) == len(self._numbered())

    def prepare(self) -> None:
        """Evaluate every batch once and, unless they are recomputed, keep the graphs.

        Raises:
            NumericalError: If a loss is not finite.
            OutOfMemoryError: If no way to hold a graph fits.
        """
        self._fitting(self._prepare)

    def _prepare(self) -> None:
        if self.prepared and (self._graphs or self.graph == "recompute"):
            return
        self.release()
        self._counts, self._losses = [], []
        total = torch.zeros(self.dim, dtype=self.dtype, device=self.device)
        before = used_bytes(self.device)
        for position in range(len(self._numbered())):
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

    def _accumulate(self, total: torch.Tensor, graph: BatchGraph) -> None:
        with told(f"the gradient ({self.dim:,} parameters)"):
            blocks = graph.gradient()
            for (_, place), block in zip(self.selection.slices(), blocks, strict=True):
                if block is not None:
                    total[place].add_(block.reshape(-1), alpha=graph.count)

    def _decide(self, position: int, spent: int) -> None:
        built, pieces = position + 1, len(self._numbered())
        self.graph_bytes = max(spent, 0) * pieces // built
        if self.graph != "auto" or built == pieces:
            return
        needed = max(spent, 0) / built * (pieces - built)
        if needed > _HEADROOM * free_bytes(self.device):
            self.graph = "recompute"
            self._graphs.clear()
            self._note(
                f"the graphs of {len(self.batches)} batches (about {self.graph_bytes / 2**30:.1f} "
                f"GiB) do not fit together: each product rebuilds them, {self._price()}"
            )

    def release(self) -> None:
        """Free the kept graphs; the next product builds them again."""
        if self._graphs:
            self._graphs.clear()
            give_back(self.device)

    def _graph(self, position: int, *, second_order: bool) -> BatchGraph:
        number, piece = self._numbered()[position]
        with told(f"the {self.kind} of batch {number} ({self.dim:,} parameters)"):
            if self.graph == "blocks":
                graph = self._chain(piece)
            else:
                graph = self._build(piece, second_order=second_order)
        if not math.isfinite(graph.loss):
            raise NumericalError(
                f"the loss of batch {number} is {graph.loss}; a curvature needs a finite loss: "
                "look for NaN or Inf in the weights, or use a wider dtype than "
                f"{str(self.dtype).removeprefix('torch.')}."
            )
        return graph

    def _chain(self, piece: Any) -> BatchGraph:
        try:
            return self._build_blocks(piece)
        except NotAChainError as error:
            reason = str(error)
        raise UsageError(
            f"graph='blocks' needs a model that is a chain of transformer blocks, and {reason[:-1]}"
            "; pass graph='recompute'."
        )

    def _each_graph(self) -> Iterator[tuple[BatchGraph, bool]]:
        if self.graph == "recompute":
            for position in range(len(self._numbered())):
                yield self._graph(position, second_order=True), True
        else:
            for graph in self._graphs:
                yield graph, False

    # When memory ends.

    def _fitting(self, work: Callable[[], T]) -> T:
        """Return `work()`, begun anew with smaller graphs while memory does not suffice."""
        while True:
            try:
                with matmul_precision(self.point.matmul_precision):
                    return work()
            except OutOfMemoryError as error:
                failure = error
            # Tracebacks hold the frames that hold the tensors.
            failure.__cause__ = failure.__context__ = failure.__traceback__ = None
            if not self._shrink():
                raise failure

    def _shrink(self) -> bool:
        """Go over to the next way that takes less memory; False where there is none."""
        self._graphs.clear()
        give_back(self.device)
        rows = max(num_rows(piece, self.point, self.loss_function) for piece in self.pieces)
        if rows > 1 and not rows_are_apart(self.batches[0], self.point, self.loss_function):
            rows = 1
        following = smaller(self.graph, rows)
        if following is None or (following[0] == "blocks" != self.graph and not self._is_chain()):
            return False
        self.graph, fewer = following
        if fewer < rows:
            self.micro_batch = fewer
        self._counts, self._losses = [], []
        if self.shrunk is not None:
            self.shrunk(self.graph, self.micro_batch)
        how = {
            "recompute": "graphs are rebuilt within each product",
            "blocks": "graphs are rebuilt block by block",
        }[self.graph]
        shared = f", {self.micro_batch} sequences a graph" if self.micro_batch else ""
        self._note(f"memory ended: {how}{shared}, {self._price()}")
        return True

    def _is_chain(self) -> bool:
        try:
            self._build_blocks(self.pieces[0])
        except (NotAChainError, NotImplementedError):  # torch: an operation lacks a derivative
            return False
        except (torch.OutOfMemoryError, MemoryError, RuntimeError):
            return True  # the next attempt meets the same and tells it
        return True

    def _price(self) -> str:
        costs = COSTS.get(self.kind, COSTS["Hessian"])
        return f"at {costs[self.graph]:.3g} gradients a product instead of {costs['keep']:.3g}"

    def _note(self, note: str) -> None:
        log.warning("%s", note)
        self.notes.append(note)
