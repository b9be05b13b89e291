"""The Hessian of a mean loss with weights, vectors and data shared by several processes.

Vectors are in the parts of the weights (`spectra.curvature.shards`), so no process ever holds a
whole one, but for the probe on the host. The data are shared as those of `spectra.curvature.spread`
are. Only the loss as a function of plain weights (surface `latent`) is differentiated here: grids
and masks of quantizers belong to whole layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge

from spectra.curvature.family import Curvature
from spectra.curvature.fingerprint import checksum, fingerprint
from spectra.curvature.gathered import GatheredModel
from spectra.curvature.loss import LanguageModelLoss, Loss
from spectra.curvature.point import Point
from spectra.curvature.precision import matmul_precision
from spectra.curvature.shards import Shards
from spectra.curvature.spread import share_of
from spectra.errors import NumericalError, UsageError
from spectra.linalg.operator import SymmetricOperator
from spectra.parallel import Group

Tensor = torch.Tensor
NOTE = (
    "weights in parts on {size} processes, gathered block by block: 4 gradients a product, and "
    "structural zeros are not counted"
)


class ShardedHessian(SymmetricOperator):
    """∇²L of the sharded weights, count-weighted over the batches of all processes.

    Attributes:
        point: Values of what is not sharded; the surface.
        shards: The blocks.
        parts: This process's parts of their weights.
        batches: This process's data.
        spare: A batch that is differentiated with weight zero where others have more batches.
        space: That of the vectors.
    """

    kind = "Hessian"

    def __init__(
        self,
        point: Point,
        shards: Shards,
        parts: Sequence[Tensor],
        loss_function: Loss,
        batches: Sequence[Any],
        *,
        spare: Any,
    ) -> None:
        self.point, self.shards, self.loss_function = point, shards, loss_function
        self.parts = [part.to(point.dtype) for part in parts]
        self.batches, self.spare = tuple(batches), spare
        self.model = GatheredModel(point, shards)
        self.dim, self.dtype, self.device = point.selection.dim, point.dtype, point.device
        self.space = shards.space
        self._graphs: list[tuple[list[Tensor], list[Any]]] = []
        self.loss = self.grad_norm = math.nan
        self.tokens = 0
        self.graph, self.notes = "blocks", [NOTE.format(size=shards.group.size)]
        self.micro_batch: int | None = None

    def prepare(self) -> None:
        """Run every batch forward and backward once; of each the boundaries of blocks are kept.

        Raises:
            NumericalError: If a loss is not finite.
        """
        if self._graphs:
            return
        group, runs = self.shards.group, []
        for number in range(max(group.gather(len(self.batches)))):
            there = number < len(self.batches)
            leaves = [part.detach().requires_grad_() for part in self.parts]
            with self.model.active(), matmul_precision(self.point.matmul_precision):
                mean, count = self.model.loss(
                    self.loss_function, self.batches[number] if there else self.spare, leaves
                )
            runs.append((leaves, mean, count if there else 0.0))
        sums = [(count, float(mean.detach()) * count if count else 0.0) for _, mean, count in runs]
        everyone = group.gather(sums)
        total = math.fsum(count for each in everyone for count, _ in each)
        self.loss = math.fsum(part for each in everyone for _, part in each) / total
        self.tokens = round(total)
        if not math.isfinite(self.loss):
            raise NumericalError(
                f"the loss is {self.loss}; a curvature needs a finite loss: look for NaN or Inf in "
                "the weights, or use a wider dtype."
            )
        gradient = None
        for leaves, mean, count in runs:
            with self.model.active(), matmul_precision(self.point.matmul_precision):
                weight = torch.full_like(mean, count / total)
                slopes = torch.autograd.grad(mean, leaves, weight, create_graph=True)
            # The edges alone: the graph does not need the values of its own outputs.
            self._graphs.append((leaves, [get_gradient_edge(slope) for slope in slopes]))
            flat = torch.cat([slope.detach() for slope in slopes])
            del slopes
            gradient = flat if gradient is None else gradient.add_(flat)
        assert gradient is not None
        self.gradient = gradient
        self.grad_norm = float(self.space.norm(self.gradient))

    def fingerprint(self) -> dict[str, int]:
        """Return checksums of the blocks' weights held here and of all that is not in parts."""
        blocks = {f"weights of block {i}": checksum(part) for i, part in enumerate(self.parts)}
        return fingerprint(self.point.model) | blocks

    def matvec(self, v: Tensor) -> Tensor:
        """Return the part of A v from that of v, (length,)."""
        self.prepare()
        pieces = v.split(self.shards.space.widths)
        result = torch.zeros_like(v)
        for leaves, slopes in self._graphs:
            with self.model.active(), matmul_precision(self.point.matmul_precision):
                found = torch.autograd.grad(slopes, leaves, pieces, retain_graph=True)
            for place, block in zip(result.split(self.shards.space.widths), found, strict=True):
                place.add_(block)
        return result

    def release(self) -> None:
        """Free what is kept; the next product makes it again."""
        self._graphs.clear()

    def with_dtype(self, dtype: torch.dtype, offset: Tensor | None = None) -> ShardedHessian:
        """Return the same operator evaluated in `dtype`, with `offset` added to the weights."""
        parts = [part.to(dtype) for part in self.parts]
        if offset is not None:
            pieces = offset.split(self.shards.space.widths)
            parts = [part + piece for part, piece in zip(parts, pieces, strict=True)]
        return ShardedHessian(
            self.point.with_dtype(dtype),
            self.shards,
            parts,
            self.loss_function,
            self.batches,
            spare=self.spare,
        )


