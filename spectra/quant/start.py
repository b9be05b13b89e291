"""The parameters of a quantizer that a layer begins with: given, or derived from its weights."""

from __future__ import annotations

import torch
from torch import nn

from spectra.errors import UsageError
from spectra.quant.quantizer import FULL_BITS
from spectra.quant.spec import QuantSpec


def first_scale(
    spec: QuantSpec,
    rows: torch.Tensor,
    given: torch.Tensor | None,
    name: str,
    *,
    trainable: bool,
) -> nn.Parameter | None:
    """Return the learned scale of a layer, None if its quantizer learns none.

    Args:
        spec: What the layer does.
        rows: Its weights, (out, in).
        given: Scales to begin with, of the quantizer's `scale_shape`; None derives them.
        name: What messages call the layer.
        trainable: Whether it requires a gradient.

    Raises:
        UsageError: If scales are given that have another shape, or that nothing learns.
    """
    quantizer = spec.build()
    if spec.w_bits == FULL_BITS or not quantizer.learns_scale:
        if given is not None:
            raise UsageError(
                f"{name} was given scales, but {spec.quantizer} at {spec.w_bits:g} bits learns "
                "none; leave them out."
            )
        return None
    if given is None:
        first = quantizer.initial_scale(rows, spec.w_bits)
    else:
        first = given.detach().to(rows.device, copy=True)
        first = first.to(torch.promote_types(first.dtype, torch.float32))
    wanted = quantizer.scale_shape(*rows.shape)
    if first.shape != wanted:
        what = "output row" if wanted[1] == 1 else "group of a row"
        raise UsageError(
            f"the scales of {name} have shape {tuple(first.shape)}; one for each {what} is needed: "
            f"{wanted}."
        )
    return nn.Parameter(first, requires_grad=trainable)


def first_zero(
    spec: QuantSpec,
    rows: torch.Tensor,
    scale: nn.Parameter | None,
    given: torch.Tensor | None,
    name: str,
) -> nn.Parameter | None:
    """Return the learned zero points that go with `scale`, None if there are none.

    Raises:
        UsageError: If those given have another shape than `scale`.
    """
    quantizer = spec.build()
    if scale is None or not quantizer.has_zero:
        return None
    if given is None:
        given = quantizer.initial_zero(rows, scale.detach(), spec.w_bits)
    zero = given.detach().to(scale.device, scale.dtype, copy=True)
    if zero.shape != scale.shape:
        raise UsageError(
            f"the zero points of {name} have shape {tuple(zero.shape)}; one for each scale is "
            f"needed: {tuple(scale.shape)}."
        )
    return nn.Parameter(zero, requires_grad=scale.requires_grad)
