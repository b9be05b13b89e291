"""Gauss-Newton (GGN) operator G = Jᵀ H_out J of a loss ℓ(z(θ)) split at the network's output z.

H_out = ∇²_z ℓ, J = ∂z/∂θ. The Hessian is G plus Σ_i (∂ℓ/∂z_i) ∇²z_i; for a convex ℓ, G is positive
semidefinite, so whatever is negative in the Hessian is in that second sum (Schraudolph, Fast
curvature matrix-vector products, 2002).

J v comes from the transpose (`jacobian`). The graphs of z and of Jᵀu are kept, and a product is one
backward through each: in units of a gradient 2/3 for J v and 2/3 for Jᵀ c, together 4/3.

A causal language model is split at the logits, H_out = (diag P − P Pᵀ)/N for each position that
counts. The head is linear, so the graph ends at the last hidden states and the head is applied in
closed form and in chunks (`cross_entropy.gauss_newton_head`), with its own weight as one more
tangent where it is selected. Any other module takes `output(model, batch)` and
`loss(output, batch)`, whose second derivative comes from autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from spectra.curvature.blockwise import BlockwiseGraph
from spectra.curvature.cotangents import Maybe, Totals
from spectra.curvature.family import Curvature, family
from spectra.curvature.jacobian import (
    Jacobian,
    OutputCurvature,
    autograd_curvature,
    softmax_curvature,
)
from spectra.curvature.loss import LanguageModelLoss, Loss, SplitLoss, mean_and_count
from spectra.curvature.operator import BatchGraph, Blocks, CurvatureOperator, GraphPolicy
from spectra.curvature.point import Point
from spectra.curvature.stages import NotAChainError, Skeleton, blocks_of, standing_in
from spectra.errors import UsageError

Tensor = torch.Tensor


class _GGNGraph:
    def __init__(self, point: Point, loss: Loss, batch: Any, *, second_order: bool) -> None:
        self.leaves = point.leaves()
        self.jacobian: Jacobian | None = None
        self.curvature: OutputCurvature
        self.loss, self.count, self.gradients = point.call(
            self._first_order, self.leaves, loss, batch, second_order
        )

    def _first_order(
        self, model: nn.Module, loss: Loss, batch: Any, second_order: bool
    ) -> tuple[float, float, Blocks]:
        if isinstance(loss, LanguageModelLoss):
            rows = loss.rows(model, batch)
            z, mean, count = rows.values, loss.of_rows(rows), float(len(rows.targets))
        else:
            assert isinstance(loss, SplitLoss)
            z = loss.output(model, batch)
            mean, count = mean_and_count(loss.loss(z, batch))
        gradients: Blocks = [None] * len(self.leaves)
        if mean.requires_grad:
            gradients = torch.autograd.grad(
                mean, self.leaves, retain_graph=second_order, allow_unused=True
            )
        if second_order:
            self.jacobian = Jacobian(z, self.leaves)
            if isinstance(loss, LanguageModelLoss):
                self.curvature = softmax_curvature(rows, loss.memory, self.leaves)
            else:
                self.curvature = autograd_curvature(z, loss, batch)
        return float(mean.detach()), count, gradients

    def gradient(self) -> Blocks:
        return self.gradients

    def product(self, blocks: Sequence[Tensor], *, batched: bool, last: bool) -> Blocks:
        del last  # the graphs go with the object
        assert self.jacobian is not None
        tangent = self.jacobian.forward(blocks, batched=batched)
        if batched:
            cotangent, further = self._curvature_of_each(tangent, blocks)
        else:
            cotangent, further = self.curvature(tangent, blocks)
        result = self.jacobian.backward(cotangent, batched=batched)
        for index, block in further.items():
            before = result[index]
            result[index] = block if before is None else before + block
        return result

    def _curvature_of_each(
        self, tangent: Tensor | None, blocks: Sequence[Tensor]
    ) -> tuple[Tensor | None, dict[int, Tensor]]:
        each = [
            self.curvature(None if tangent is None else tangent[k], [b[k] for b in blocks])
            for k in range(len(blocks[0]))
        ]
        cotangents = [cotangent for cotangent, _ in each if cotangent is not None]
        further = {i: torch.stack([extra[i] for _, extra in each]) for i in each[0][1]}
        return (torch.stack(cotangents) if cotangents else None), further


class BlockwiseGGN(BlockwiseGraph):
    """The Gauss-Newton matrix, block by block."""

    needs_slopes = False

    def _head(
        self,
        model: nn.Module,
        tangents: list[Maybe],
        vectors: list[Sequence[Tensor]],
        totals: list[Totals],
    ) -> list[Maybe]:
        assert isinstance(self.loss_function, LanguageModelLoss)
        loss, skeleton = self.loss_function, Skeleton(self.stages)
        with standing_in(blocks_of(model), skeleton):
            rows = loss.rows(model, self.batch)
        jacobian = Jacobian(rows.values, (skeleton.end, *self.leaves))
        curvature = softmax_curvature(rows, loss.memory, self.leaves)
        result: list[Maybe] = []
        for tangent, vector, total in zip(tangents, vectors, totals, strict=True):
            into = torch.zeros_like(skeleton.end) if tangent is None else tangent
            out, further = curvature(jacobian.forward([into, *vector], batched=False), vector)
            back = jacobian.backward(out, batched=False)
            result.append(back[0])
            total.add(back[1:])
            total.add([further.get(index) for index in range(len(self.leaves))])
        return result


class GGNOperator(CurvatureOperator):
    """Gauss-Newton matrix of the mean loss; 4/3 gradients a product with kept graphs."""

    kind = "GGN"

    def _build(self, batch: Any, *, second_order: bool) -> BatchGraph:
        return _GGNGraph(self.point, self.loss_function, batch, second_order=second_order)

    def _build_blocks(
        self, batch: Any, leaves: tuple[torch.Tensor, ...] | None = None
    ) -> BatchGraph:
        if not isinstance(self.loss_function, LanguageModelLoss):
            raise NotAChainError("a loss split by callables is evaluated whole.")
        return BlockwiseGGN(self.point, self.loss_function, batch, leaves)


def ggn(
    model: Any,
    data: Any,
    *,
    params: str | Sequence[str] = "linear",
    surface: str | None = None,
    reduce: str = "per_batch",
    output: Callable[[nn.Module, Any], Tensor] | None = None,
    loss: Callable[[Tensor, Any], Any] | None = None,
    graph: GraphPolicy = "auto",
    micro_batch: int | None = None,
    dtype: str | torch.dtype | None = None,
    matmul_precision: str = "highest",
    proximal: float = 0.0,
) -> Curvature:
    """Return the Gauss-Newton matrix of a model's loss on batches of data.

    Args:
        model: As for `spectra.hessian`.
        data: As for `spectra.hessian`.
        params: As for `spectra.hessian`.
        surface: As for `spectra.hessian`.
        reduce: As for `spectra.hessian`.
        output: `output(model, batch)` -> the tensor at which the loss is split; None for a causal
            language model, split at its logits.
        loss: `loss(output, batch)` -> scalar mean, or (sum, count); given exactly when `output` is.
        graph: As for `spectra.hessian`.
        micro_batch: As for `spectra.hessian`.
        dtype: As for `spectra.hessian`.
        matmul_precision: As for `spectra.hessian`.
        proximal: As for `spectra.hessian`.

    Returns:
        A family of operators, itself the operator of the mean over all batches.

    Raises:
        UsageError: If an argument, or the model's kind or placement, does not fit.
        DataError: If a batch does not fit the model.
    """
    if (output is None) != (loss is None):
        given = "output" if loss is None else "loss"
        raise UsageError(
            f"only {given} was given; a Gauss-Newton matrix needs output=callable(model, batch) "
            "and loss=callable(output, batch) together, or neither for a causal language model."
        )
    split = None if output is None or loss is None else SplitLoss(output, loss)
    return family(
        GGNOperator,
        model,
        data,
        params=params,
        surface=surface,
        reduce=reduce,
        loss=split,
        graph=graph,
        micro_batch=micro_batch,
        dtype=dtype,
        matmul_precision=matmul_precision,
        proximal=proximal,
    )
