"""Surfaces of models in 8-bit floats with delayed scaling, against dense Hessians."""

from __future__ import annotations

import pytest
import torch

from spectra.curvature import ggn, hessian, run_checks
from spectra.quant import advance_histories, prepare, quant_layers, spec
from tests.curvature.models import (
    batch,
    dense,
    gpt2,
    llama,
    operator_matrix,
    reference_copy,
    relative_error,
)
from tests.curvature.quantized import plain, through_the_estimator

DATA = [batch(2, 6), batch(1, 7, seed=1, masked=0.3)]
NAMES = ("hif8", "fp8_e4m3")


def delayed(build, name, *, a_bits=16, g_bits=16, **options):
    """A float64 model whose windows are from other inputs than those of DATA."""
    model = reference_copy(build())
    prepare(model, spec(name, w_bits=8, a_bits=a_bits, g_bits=g_bits, **options))
    model.train()
    model(batch(1, 3, seed=9).input_ids)
    advance_histories(model)
    for layer in quant_layers(model).values():
        layer.scaling.weights.amax[0] *= 0.83  # a window that underestimates
    return model.eval()


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("name", NAMES)
def test_ste_is_the_hessian_at_the_quantized_weights(build, name):
    model = delayed(build, name)
    family = hessian(model, DATA)
    names = family.selection.names
    truth = dense(plain(model), names, DATA)[2]
    found = operator_matrix(family)
    assert family.surface == "ste"
    assert family.dim_unmasked == family.dim
    assert float((found - truth).abs().max()) < 1e-8
    assert float((found - through_the_estimator(model, names, DATA)).abs().max()) < 1e-8
    assert relative_error(operator_matrix(hessian(model, DATA, surface="quantized")), truth) < 1e-10
    latent = dense(reference_copy(build()), names, DATA)[2]
    assert relative_error(operator_matrix(hessian(model, DATA, surface="latent")), latent) < 1e-10
    assert relative_error(latent, truth) > 1e-3


@pytest.mark.parametrize("surface", ["ste", "quantized"])
@pytest.mark.parametrize("name", NAMES)
def test_with_activations_it_is_double_backward_through_their_estimator(name, surface):
    model = delayed(llama, name, a_bits=8, g_bits=8)
    family = hessian(model, DATA, surface=surface)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    found = operator_matrix(family)
    truth = through_the_estimator(model, family.selection.names, DATA)
    assert float((found - truth).abs().max()) < 1e-8
    # Activations change the surface, and neither products nor checks write histories.
    weights_only = dense(plain(delayed(llama, name)), family.selection.names, DATA)[2]
    assert relative_error(found, weights_only) > 1e-3
    run_checks(family)
    after = model.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in before)


def test_latent_leaves_activations_alone():
    model = delayed(llama, "hif8", a_bits=8)
    family = hessian(model, DATA, surface="latent")
    truth = dense(reference_copy(llama()), family.selection.names, DATA)[2]
    assert relative_error(operator_matrix(family), truth) < 1e-10


def test_gauss_newton_is_at_the_same_point():
    model = delayed(llama, "hif8")
    found = operator_matrix(ggn(model, DATA))
    assert relative_error(found, operator_matrix(ggn(plain(model), DATA))) < 1e-10


def test_layers_left_out_are_evaluated_as_they_are():
    model = delayed(llama, "hif8", only="*mlp*")
    assert len(quant_layers(model)) == 3
    family = hessian(model, DATA)
    truth = dense(plain(model), family.selection.names, DATA)[2]
    assert relative_error(operator_matrix(family), truth) < 1e-10
