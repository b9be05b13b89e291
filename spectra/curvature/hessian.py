"""Hessian of a loss, H = ∇²L, by double backward on a kept first-order graph.

With g(θ) = ∇L(θ) recorded as a graph, H v = ∂⟨g, v⟩/∂θ is one more backward through that graph
(Pearlmutter, Fast exact multiplication by the Hessian, 1994). Cost, in gradients (a forward and a
backward: 3 matrix products a layer): forward 1/3, first backward 2/3, second backward 2. Everything
recomputed makes 3.0; keeping the first two makes 2.0, the floor for an exact product with all
weights active: each of the three products of a layer has two factors to differentiate. Keeping them
is legal here because H is one fixed matrix: neither the parameters nor the batch change between the
products of a Lanczos run, and nothing in the forward is random (checked, see `checks`).

A parameter that the loss does not depend on has a zero block; so has one on which it depends
linearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from spectra.curvature.blockwise import BlockwiseGraph
from spectra.curvature.cotangents import Maybe, Tensor, Totals, pull_second
from spectra.curvature.failures import refuse_truncated
from spectra.curvature.family import Curvature, family
from spectra.curvature.loss import Loss, LossFunction
from spectra.curvature.operator import BatchGraph, Blocks, CurvatureOperator, GraphPolicy
from spectra.curvature.point import Point


class _HessianGraph:
    def __init__(self, point: Point, loss: Loss, batch: Any, *, second_order: bool) -> None:
        self.leaves = point.leaves()
        self.loss, self.count, self.gradients = point.call(
            self._first_order, self.leaves, loss, batch, second_order
        )

    def _first_order(
        self, model: nn.Module, loss: Loss, batch: Any, second_order: bool
    ) -> tuple[float, float, Blocks]:
        mean, count = loss(model, batch)
        gradients: Blocks = [None] * len(self.leaves)
        if mean.requires_grad:
            gradients = torch.autograd.grad(
                mean, self.leaves, create_graph=second_order, allow_unused=True
            )
        if second_order:
            refuse_truncated(gradients, "the Hessian")
        return float(mean.detach()), count, gradients

    def gradient(self) -> Blocks:
        return [None if block is None else block.detach() for block in self.gradients]

    def product(self, blocks: Sequence[torch.Tensor], *, batched: bool, last: bool) -> Blocks:
        return pull_second(self.gradients, blocks, self.leaves, last=last, batched=batched)


class BlockwiseHessian(BlockwiseGraph):
    """The Hessian, block by block."""

    needs_slopes = True

    def _head(
        self,
        model: nn.Module,
        tangents: list[Maybe],
        vectors: list[Sequence[Tensor]],
        totals: list[Totals],
    ) -> list[Maybe]:
        mean, _, end = self._ends(model)
        inputs = (end, *self.leaves)
        first = torch.autograd.grad(mean, inputs, create_graph=True, allow_unused=True)
        refuse_truncated(first, "the head")
        result: list[Maybe] = []
        for k, (tangent, vector) in enumerate(zip(tangents, vectors, strict=True)):
            last = k + 1 == len(vectors)
            found = pull_second(first, (tangent, *vector), inputs, last=last)
            totals[k].add(found[1:])
            result.append(found[0])
        return result


class HessianOperator(CurvatureOperator):
    """Hessian of the mean loss over a set of batches; 2.0 gradients a product with kept graphs."""

    kind = "Hessian"

    def _build(self, batch: Any, *, second_order: bool) -> BatchGraph:
        return _HessianGraph(self.point, self.loss_function, batch, second_order=second_order)

    def _build_blocks(
        self, batch: Any, leaves: tuple[torch.Tensor, ...] | None = None
    ) -> BatchGraph:
        return BlockwiseHessian(self.point, self.loss_function, batch, leaves)


def hessian(
    model: Any,
    data: Any,
    *,
    params: str | Sequence[str] = "linear",
    surface: str | None = None,
    reduce: str = "per_batch",
    loss: LossFunction | None = None,
    graph: GraphPolicy = "auto",
    micro_batch: int | None = None,
    dtype: str | torch.dtype | None = None,
    matmul_precision: str = "highest",
    proximal: float = 0.0,
) -> Curvature:
    """Return the Hessian of a model's loss on batches of data.

    Args:
        model: A checkpoint (anything with `.model`) or any nn.Module; it is left as it is.
        data: Batches: `spectra.token_batches(...)`, a list of batches, or one batch. For a causal
            language model: objects or mappings with `input_ids` and unshifted `labels` (−100 does
            not count), or token ids (B, T). With `loss`, whatever it takes; tensors in lists,
            tuples and mappings are moved to the model's device and dtype.
        params: "linear", "embedding", "all", or globs; see `spectra.curvature.params`.
        surface: "ste", "quantized" or "latent"; None for ste where the model has fake-quantized
            layers, else latent; see `spectra.curvature.surface`.
        reduce: "per_batch" (one operator a batch) or "mean" (one over all); what
            `num_operators()` and `operators()` follow.
        loss: `loss(model, batch)` -> scalar mean, or (sum, count); None for the next-token loss.
        graph: "keep", "recompute", "blocks", or "auto"; see `spectra.curvature.graphs`.
        micro_batch: Rows (sequences) of a batch that share a graph; None for all. The result is the
            same up to rounding.
        dtype: dtype of evaluation and vectors; None for the parameters' own.
        matmul_precision: Of float32 matrix products on devices that have a faster one: "highest"
            (float32), "high" (TF32), "medium" (bfloat16); see torch.set_float32_matmul_precision.
        proximal: γ of a penalty γ/2 ‖W − Q(W)‖², Q(W) constant: γ more on quantized coordinates.

    Returns:
        A family of operators, itself the operator of the mean over all batches.

    Raises:
        UsageError: If an argument, or the model's kind or placement, does not fit.
        DataError: If a batch does not fit the model.
    """
    return family(
        HessianOperator,
        model,
        data,
        params=params,
        surface=surface,
        reduce=reduce,
        loss=loss,
        graph=graph,
        micro_batch=micro_batch,
        dtype=dtype,
        matmul_precision=matmul_precision,
        proximal=proximal,
    )
