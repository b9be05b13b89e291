"""ste, quantized and latent against dense Hessians of the converted and the unbypassed model."""

from __future__ import annotations

import pytest
import torch

from spectra.curvature import ggn, hessian, run_checks, structural_zeros
from spectra.errors import UsageError
from spectra.quant import prepare, quant_layers, reset_, spec
from tests.curvature.models import (
    batch,
    dense,
    gpt2,
    llama,
    operator_matrix,
    random_vectors,
    reference_copy,
    relative_error,
)
from tests.curvature.quantized import (
    BITS,
    CASES,
    flat_mask,
    own_layers,
    plain,
    projector,
    quantized,
    through_the_estimator,
)
from tests.quant.cases import UNMASKED

DATA = [batch(2, 6), batch(1, 7, seed=1, masked=0.3)]


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize(("name", "bits"), CASES)
def test_ste_is_the_masked_hessian_at_the_quantized_weights(build, name, bits):
    sizes = {"hidden": 8, "inner": 10} if build is llama else {"hidden": 8}
    model = quantized(
        build, name, bits, shrink=0.3 if name == "lsq" else 0.6, **sizes if name == "quest" else {}
    )
    family = hessian(model, DATA)
    assert family.surface == "ste"
    names = family.selection.names
    J = projector(model, names)
    found = operator_matrix(family)
    truth = J @ dense(plain(model), names, DATA)[2] @ J
    assert float((found - truth).abs().max()) < 1e-8
    assert float((found - through_the_estimator(model, names, DATA)).abs().max()) < 1e-8
    assert float(truth.abs().max()) > 1e-2
    assert family.dim_unmasked == int(flat_mask(model, names).sum())
    assert family.dim_unmasked == round(float(torch.trace(J)))
    if name not in UNMASKED:
        assert 0 < family.dim_unmasked < family.dim


@pytest.mark.parametrize("build", [llama, gpt2])
def test_quantized_has_no_mask_and_latent_no_quantizer(build):
    model = quantized(build, a_bits=8)
    family = hessian(model, DATA, surface="latent")
    truth = dense(reference_copy(build()), family.selection.names, DATA)[2]
    assert relative_error(operator_matrix(family), truth) < 1e-10
    model = quantized(build)
    family = hessian(model, DATA, surface="quantized")
    truth = dense(plain(model), family.selection.names, DATA)[2]
    assert relative_error(operator_matrix(family), truth) < 1e-10
    assert family.dim_unmasked == family.dim
    assert relative_error(operator_matrix(hessian(model, DATA)), truth) > 1e-2


@pytest.mark.parametrize("bits", BITS)
def test_gauss_newton_is_masked_alike(bits):
    model = quantized(llama, bits=bits)
    family = ggn(model, DATA)
    m = flat_mask(model, family.selection.names)
    truth = m[:, None] * operator_matrix(ggn(plain(model), DATA)) * m
    assert float((operator_matrix(family) - truth).abs().max()) < 1e-8
    assert float(truth.abs().max()) > 1e-2


def test_masked_coordinates_neither_act_nor_react():
    family = hessian(quantized(llama, bits=1), DATA)
    keep = family.keep
    v = random_vectors(1, family.dim)[0]
    assert not family.matvec(torch.where(keep, 0.0, v)).any()
    assert not family.matvec(v)[~keep].any()
    assert torch.equal(family.matvec(v), family.matvec(torch.where(keep, v, 0.0)))
    assert not family.mean.gradient[~keep].any()
    assert family.mean.grad_norm == pytest.approx(float(family.mean.gradient.norm()))