class ShardedCurvature(Curvature):
    """The family of another one's Hessians, with the model's weights handed over to `group`.

    The model keeps no sharded weight of its own; nothing else can be computed with it afterwards.
    """

    def __init__(self, family: Curvature, group: Group, device: torch.device) -> None:
        _check(family)
        model, selection = family.point.model, family.selection
        self.kind, self.loss_function = family.kind, family.loss_function
        self.batches, self.reduce, self.graph = family.batches, family.reduce, family.graph
        self.surface, self.group = family.surface, group
        self._weight_norm = selection.norm(model)
        self.shards = Shards(model, selection, group)
        self.parts = self.shards.parts_of(family.point, device)
        self.shards.hand_over(model, device)
        self.point = Point(model, selection, family.dtype, surface=family.point.surface)
        self.point.attention = family.point.attention
        self.point.notes = family.point.notes
        self.space = self.shards.space
        self.dim, self.dtype, self.device = selection.dim, family.dtype, device
        self.mean = self._of(self.batches)  # type: ignore[assignment]

    def operator(self, index: int) -> ShardedHessian:  # type: ignore[override]
        """Return a new operator of batch `index`."""
        return self._of(self.batches[index : index + 1])

    def _of(self, batches: tuple[Any, ...]) -> ShardedHessian:
        own, spare = share_of(batches, self.shards.group, self.point, self.loss_function)
        return ShardedHessian(
            self.point, self.shards, self.parts, self.loss_function, own, spare=spare
        )

    def metadata(self) -> dict[str, Any]:
        """Return what a record says of this operator."""
        return super().metadata() | {"weight_norm": self._weight_norm}


def _check(family: Curvature) -> None:
    """Refuse what cannot be sharded."""
    other = "pass --share vectors."
    if family.mean.kind != "Hessian":
        raise UsageError(f"share='parameters' knows no {family.mean.kind}; {other}")
    if family.surface != "latent" or family.point.surface.proximal:
        raise UsageError(
            f"share='parameters' shards plain weights, and surface={family.surface!r} needs the "
            f"quantizers of whole layers; {other}"
        )
    if not isinstance(family.loss_function, LanguageModelLoss):
        raise UsageError(f"share='parameters' needs a language model's own loss; {other}")
