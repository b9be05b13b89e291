"""What Hessian and Gauss-Newton operators share: products, weights of batches, and what is known.

An operator belongs to one set of batches: A = Σ_b (N_b/N) A_b with N_b terms in batch b. Each A_b
is a linear map whose graph depends on the parameters and the batch alone. Neither changes while
Lanczos runs, so the graph may be kept and used for every product, or built again in each; `graphs`
lists the ways and their costs, `holder` decides and falls back.

Changing a parameter in place under a kept graph is noticed by autograd, which then refuses.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from spectra.curvature.batches import move
from spectra.curvature.captured import CapturedGraph, faster_captured
from spectra.curvature.failures import told
from spectra.curvature.fingerprint import fingerprint
from spectra.curvature.graphs import BatchGraph, Blocks, GraphPolicy
from spectra.curvature.holder import GraphHolder
from spectra.curvature.precision import matmul_precision
from spectra.curvature.projector import Projector
from spectra.curvature.several import faster_at_once
from spectra.errors import OutOfMemoryError, UsageError
from spectra.parallel.group import Group
from spectra.parallel.launched import Place

__all__ = ["BatchGraph", "Blocks", "CurvatureOperator", "GraphPolicy"]


class CurvatureOperator(GraphHolder):
    """A symmetric map of the selected parameters, the count-weighted mean over batches.

    Attributes:
        batched_products: Whether `matvecs` sends several vectors through kept graphs at once. None
            on a GPU until the first `matvecs` has measured which is faster. On the CPU it is off:
            measured slower there, and a choice by the clock would change the rounding of a resumed
            run.
        captured_products: Whether products are replayed CUDA graphs (`captured`); None on a GPU
            until the first product has measured whether that is faster.
    """

    group = Group(Place())  # the processes that share the data, mostly one

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of `GraphHolder`."""
        super().__init__(*args, **kwargs)
        self.batched_products: bool | None = None if self.device.type == "cuda" else False
        self.captured_products: bool | None = None if self.device.type == "cuda" else False

    @property
    def keep(self) -> torch.Tensor | Projector | None:
        """Coordinates, (dim,) boolean, or subspace outside which the operator is exactly zero."""
        return self.point.surface.keep

    @property
    def dim_unmasked(self) -> int:
        """Number of coordinates that are not masked; the rank of a projector."""
        return self.point.surface.dim_unmasked

    def fingerprint(self) -> dict[str, int]:
        """Return a checksum of each parameter and buffer of the model, by its name."""
        return fingerprint(self.point.model)

    # Products.

    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        """Return A v, (dim,).

        Raises:
            UsageError: If `v` is not of length `dim`.
        """
        self._check_shape(v, (self.dim,))
        v = v.to(self.device, self.dtype)
        if self.captured_products is not False:
            self._consider_capture(v)
        return self._product(v, batched=False)

    def _consider_capture(self, v: torch.Tensor) -> None:
        """Replace graphs that are kept on a GPU by captured ones where these are faster."""
        self.prepare()
        if self.graph != "keep" or isinstance(self._graphs[0], CapturedGraph):
            return
        try:
            with matmul_precision(self.point.matmul_precision):
                found = faster_captured(self, v)
        except OutOfMemoryError:  # the product itself meets it again, and goes on
            found = None
        self.captured_products = found is not None
        if found is not None:
            self._graphs = found

    def matvecs(self, V: torch.Tensor) -> torch.Tensor:
        """Return A applied to the rows of `V`, (k, dim); all at once where `batched_products`.

        Graphs that are rebuilt are shared by all rows in any case.
        """
        self._check_shape(V, (len(V), self.dim))
        V = V.to(self.device, self.dtype)
        self.prepare()
        if len(V) > 1 and self.graph == "keep" and self.batched_products is not False:
            result = self._at_once(V)
            if result is not None:
                return result
        if self.graph == "blocks":
            return self._product(V, batched=True)
        return self._fitting(lambda: self._each_alone(V))

    def _at_once(self, V: torch.Tensor) -> torch.Tensor | None:
        """Return the products in one call if that is faster and works, else None."""
        if self.batched_products is None:
            with matmul_precision(self.point.matmul_precision):
                self.batched_products = faster_at_once(self, V)
            if not self.batched_products:
                return None
        try:
            with warnings.catch_warnings(), matmul_precision(self.point.matmul_precision):
                warnings.filterwarnings("ignore", message=".*performance drop.*")
                return self._attempt(V, batched=True)
        except (RuntimeError, OutOfMemoryError) as error:
            reason = str(error).splitlines()[0][:120]
        self.batched_products = False
        self._note(f"several vectors at once failed ({reason}); one at a time")
        return None

    def _check_shape(self, v: torch.Tensor, shape: tuple[int, ...]) -> None:
        if v.shape != shape:
            raise UsageError(
                f"a vector of shape {tuple(v.shape)} does not fit this operator; pass {shape}."
            )

    def _product(self, v: torch.Tensor, *, batched: bool) -> torch.Tensor:
        return self._fitting(lambda: self._attempt(v, batched=batched))

    def _each_alone(self, V: torch.Tensor) -> torch.Tensor:
        return self._mean([self._inside(v) for v in V], V, batched=False)

    def _attempt(self, v: torch.Tensor, *, batched: bool) -> torch.Tensor:
        return self._mean([self._inside(v)], v, batched=batched)

    def _inside(self, v: torch.Tensor) -> list[torch.Tensor]:
        return list(self.selection.split(self.point.surface.restrict(v)))

    def _mean(
        self, vectors: list[list[torch.Tensor]], v: torch.Tensor, *, batched: bool
    ) -> torch.Tensor:
        """Return the products with each of `vectors`, in the shape of `v`."""
        self._prepare()
        lead = v.shape[:-1] if len(vectors) == 1 else ()
        total = math.fsum(self._counts)
        results: list[torch.Tensor | None] = [None] * len(vectors)
        for graph, freed in self._each_graph():
            share = graph.count / total
            for k, blocks in enumerate(vectors):
                with told(f"a product with the {self.kind} ({self.dim:,} parameters)"):
                    last = freed and k == len(vectors) - 1
                    out = graph.product(blocks, batched=batched, last=last)
                    flat = self.selection.flatten(out, like=v, lead=lead)
                    before = results[k]
                    if before is not None:
                        before.add_(flat, alpha=share)
                    else:
                        results[k] = flat if share == 1 else flat.mul_(share)
        found = [result for result in results if result is not None]
        result = found[0] if len(vectors) == 1 else torch.stack(found)
        surface = self.point.surface
        return surface.shift_(surface.restrict_(result), v)

    # What `prepare` found.

    @property
    def gradient(self) -> torch.Tensor:
        """Gradient of the mean loss, (dim,), masked as the surface has it, without a penalty's.

        Computed anew where no graphs are kept.
        """
        return self._fitting(self._gradient)

    def _gradient(self) -> torch.Tensor:
        self._prepare()
        total = torch.zeros(self.dim, dtype=self.dtype, device=self.device)
        for position in range(len(self.pieces)):
            kept = self._graphs[position] if self._graphs else None
            self._accumulate(total, kept or self._graph(position, second_order=False))
        return self.point.surface.restrict_(total).div_(math.fsum(self._counts))

    def gradient_of(self, piece: Any, leaves: tuple[torch.Tensor, ...]) -> tuple[float, Blocks]:
        """Return the count of one of `pieces`, and the gradient of its mean loss at `leaves`."""
        if self.graph == "blocks":
            graph = self._build_blocks(piece, leaves)
            return graph.count, graph.gradient()
        mean, count = self.point.call(self.loss_function, leaves, piece)
        if not mean.requires_grad:
            return count, [None] * len(leaves)
        return count, torch.autograd.grad(mean, leaves, allow_unused=True)

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
        """Return the same operator evaluated in `dtype`, rebuilding its graphs in each product.

        Block by block where this one does so, and with the same micro-batches.
        """
        return type(self)(
            self.point.with_dtype(dtype),
            self.loss_function,
            tuple(move(batch, self.device, dtype) for batch in self.batches),
            graph=self._rebuilt(),
            micro_batch=self.micro_batch,
            first_batch=self._first,
        )

    def _rebuilt(self) -> GraphPolicy:
        return "blocks" if self.graph == "blocks" else "recompute"
