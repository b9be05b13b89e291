"""Quantized twins of the small models, and Hessians of them by plain double backward."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectra.quant import convert, get_quantizer, prepare, quant_layers, spec
from tests.curvature.models import reference_copy, token_loss

BITS = (1, 1.58, 2, 3, 4)
CASES = [
    (name, bits)
    for name in ("paretoq", "lsq", "rtn", "quest", "bitnet", "llm-qat")
    for bits in BITS
    if bits in get_quantizer(name).supported_bits
]


def quantized(build, name="paretoq", bits=2, *, shrink=0.6, a_bits=16, kv_bits=16, **options):
    """A float64 model with quantizers, learned scales shrunk so that weights are clipped.

    Where scales follow the weights, these are made such that something is masked.
    """
    model = reference_copy(build(**options))
    prepare(model, spec(name, w_bits=bits, a_bits=a_bits, kv_bits=kv_bits))
    for layer in quant_layers(model).values():
        rows = layer.weight.data.T if layer.transposed else layer.weight.data
        if name == "quest":  # one large coordinate in Hadamard space
            rows[::2] += 8 * layer.quantizer.unrotate(torch.eye(1, rows.shape[1]).double())
        if name == "llm-qat":
            rows *= 2.5
        if layer.scale is not None:
            layer.scale.data.mul_(shrink)
    return model


def plain(model):
    """The model with Q(W) in plain layers; the original keeps its quantizers."""
    twin = copy.deepcopy(model)
    convert(twin)
    return twin


def flat_mask(model, names):
    """(n,) float64, 0 where a named parameter is clipped."""
    layers = {f"{name}.weight": layer for name, layer in quant_layers(model).items()}
    parameters = dict(model.named_parameters())
    pieces = [
        layers[n].mask() if n in layers else torch.ones_like(parameters[n], dtype=torch.bool)
        for n in names
    ]
    return torch.cat([piece.reshape(-1) for piece in pieces]).double()


def projector(model, names):
    """J, (n, n) float64: block diagonal, each block what the layer makes of unit gradients."""
    layers = {f"{name}.weight": layer for name, layer in quant_layers(model).items()}
    parameters, blocks = dict(model.named_parameters()), []
    for name in names:
        size, layer = parameters[name].numel(), layers.get(name)
        units = torch.eye(size, dtype=torch.float64)
        if layer is not None:
            units = units.reshape(size, *parameters[name].shape)
            to, back = layer.rotation() or (lambda v: v, lambda v: v)
            units = back(layer.mask() * to(units)).reshape(size, size)
        blocks.append(units)
    return torch.block_diag(*blocks)


def through_the_estimator(model, names, batches, loss=token_loss):
    """Hessian (n, n) in the latent weights by double backward, nothing bypassed."""
    parameters = dict(model.named_parameters())
    leaves = [parameters[name].detach().clone().requires_grad_() for name in names]
    with sdpa_kernel(SDPBackend.MATH):
        value = loss(model, dict(zip(names, leaves, strict=True)), batches)
        grads = torch.autograd.grad(value, leaves, create_graph=True)
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        eye = torch.eye(len(flat), dtype=flat.dtype)
        rows = torch.autograd.grad(
            flat, leaves, eye, is_grads_batched=True, allow_unused=True, materialize_grads=True
        )
    return torch.cat([row.reshape(len(flat), -1) for row in rows], dim=1)


class OwnSign(nn.Module):
    """A QAT layer of a user's own: no linear layer by class, one scale, clipped beyond ±2a."""

    def __init__(self, linear):
        super().__init__()
        self.weight = linear.weight
        self.step = nn.Parameter(linear.weight.detach().abs().mean())
        self._plain = False

    def quantized_weight(self):
        return self.step * torch.where(self.weight > 0, 1.0, -1.0).to(self.weight.dtype)

    def mask(self):
        return self.weight.abs() <= 2 * self.step

    @contextmanager
    def bypassed(self, what):
        assert what in ("weights", "all")
        before, self._plain = self._plain, True
        try:
            yield
        finally:
            self._plain = before

    def forward(self, x):
        if self._plain:
            return x @ self.weight.T
        passed = torch.where(self.mask(), self.weight, self.weight.detach())
        return x @ (passed + (self.quantized_weight() - passed).detach()).T


def own_layers(model):
    """Put `OwnSign` in the place of every linear layer of the blocks."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            model.set_submodule(name, OwnSign(module))
    return model
