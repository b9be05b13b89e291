"""A straight-through estimator whose derivatives of every order are those of a linear map.

Quantization has derivative zero almost everywhere. The estimator replaces it, in the weight x and
the scale a, by a linear map whose coefficients are read off at the current point:

    dŴ = M dx + κ d da,        M the 0/1 clip mask,  d = ∂Ŵ/∂a for a fixed code,  κ a constant,

so that with g = ∂L/∂Ŵ the gradients are M g and κ Σ d g. M and d are constants of the backward:
they are recomputed from detached values, and differentiating the gradients once more gives

    (x, x)  M H M        (a, x)  κ dᵀ H M        (a, a)  κ² dᵀ H d,        H = ∇²L at Ŵ,

a symmetric matrix. (Where the quantizer's grid lies in another basis, M stands for the projector
J = Rᵀ M R and d for Rᵀ d.) Functions that let autograd see the x/a inside d have the same gradients
and the same (x, x) block, but a further −κ M g / a in (a, x) and not in (x, a): no Hessian of
anything.
M and d are computed twice rather than kept: a kept d would cost four bytes for each weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from spectra.quant.quantizer import Quantizer


class StraightThrough(torch.autograd.Function):
    """`apply(x, scale, quantizer, bits)`: Ŵ, with the derivatives above."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: torch.Tensor, scale: torch.Tensor, quantizer: Quantizer, bits: float
    ) -> torch.Tensor:
        """Return Ŵ, the shape of `x`."""
        return quantizer.value(x, scale, bits)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what the coefficients are computed from."""
        del output
        x, scale, ctx.quantizer, ctx.bits = inputs
        ctx.save_for_backward(x, scale)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return M g and κ Σ d g."""
        (g,) = grads
        x, scale = (tensor.detach() for tensor in ctx.saved_tensors)
        quantizer, bits = ctx.quantizer, ctx.bits
        grad_x = grad_scale = None
        if ctx.needs_input_grad[0]:
            grad_x = quantizer.project(g, quantizer.mask(x, scale, bits))
        if ctx.needs_input_grad[1] and quantizer.learns_scale:
            grad_scale = quantizer.scale_gradient(x, scale, bits, g)
        return grad_x, grad_scale, None, None


class Replace(torch.autograd.Function):
    """`apply(x, value)`: the constant `value`, with derivative 1 in x, of every order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return `value`."""
        del x
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient as it is."""
        del ctx
        return grads[0], None
