"""Gauss-Newton (GGN) operator G = Jᵀ H_out J of a loss ℓ(z(θ)) split at the network's output z.

H_out = ∇²_z ℓ, J = ∂z/∂θ. The Hessian is G plus Σ_i (∂ℓ/∂z_i) ∇²z_i; for a convex ℓ, G is positive
semidefinite, so whatever is negative in the Hessian is in that second sum (Schraudolph, Fast
curvature matrix-vector products, 2002).

J v comes from the transpose: s(u) = Jᵀu is linear in u, so J v = ∂⟨s(u), v⟩/∂u. The graphs of z and
of s(u) are kept, and a product is one backward through each: in units of a gradient 2/3 for J v and
2/3 for Jᵀ c, together 4/3.

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

from spectra.curvature import cross_entropy
from spectra.curvature.failures import refuse_truncated
from spectra.curvature.family import Curvature, family
from spectra.curvature.loss import LanguageModelLoss, Loss, Rows, SplitLoss, mean_and_count
from spectra.curvature.operator import BatchGraph, Blocks, CurvatureOperator, GraphPolicy
from spectra.curvature.point import Point
from spectra.curvature.softmax_attention import cotangents_alone
from spectra.errors import UsageError

Tensor = torch.Tensor
# (tangent of z or None, tangents of the leaves) -> (cotangent of z, further blocks by leaf index)
OutputCurvature = Callable[
    [Tensor | None, Sequence[Tensor]], tuple[Tensor | None, dict[int, Tensor]]
]


class _Jacobian:
    """Products with J and Jᵀ on kept graphs."""

    def __init__(self, z: Tensor, leaves: tuple[Tensor, ...]) -> None:
        self.z, self.leaves = z, leaves
        self.transposed: Blocks = [None] * len(leaves)
        if z.requires_grad:
            self.u = torch.zeros_like(z, requires_grad=True)
            self.transposed = torch.autograd.grad(
                z, leaves, self.u, create_graph=True, allow_unused=True
            )
            refuse_truncated(self.transposed, "the Gauss-Newton matrix")

    def forward(self, blocks: Sequence[Tensor], *, batched: bool) -> Tensor | None:
        active = [
            (s, block)
            for s, block in zip(self.transposed, blocks, strict=True)
            if s is not None and s.requires_grad
        ]
        if not active:
            return None
        outputs, tangents = zip(*active, strict=True)
        with cotangents_alone():
            return torch.autograd.grad(
                outputs, self.u, tangents, retain_graph=True, is_grads_batched=batched
            )[0]

    def backward(self, cotangent: Tensor | None, *, batched: bool) -> list[Tensor | None]:
        if cotangent is None or not self.z.requires_grad:
            return [None] * len(self.leaves)
        return list(
            torch.autograd.grad(
                self.z,
                self.leaves,
                cotangent,
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=batched,
            )
        )


class _GGNGraph:
    def __init__(self, point: Point, loss: Loss, batch: Any, *, second_order: bool) -> None:
        self.leaves = point.leaves()
        self.jacobian: _Jacobian | None = None
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
            self.jacobian = _Jacobian(z, self.leaves)
            if isinstance(loss, LanguageModelLoss):
                self.curvature = _softmax_curvature(rows, loss.memory, self.leaves)
            else:
                self.curvature = _autograd_curvature(z, loss, batch)
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


def _softmax_curvature(
    rows: Rows, memory: cross_entropy.Memory, leaves: tuple[Tensor, ...]
) -> OutputCurvature:
    h, weight, bias = rows.values.detach(), rows.weight, rows.bias
    if weight is None:
        wide = h if h.dtype == torch.float64 else h.to(torch.float32)
        P = torch.softmax(wide, 1)

        def of_logits(
            tangent: Tensor | None, _: Sequence[Tensor]
        ) -> tuple[Tensor | None, dict[int, Tensor]]:
            if tangent is None:
                return None, {}
            Z = tangent.to(P.dtype)
            D = P * (Z - (P * Z).sum(-1, keepdim=True)) / len(P)
            return D.to(h.dtype), {}

        return of_logits
    own = {id(leaf): index for index, leaf in enumerate(leaves)}
    at_weight, at_bias = own.get(id(weight)), own.get(id(bias))
    frozen = weight.detach(), None if bias is None else bias.detach()
    with torch.no_grad():
        probabilities = cross_entropy.Probabilities(h, *frozen, rows.targets, memory)

    def of_head(
        tangent: Tensor | None, blocks: Sequence[Tensor]
    ) -> tuple[Tensor | None, dict[int, Tensor]]:
        tangents = (
            tangent,
            None if at_weight is None else blocks[at_weight],
            None if at_bias is None else blocks[at_bias],
        )
        with torch.no_grad():
            c, c_weight, c_bias = cross_entropy.gauss_newton_head(
                probabilities, h, *frozen, tangents
            )
        pairs = ((at_weight, c_weight), (at_bias, c_bias))
        return c, {i: block for i, block in pairs if i is not None and block is not None}

    return of_head


def _autograd_curvature(z: Tensor, loss: SplitLoss, batch: Any) -> OutputCurvature:
    inner = z.detach().requires_grad_()
    mean, _ = mean_and_count(loss.loss(inner, batch))
    (slope,) = torch.autograd.grad(mean, inner, create_graph=True)
    refuse_truncated([slope], "the loss of the output")

    def of_output(
        tangent: Tensor | None, _: Sequence[Tensor]
    ) -> tuple[Tensor | None, dict[int, Tensor]]:
        if tangent is None or not slope.requires_grad:
            return None, {}
        return torch.autograd.grad(slope, inner, tangent, retain_graph=True)[0], {}

    return of_output


class GGNOperator(CurvatureOperator):
    """Gauss-Newton matrix of the mean loss; 4/3 gradients a product with kept graphs."""

    kind = "GGN"

    def _build(self, batch: Any, *, second_order: bool) -> BatchGraph:
        return _GGNGraph(self.point, self.loss_function, batch, second_order=second_order)


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
    dtype: str | torch.dtype | None = None,
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
        dtype: As for `spectra.hessian`.
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
        dtype=dtype,
        proximal=proximal,
    )
