"""Quantizers times bits, weights and models that the tests of this room share."""

from __future__ import annotations

import torch

from spectra.quant import get_quantizer, quantizer_names

CASES = [(name, bits) for name in quantizer_names() for bits in get_quantizer(name).supported_bits]
SYMMETRIC = ("rtn", "llm-qat")  # 2^b − 1 levels: the lowest code is not used
LEARNED = [(name, bits) for name, bits in CASES if get_quantizer(name).learns_scale]
FLOATS = {"hif8": 253, "fp8_e4m3": 253, "fp8_e5m2": 247}  # finite values; one scale a tensor
UNMASKED = ("rtn", "bitnet", *FLOATS)  # their gradient passes everywhere
EXAMPLE = [-1.0, -0.6, -0.2, 0.1, 0.4, 0.9]


def example():
    return torch.tensor([EXAMPLE], dtype=torch.float64)


def gaussian(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def worn_scale(quantizer, weight, bits, seed=1):
    """A scale as training may leave it: the top level at 0.3 to 0.9 of each row's largest."""
    generator = torch.Generator().manual_seed(seed)
    factor = 0.3 + 0.6 * torch.rand(weight.shape[0], 1, generator=generator)
    scale = weight.abs().amax(-1, keepdim=True) * factor.to(weight.dtype) / quantizer.grid(bits)[-1]
    return scale.expand(quantizer.scale_shape(*weight.shape)).clone()


def derivatives(quantizer, weight, scale, bits, g=None):
    """(Q, ∂L/∂W, ∂L/∂a) for ∂L/∂Q = g, ones by default."""
    w, a = weight.clone().requires_grad_(), scale.clone().requires_grad_()
    q = quantizer.quantize(w, a, bits)
    q.backward(torch.ones_like(q) if g is None else g)
    return q.detach(), w.grad, a.grad


def projector(quantizer, weight, scale, bits):
    """J, (n, n), of the estimator at `weight`: what it makes of every unit gradient."""
    mask = quantizer.mask(weight, scale, bits)
    units = torch.eye(weight.numel(), dtype=weight.dtype).reshape(-1, *weight.shape)
    return quantizer.project(units, mask).reshape(weight.numel(), -1)


def error_ratio(weight, quantized):
    return float((weight - quantized).detach().norm() / weight.detach().norm())