def test_products_of_several_vectors_and_rebuilt_graphs_are_the_same():
    model = quantized(llama, bits=1)
    V = random_vectors(3, hessian(model, DATA).dim)
    one = torch.stack([hessian(model, DATA, proximal=0.5).matvec(v) for v in V])
    several = hessian(model, DATA, proximal=0.5).mean
    several.batched_products = True
    torch.testing.assert_close(several.matvecs(V), one)
    again = hessian(model, DATA, proximal=0.5, graph="recompute")
    torch.testing.assert_close(again.matvecs(V), one)


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("surface", ["ste", "quantized"])
def test_quantized_activations_stay_on_and_the_matrix_symmetric(build, surface):
    kv = 8 if build is llama else 16
    model = quantized(build, a_bits=8, kv_bits=kv)
    family = hessian(model, DATA, surface=surface)
    found = operator_matrix(family)
    assert relative_error(found, found.T) < 1e-10
    m = flat_mask(model, family.selection.names)
    truth = through_the_estimator(model, family.selection.names, DATA)
    assert relative_error(m[:, None] * found * m, truth) < 1e-10
    without = operator_matrix(hessian(quantized(build), DATA, surface=surface))
    assert relative_error(found, without) > 1e-4
    checks = run_checks(family)
    assert checks.difference_error is None
    assert "quantized activations" in checks.difference_note


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", [hessian, ggn])
def test_the_product_error_of_quantized_activations_is_that_of_the_arithmetic(kind, bits):
    """Values next to a tie get other codes in float64: that is another operator."""
    found = []
    for a_bits in (bits, 16):
        model = llama()
        prepare(model, spec("paretoq", w_bits=2, a_bits=a_bits))
        found.append(kind(model, DATA, surface="ste"))
    family = found[0]
    checks, plain = (run_checks(one) for one in found)
    size = float(torch.linalg.matrix_norm(operator_matrix(family), 2))
    assert 0 < checks.product_error < 1e-4 * size
    assert checks.product_error < 10 * plain.product_error + 1e-6 * size


@pytest.mark.parametrize("bits", BITS)
def test_checks_hold_on_every_surface(bits):
    model = quantized(llama, bits=bits)
    for surface in ("ste", "quantized", "latent"):
        checks = run_checks(hessian(model, DATA, surface=surface))
        assert checks.difference_error < 1e-6
        assert checks.difference_note is None
        assert checks.symmetry_error < 1e-10


def test_quantizer_weights_are_the_same_in_every_precision():
    model = llama()
    prepare(model, spec("paretoq", w_bits=2))
    layers = quant_layers(model)
    single = hessian(model, DATA).mean
    wide, half = (single.with_dtype(t) for t in (torch.float64, torch.bfloat16))
    Q = torch.cat([layer.quantized_weight().detach().reshape(-1) for layer in layers.values()])
    assert torch.equal(single.point.vector(), Q)
    assert torch.equal(wide.point.vector(), Q.double())
    assert torch.equal(half.point.vector(), Q.bfloat16())
    assert wide.keep is single.keep is half.keep
    checks = run_checks(single)
    assert 0 < checks.product_error < 1e-3
    assert checks.difference_error < 1e-6


def test_a_half_precision_model_is_evaluated_at_the_weights_its_layers_use():
    model = llama().bfloat16()
    prepare(model, spec("paretoq", w_bits=2))
    point = hessian(model, DATA).point
    for layer in quant_layers(model).values():
        assert layer.quantized_weight().dtype == torch.float32
        used = point.value(layer.weight)
        assert torch.equal(used, layer.quantized_weight().detach().bfloat16())
    assert all(layer.bypass == "none" for layer in quant_layers(model).values())


@pytest.mark.parametrize("bits", BITS)
def test_a_reset_with_frozen_scales_acts_through_the_mask_alone(bits):
    model = quantized(llama, bits=bits)
    found, masked, done = [], [], 0.0
    for fraction in (0.0, 0.2, 0.4, 0.8, 0.9):
        reset_(model, (fraction - done) / (1 - done))
        done = fraction
        family = hessian(model, DATA)
        found.append(torch.linalg.eigvalsh(operator_matrix(family)))
        masked.append(family.dim - family.dim_unmasked)
    assert masked[0] > 0
    if bits in (1, 3, 4):
        assert masked == [masked[0]] * 5
        for spectrum in found[1:]:
            torch.testing.assert_close(spectrum, found[0], rtol=0, atol=1e-12)
    else:
        assert masked == sorted(masked, reverse=True)
        assert masked[-1] < masked[0]
        assert float((found[-1] - found[0]).abs().max()) > 1e-3
    reset_(model, 1.0)  # a clipped weight lands on its level: inside, or on the inclusive bound
    last = hessian(model, DATA)
    assert last.dim - last.dim_unmasked < masked[0]


