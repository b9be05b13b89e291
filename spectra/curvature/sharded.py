"""The Hessian of a mean loss with weights, vectors and data shared by several processes.

Vectors are in the parts of the weights (`spectra.curvature.shards`), so no process ever holds a
whole one, but for the probe on the host. A clip mask is applied in parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from spectra.curvature.gathered import GatheredModel
from spectra.curvature.loss import Loss
from spectra.curvature.point import Point
from spectra.curvature.shards import Shards
from spectra.errors import NumericalError
from spectra.linalg.operator import SymmetricOperator

Tensor = torch.Tensor


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
        keep: Tensor | None = None,
    ) -> None:
        self.point, self.shards, self.loss_function = point, shards, loss_function
        self.parts = [part.to(point.dtype) for part in parts]
        self.batches, self.spare, self.keep = tuple(batches), spare, keep
        self.model = GatheredModel(point, shards)
        self.dim, self.dtype, self.device = point.selection.dim, point.dtype, point.device
        self.space = shards.space
        self._graphs: list[tuple[list[Tensor], Sequence[Tensor]]] = []
        self.loss = self.grad_norm = math.nan
        self.tokens = 0

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
            with self.model.active():
                mean, count = self.model.loss(
                    self.loss_function, self.batches[number] if there else self.spare, leaves
                )
            runs.append((leaves, mean, count if there else 0.0))
        sums = [
            (count, float(mean.detach()) * count if count else 0.0) for _, mean, count in runs
        ]
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
            with self.model.active():
                weight = torch.full_like(mean, count / total)
                slopes = torch.autograd.grad(mean, leaves, weight, create_graph=True)
            self._graphs.append((leaves, slopes))
            flat = torch.cat([slope.detach() for slope in slopes])
            gradient = flat if gradient is None else gradient.add_(flat)
        assert gradient is not None
        self.gradient = self._masked(gradient)
        self.grad_norm = float(self.space.norm(self.gradient))

    def matvec(self, v: Tensor) -> Tensor:
        """Return the part of A v from that of v, (length,)."""
        self.prepare()
        pieces = self._masked(v).split(self.space.widths)
        result = torch.zeros_like(v)
        for leaves, slopes in self._graphs:
            with self.model.active():
                found = torch.autograd.grad(slopes, leaves, pieces, retain_graph=True)
            result.add_(torch.cat(found))
        return self._masked(result)

    def _masked(self, v: Tensor) -> Tensor:
        return v if self.keep is None else v * self.keep

    def release(self) -> None:
        """Free what is kept; the next product makes it again."""
        self._graphs.clear()

    def with_dtype(self, dtype: torch.dtype) -> ShardedHessian:
        """Return the same operator evaluated in `dtype`."""
        return ShardedHessian(
            self.point.with_dtype(dtype),
            self.shards,
            self.parts,
            self.loss_function,
            self.batches,
            spare=self.spare,
            keep=self.keep,
        )
