"""Products that rebuild one transformer block at a time: the memory of one block's graph.

The loss is a chain x_0 -> x_1 -> ... -> x_L -> L(x_L) with x_l = f_l(x_{l-1}, θ) (see `stages`).
With λ_l = ∂L/∂x_l and g_l = (∂f_l/∂θ)ᵀ λ_l, the gradient is Σ_l g_l plus the parts of embedding and
head, and a product with v differentiates S = ⟨g, v⟩. One block's backward maps (x_{l-1}, λ_l, θ) to
(λ_{l-1}, g_l); differentiating all of these in turn gives two sweeps:

    up    l = 1..L   block l and its backward as a graph; with cotangents μ_{l-1} on λ_{l-1} and v
                     on g_l: μ_l = ∂/∂λ_l (the tangent of x_l along v), c_{l-1} = ∂/∂x_{l-1}, and
                     a part of the result, ∂/∂θ
    head             the same for the loss: μ_L gives ν_L = ∂/∂x_L
    down  l = L..1   block l alone: ν_{l-1} = c_{l-1} + (∂f_l/∂x)ᵀ ν_l, and (∂f_l/∂θ)ᵀ ν_l is the
                     rest of the result

Kept between products are x_l and λ_l, which never change; held within one are c_l as well, and one
block's graph. Cost, in gradients: up 1 for graph and first backward and 2 for the second, down 1:
4.0 a product (a kept graph 2.0, rebuilt whole 3.0). k vectors at once share the rebuilding: 8/3 +
4/(3k) each.

The Gauss-Newton product needs no λ_l: up are the tangents alone, down the vector-Jacobian products.
2 2/3 a product (kept 4/3).

torch.utils.checkpoint does not do this. It may be differentiated twice, but the graph of the first
backward then holds what each block recomputed, all blocks together: as much as a kept graph (12
residual blocks of width 128, 256 rows, torch 2.13: 59.4 MB with it and without).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from spectra.curvature.cotangents import Maybe, Tensor, Totals, plus, pull, pull_second, stacked
from spectra.curvature.failures import refuse_truncated
from spectra.curvature.graphs import Blocks
from spectra.curvature.loss import Loss
from spectra.curvature.point import Point
from spectra.curvature.stages import (
    NotAChainError,
    ReachedError,
    Recorder,
    Skeleton,
    Stage,
    blocks_of,
    standing_in,
    stop_at,
)
from spectra.errors import UsageError


class BlockwiseGraph(ABC):
    """One batch's loss and linear map, with boundaries kept instead of graphs."""

    def __init__(
        self, point: Point, loss: Loss, batch: Any, leaves: tuple[Tensor, ...] | None = None
    ) -> None:
        """Run the batch once, forward.

        Args:
            point: Where it is evaluated.
            loss: What is differentiated.
            batch: On what.
            leaves: In the place of the selected parameters; None for `point.leaves()`.

        Raises:
            NotAChainError: If the model is no chain of blocks.
        """
        self.point, self.loss_function, self.batch = point, loss, batch
        self.leaves = point.leaves() if leaves is None else leaves
        self._taken = self._versions()
        self._checked = False
        self.stages: list[Stage] = []
        self.loss, self.count = point.call(self._record, self.leaves)
        self._start_slope: Maybe = None  # λ_0, where x_0 moves
        self._slopes_known = False

    # Preparation.

    def _record(self, model: nn.Module) -> tuple[float, float]:
        recorder, blocks = Recorder(), blocks_of(model)
        if not blocks:
            raise NotAChainError("the model has no known transformer blocks.")
        with standing_in(blocks, recorder):
            mean, count = self.loss_function(model, self.batch)
        self.stages = recorder.stages
        if not self.stages:
            raise NotAChainError(
                "no selected parameter is inside a transformer block or before it."
            )
        ends = [stage.out for stage in self.stages]
        start = recorder.start
        assert start is not None
        ends += [start] if start.requires_grad else []
        slopes = torch.autograd.grad(mean, ends, allow_unused=True)
        last = len(self.stages) - 1
        if any(s is not None for k, s in enumerate(slopes) if k != last) or slopes[last] is None:
            raise NotAChainError("the loss depends on more than the last block's hidden state.")
        self.stages[-1].slope = slopes[last]
        for stage in self.stages:
            stage.out = stage.out.detach()
        return float(mean.detach()), count

    def gradient(self) -> Blocks:
        """Return the gradient, block by block from the last one; the slopes are kept."""
        self._refuse_changed()
        gradients: Blocks = self.point.call(self._gradient, self.leaves)
        self._slopes_known = True
        return gradients

    def _gradient(self, model: nn.Module) -> Blocks:
        mean, start, end = self._ends(model)
        total = Totals(len(self.leaves))
        found: Blocks = torch.autograd.grad(mean, (end, *self.leaves), allow_unused=True)
        slope = found[0]
        total.add(found[1:])
        for index in reversed(range(len(self.stages))):
            stage = self.stages[index]
            assert slope is not None
            stage.slope = slope
            slope = self._pull(stage, slope, total)
        self._start_slope = slope
        pull(start, None, self.leaves, slope, total, last=True)
        return total.values

    def _pull(self, stage: Stage, cotangent: Tensor, total: Totals) -> Maybe:
        """Add (∂f/∂θ)ᵀ cotangent to `total` and return (∂f/∂x)ᵀ cotangent."""
        x = stage.input()
        out = stage.run(x)
        return pull(out, x, self.leaves, cotangent, total, last=True)

    def _ends(self, model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean loss, x_0 and x_L, in the graphs of head and embedding alone."""
        skeleton = Skeleton(self.stages)
        with standing_in(blocks_of(model), skeleton):
            mean, _ = self.loss_function(model, self.batch)
        assert skeleton.start is not None
        return mean, skeleton.start, skeleton.end

    def _start(self, model: nn.Module) -> Tensor:
        """Return x_0 in the graph of the embedding."""
        try:
            with standing_in(blocks_of(model), stop_at(self.stages[0])):
                self.loss_function(model, self.batch)
        except ReachedError as reached:
            return reached.hidden
        raise AssertionError("the first block was not called")

    def _versions(self) -> list[int]:
        parameters = self.point.model.parameters()
        return [p._version for p in parameters if not p.is_inference()]

    def _refuse_changed(self) -> None:
        if self._versions() != self._taken:
            raise UsageError(
                "weights were changed in place under graph='blocks', whose hidden states belong to "
                "the weights as they were; make the operator anew, or release() it."
            )

    # Products.

    def product(self, blocks: Sequence[Tensor], *, batched: bool, last: bool) -> Blocks:
        """Return the product with a vector given in blocks; see `BatchGraph`."""
        del last
        self._refuse_changed()
        if not self._slopes_known and self.needs_slopes:
            self.gradient()
        count = len(blocks[0]) if batched else 1
        vectors = [[b[k] for b in blocks] for k in range(count)] if batched else [blocks]
        totals: list[Blocks] = self.point.call(self._product, self.leaves, vectors)
        if not batched:
            return totals[0]
        return [
            None if all(t is None for t in column) else stacked(column, vector)
            for column, vector in zip(zip(*totals, strict=True), blocks, strict=True)
        ]

    def _product(self, model: nn.Module, vectors: list[Sequence[Tensor]]) -> list[Blocks]:
        totals = [Totals(len(self.leaves)) for _ in vectors]
        along: list[list[Maybe]] = [[] for _ in vectors]  # c_0 .. c_{L-1} of every vector
        tangents: list[Maybe] = self._front(model, vectors, totals)
        for stage in self.stages:
            tangents = self._up(stage, tangents, vectors, totals, along)
        cotangents = self._head(model, tangents, vectors, totals)
        for stage in reversed(self.stages):
            cotangents = self._down(stage, cotangents, totals, along)
        if any(c is not None for c in cotangents):
            start = self._start(model)
            for k, (cotangent, total) in enumerate(zip(cotangents, totals, strict=True)):
                pull(start, None, self.leaves, cotangent, total, last=k == len(totals) - 1)
        return [total.values for total in totals]

    def _front(
        self, model: nn.Module, vectors: list[Sequence[Tensor]], totals: list[Totals]
    ) -> list[Maybe]:
        """Return the tangent of x_0 along each vector, None where x_0 does not move."""
        if not self.stages[0].moving:
            return [None] * len(vectors)
        start = self._start(model)
        slope = self._start_slope if self.needs_slopes else torch.zeros_like(start)
        assert slope is not None
        return self._tangents(start, None, slope, [None] * len(vectors), vectors, totals, None)

    def _up(
        self,
        stage: Stage,
        tangents: list[Maybe],
        vectors: list[Sequence[Tensor]],
        totals: list[Totals],
        along: list[list[Maybe]],
    ) -> list[Maybe]:
        x = stage.input()
        out = stage.run(x)
        slope = stage.slope if self.needs_slopes else torch.zeros_like(out)
        assert slope is not None
        before = x if stage.moving else None
        return self._tangents(out, before, slope, tangents, vectors, totals, along)

    def _tangents(
        self,
        out: Tensor,
        x: Maybe,
        slope: Tensor,
        tangents: list[Maybe],
        vectors: list[Sequence[Tensor]],
        totals: list[Totals],
        along: list[list[Maybe]] | None,
    ) -> list[Maybe]:
        """Return each tangent of `out`; under `needs_slopes` add what else the backward gives."""
        slope = slope.detach().requires_grad_()
        inputs = (x, *self.leaves) if x is not None else self.leaves
        backward = torch.autograd.grad(out, inputs, slope, create_graph=True, allow_unused=True)
        if not self._checked:
            refuse_truncated(backward, "a block")
            self._checked = True
        asked = (slope, *inputs) if self.needs_slopes else (slope,)
        result: list[Maybe] = []
        for k, (tangent, vector) in enumerate(zip(tangents, vectors, strict=True)):
            with_x = (tangent, *vector) if x is not None else vector
            found = pull_second(backward, with_x, asked, last=k + 1 == len(vectors))
            result.append(found[0])
            if self.needs_slopes:
                totals[k].add(found[-len(self.leaves) :])
            if along is not None:
                along[k].append(found[1] if self.needs_slopes and x is not None else None)
        return result

    def _down(
        self,
        stage: Stage,
        cotangents: list[Maybe],
        totals: list[Totals],
        along: list[list[Maybe]],
    ) -> list[Maybe]:
        x = stage.input()
        out = stage.run(x)
        before = x if stage.moving else None
        result = []
        for k, cotangent in enumerate(cotangents):
            last = k == len(cotangents) - 1
            pulled = pull(out, before, self.leaves, cotangent, totals[k], last=last)
            result.append(plus(pulled, along[k].pop()))
        return result

    # What a kind of curvature provides.

    needs_slopes: bool  # whether λ_l and the derivatives of λ_{l-1} and g_l are part of it

    @abstractmethod
    def _head(
        self,
        model: nn.Module,
        tangents: list[Maybe],
        vectors: list[Sequence[Tensor]],
        totals: list[Totals],
    ) -> list[Maybe]:
        """Return ν_L for each tangent of x_L, and add the head's own parts to `totals`."""
