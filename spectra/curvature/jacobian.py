"""The two halves of a Gauss-Newton product: Jacobians by autograd, and ∇² of a loss in its output.

J v comes from the transpose: s(u) = Jᵀu is linear in u, so J v = ∂⟨s(u), v⟩/∂u. The graphs of z and
of s(u) are kept, and a product is one backward through each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from spectra.curvature import cross_entropy
from spectra.curvature.failures import refuse_truncated
from spectra.curvature.graphs import Blocks
from spectra.curvature.loss import Rows, SplitLoss, mean_and_count
from spectra.curvature.softmax_derivatives import cotangents_alone

Tensor = torch.Tensor
# (tangent of z or None, tangents of the leaves) -> (cotangent of z, further blocks by leaf index)
OutputCurvature = Callable[
    [Tensor | None, Sequence[Tensor]], tuple[Tensor | None, dict[int, Tensor]]
]


class Jacobian:
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
        """Return J v, None where z does not depend on the leaves."""
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
        """Return Jᵀ c, a block for each leaf."""
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


def softmax_curvature(
    rows: Rows, memory: cross_entropy.Memory, leaves: tuple[Tensor, ...]
) -> OutputCurvature:
    """Return the curvature of the token-mean cross-entropy at `rows`."""
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


def autograd_curvature(z: Tensor, loss: SplitLoss, batch: Any) -> OutputCurvature:
    """Return the curvature of a caller's loss at the output `z`."""
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
