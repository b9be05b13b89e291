"""What a surface is not defined for, with the reason in the message."""

from __future__ import annotations

import pytest
import torch

from spectra.curvature import hessian
from spectra.errors import UsageError
from spectra.quant import quant_layers, reset_
from tests.curvature.models import batch, llama, token_loss
from tests.curvature.quantized import OwnSign, own_layers, quantized

DATA = [batch(2, 6), batch(1, 7, seed=1, masked=0.3)]


@pytest.mark.parametrize("params", ["*.scale", "*scale*", "linear,*.scale", "*q_proj.*[te]"])
def test_step_sizes_are_refused_with_the_reason(params):
    with pytest.raises(UsageError, match=r"together have no Hessian .* select weights alone"):
        hessian(quantized(llama), DATA, params=params)


@pytest.mark.parametrize("surface", ["ste", "quantized"])
def test_quantized_surfaces_of_a_float_model_are_refused(surface):
    with pytest.raises(UsageError, match="needs quantized weights, and this checkpoint has no"):
        hessian(llama(), DATA, surface=surface)
    with pytest.raises(UsageError, match="is not known; pass latent, ste or quantized"):
        hessian(quantized(llama), DATA, surface="sta")


def test_a_model_with_every_weight_clipped_is_refused():
    model = quantized(llama)
    for layer in quant_layers(model).values():
        layer.scale.data.fill_(1e-4)
    with pytest.raises(UsageError, match="all 120 selected weights are clipped"):
        hessian(model, DATA)
    assert hessian(model, DATA, surface="quantized").dim == 120


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_penalties_out_of_range_are_refused(value):
    with pytest.raises(UsageError, match="is no weight of a penalty"):
        hessian(quantized(llama), DATA, proximal=value)


def test_a_penalty_on_the_quantized_surface_or_a_float_model_is_refused():
    with pytest.raises(UsageError, match="differentiates in Q"):
        hessian(quantized(llama), DATA, proximal=0.1, surface="quantized")
    with pytest.raises(UsageError, match="selects no quantized weight"):
        hessian(llama(), DATA, proximal=0.1)


def test_a_quantized_weight_that_is_used_elsewhere_is_refused():
    model = llama(tied=True)
    model.lm_head = OwnSign(model.lm_head)
    with pytest.raises(UsageError, match="would need several values"):
        hessian(model, DATA, params="embedding", loss=model_loss)
    assert hessian(model, DATA, params="embedding", loss=model_loss, surface="latent").dim == 44


def test_wrong_shapes_of_layers_of_one_s_own_are_refused():
    model = own_layers(llama())
    next(m for m in model.modules() if isinstance(m, OwnSign)).mask = lambda: torch.ones(3)
    with pytest.raises(UsageError, match=r"mask\(\) of model.layers.0.self_attn.q_proj has shape"):
        hessian(model, DATA)


def test_weights_changed_under_an_operator_are_noticed():
    model = quantized(llama)
    family = hessian(model, DATA, graph="recompute")
    v = torch.ones(family.dim, dtype=torch.float64)
    family.matvec(v)
    reset_(model, 0.4)
    with pytest.raises(UsageError, match="changed in place after this operator was made"):
        family.matvec(v)
    hessian(model, DATA).matvec(v)


def model_loss(model, one):
    return token_loss(model, {}, [one])