@pytest.mark.parametrize("surface", ["ste", "latent"])
@pytest.mark.parametrize("build_operator", [hessian, ggn])
def test_a_proximal_penalty_adds_gamma_on_quantized_coordinates(surface, build_operator):
    model = quantized(llama, bits=1)
    base = build_operator(model, DATA, surface=surface, params="all")
    shifted = build_operator(model, DATA, surface=surface, params="all", proximal=0.25)
    extra = operator_matrix(shifted) - operator_matrix(base)
    names = set(hessian(model, DATA).selection.names)
    there = torch.cat(
        [
            torch.full((size,), float(name in names))
            for name, size in zip(base.selection.names, base.selection.sizes, strict=True)
        ]
    )
    torch.testing.assert_close(extra, 0.25 * torch.diag(there.double()), rtol=0, atol=1e-12)
    assert shifted.keep is None
    assert shifted.dim_unmasked == base.dim_unmasked
    if build_operator is hessian:
        assert run_checks(shifted).difference_error < 1e-6


@pytest.mark.parametrize("length", [3, 4, 6])
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("build_operator", [hessian, ggn])
def test_structural_zeros_come_on_top_of_masked_ones(build, bits, length, build_operator):
    sizes = {"hidden": 8, "inner": 10} if build is llama else {"hidden": 8}
    model = quantized(build, bits=bits, **sizes)
    family = build_operator(model, [batch(1, length)])
    found = structural_zeros(family)
    eigenvalues = torch.linalg.eigvalsh(operator_matrix(family))
    exact = int((eigenvalues.abs() < 1e-9 * eigenvalues.abs().max()).sum())
    masked = family.dim - family.dim_unmasked
    assert masked > 0
    assert masked + found.zeros <= exact
    without = structural_zeros(build_operator(model, [batch(1, length)], surface="quantized"))
    assert without.zeros - masked <= found.zeros <= without.zeros
    if length == 3 and bits > 1:
        assert found.zeros > 0
    shifted = structural_zeros(build_operator(model, [batch(1, length)], proximal=1.0))
    assert shifted.zeros == 0


@pytest.mark.parametrize("surface", ["ste", "quantized"])
@pytest.mark.parametrize("build", [llama, gpt2])
def test_structural_zeros_are_those_of_the_quantized_inputs(build, surface):
    sizes = {"hidden": 8, "inner": 10} if build is llama else {"hidden": 8}
    family = hessian(quantized(build, bits=4, a_bits=8, **sizes), [batch(1, 4)], surface=surface)
    found = structural_zeros(family)
    eigenvalues = torch.linalg.eigvalsh(operator_matrix(family))
    exact = int((eigenvalues.abs() < 1e-9 * eigenvalues.abs().max()).sum())
    assert 0 < found.zeros <= exact - (family.dim - family.dim_unmasked)


def test_embedding_alone_is_evaluated_at_quantized_weights_and_has_no_mask():
    model = quantized(llama, bits=2, tied=True)
    family = hessian(model, DATA, params="embedding")
    truth = dense(plain(model), family.selection.names, DATA)[2]
    assert relative_error(operator_matrix(family), truth) < 1e-10
    assert family.surface == "ste"
    assert family.keep is None
    with pytest.raises(UsageError, match="selects no quantized weight, so Q is not defined"):
        hessian(model, DATA, params="embedding", proximal=0.1)


def test_layers_of_one_s_own_are_recognised_by_their_methods():
    model = own_layers(reference_copy(llama()))
    family = hessian(model, DATA)
    assert family.surface == "ste"
    assert family.dim == hessian(llama(), DATA).dim
    truth = through_the_estimator(model, family.selection.names, DATA)
    assert float((operator_matrix(family) - truth).abs().max()) < 1e-8
    assert 0 < family.dim_unmasked < family.dim
    assert run_checks(family).difference_error < 1e-6
    assert "step sizes" in " ".join(hessian(model, DATA, params="all").metadata()["notes"])
    with pytest.raises(UsageError, match="belongs to a quantizer"):
        hessian(model, DATA, params="*.step")


def test_params_all_leaves_the_quantizers_own_parameters_out():
    model = quantized(llama)
    family = hessian(model, DATA, params="all")
    assert not any(name.endswith("scale") for name in family.selection.names)
    assert family.dim == hessian(llama().double(), DATA, params="all").dim
    m = flat_mask(model, family.selection.names)
    truth = m[:, None] * dense(plain(model), family.selection.names, DATA)[2] * m
    assert float((operator_matrix(family) - truth).abs().max()) < 1e-8
    assert family.metadata()["notes"][0].startswith("parameters of the quantizers")
    some = hessian(model, DATA, params="model.layers.0.*")
    assert not any(name.endswith("scale") for name in some.selection.names)
    assert some.metadata()["notes"][0].startswith("parameters of the quantizers")
    assert not any("quantizers" in note for note in hessian(model, DATA).metadata()["notes"])
