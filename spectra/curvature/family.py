"""One model, one selection, several batches: the operator of each batch and of their mean."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from spectra.curvature.batches import as_batches, move
from spectra.curvature.loss import Loss, LossFunction, resolve_loss
from spectra.curvature.operator import CurvatureOperator, GraphPolicy
from spectra.curvature.params import Selection, select_parameters
from spectra.curvature.point import Point
from spectra.curvature.precision import as_dtype
from spectra.curvature.projector import Projector
from spectra.curvature.spread import Spread
from spectra.curvature.surface import Surface
from spectra.errors import UsageError
from spectra.linalg.operator import SymmetricOperator
from spectra.parallel import Group

REDUCTIONS = ("per_batch", "mean")


class Curvature(SymmetricOperator):
    """Curvature of one model on several batches.

    As an operator it is the count-weighted mean over all batches. `operator(b)` is batch b's own;
    all share the selection and the values of the parameters.

    Attributes:
        mean: The operator of the mean over all batches.
        selection: The parameters.
        surface: The surface on which it is evaluated: "ste", "quantized" or "latent".
        reduce: What `num_operators()` and `operators()` go by.
    """

    def __init__(
        self,
        kind: type[CurvatureOperator],
        point: Point,
        loss: Loss,
        batches: tuple[Any, ...],
        *,
        reduce: str,
        graph: GraphPolicy,
        micro_batch: int | None = None,
    ) -> None:
        self.kind, self.point, self.loss_function = kind, point, loss
        self.batches, self.reduce, self.graph = batches, reduce, graph
        self.micro_batch = micro_batch
        self.surface = point.surface.name
        self.group: Group | None = None
        self.mean = kind(point, loss, batches, graph=graph, micro_batch=micro_batch)
        self.dim, self.dtype, self.device = self.mean.dim, self.mean.dtype, self.mean.device

    @property
    def selection(self) -> Selection:
        """The parameters the operators act on."""
        return self.point.selection

    @property
    def keep(self) -> torch.Tensor | Projector | None:
        """Coordinates, (dim,) boolean, or subspace outside which the operators are exactly zero."""
        return self.point.surface.keep

    @property
    def dim_unmasked(self) -> int:
        """Number of coordinates that are not masked; the rank of a projector."""
        return self.point.surface.dim_unmasked

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def num_operators(self, reduce: str | None = None) -> int:
        """Return how many operators `reduce` (default: this family's own) makes of the batches."""
        return 1 if check_reduce(reduce or self.reduce) == "mean" else self.num_batches

    def operator(self, index: int) -> CurvatureOperator:
        """Return a new operator of batch `index`; its graphs are freed with it or by `release`."""
        if not 0 <= index < self.num_batches:
            raise UsageError(
                f"batch {index} does not exist; pass an index from 0 to {self.num_batches - 1}."
            )
        made = self._make(
            self.batches[index : index + 1], "keep" if self.graph == "auto" else self.graph, index
        )
        made.shrunk = self._remember
        return made

    def _remember(self, graph: GraphPolicy, micro_batch: int | None) -> None:
        """Hold the graphs of later operators as the one that ran out of memory ended up."""
        self.graph, self.micro_batch = graph, micro_batch

    def _make(self, batches: tuple[Any, ...], graph: GraphPolicy, first: int) -> CurvatureOperator:
        data = self.point, self.loss_function, batches
        how: dict[str, Any] = {
            "graph": graph,
            "micro_batch": self.micro_batch,
            "first_batch": first,
        }
        if self.group is None:
            return self.kind(*data, **how)
        return Spread(self.kind, *data, group=self.group, **how)

    def spread(self, group: Group) -> Curvature:
        """Return this family with the data of every operator shared over the processes of `group`.

        All of them must call the same methods in the same order.
        """
        other = copy.copy(self)
        other.group = group
        other.mean = other._make(self.batches, self.graph, 0)
        return other

    def per_batch(self) -> Iterator[CurvatureOperator]:
        """Yield the operator of each batch, made when asked for: one graph lives at a time."""
        return (self.operator(index) for index in range(self.num_batches))

    def operators(self, reduce: str | None = None) -> Iterator[CurvatureOperator]:
        """Yield the operators that `reduce` (default: this family's own) asks for."""
        if check_reduce(reduce or self.reduce) == "mean":
            return iter((self.mean,))
        return self.per_batch()

    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        """Return the product with the mean over all batches, (dim,)."""
        return self.mean.matvec(v)

    def matvecs(self, V: torch.Tensor) -> torch.Tensor:
        """Return the products with the rows of `V`, (k, dim)."""
        return self.mean.matvecs(V)

    def prepare(self) -> None:
        """Build the graphs of the mean operator."""
        self.mean.prepare()

    def release(self) -> None:
        """Free the graphs of the mean operator."""
        self.mean.release()

    def metadata(self) -> dict[str, Any]:
        """Return what a record says of this operator."""
        return {
            "kind": self.mean.kind,
            "params": self.selection.params,
            "parameter_names": list(self.selection.names),
            "weight_norm": self.selection.norm(self.point.model),
            "dim": self.dim,
            "dim_unmasked": self.dim_unmasked,
            "surface": self.surface,
            "proximal": self.point.surface.proximal,
            "reduce": self.reduce,
            "graph": self.mean.graph,
            "micro_batch": self.mean.micro_batch,
            "matmul_precision": self.point.matmul_precision,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "attention": self.point.attention,
            "loss": self.loss_function.description,
            "notes": [*self.point.notes, *self.mean.notes],
        }


def family(
    kind: type[CurvatureOperator],
    model: Any,
    data: Any,
    *,
    params: str | Sequence[str],
    surface: str | None,
    reduce: str,
    loss: LossFunction | Loss | None,
    graph: GraphPolicy,
    micro_batch: int | None = None,
    dtype: str | torch.dtype | None,
    proximal: float,
    matmul_precision: str = "highest",
) -> Curvature:
    """Assemble a `Curvature`; the arguments are those of `spectra.hessian`."""
    module = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"model is {type(model).__name__}; pass a loaded checkpoint or a torch.nn.Module."
        )
    check_reduce(reduce)
    selection = select_parameters(module, params)
    point = Point(
        module,
        selection,
        None if dtype is None else as_dtype(dtype),
        surface=Surface(module, selection, surface, proximal=proximal),
        matmul_precision=matmul_precision,
    )
    batches = as_batches(data)
    if loss is not None:
        batches = tuple(move(batch, point.device, point.dtype) for batch in batches)
    return Curvature(
        kind,
        point,
        resolve_loss(point, batches[0], loss),
        batches,
        reduce=reduce,
        graph=graph,
        micro_batch=micro_batch,
    )


def check_reduce(reduce: str) -> str:
    """Return `reduce` if it is known.

    Raises:
        UsageError: If it is not.
    """
    if reduce not in REDUCTIONS:
        raise UsageError(f"reduce={reduce!r} is not known; pass per_batch or mean.")
    return reduce
