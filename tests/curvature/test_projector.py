"""A quantizer that masks another basis puts a projector in the place of the mask on ste."""

from __future__ import annotations

import math

import pytest
import torch

import spectra
from spectra.curvature import ggn, hessian, run_checks, structural_zeros
from spectra.linalg.probes import probe
from spectra.quant import prepare, spec
from tests.curvature.models import batch, gpt2, llama, operator_matrix, random_vectors
from tests.curvature.quantized import projector, quantized

DATA = [batch(2, 6), batch(1, 7, seed=1, masked=0.3)]
SIZES = {llama: {"hidden": 8, "inner": 10}, gpt2: {"hidden": 8}}
BUILDS = pytest.mark.parametrize("build", [llama, gpt2])


def rotated(build=llama, bits=2, **options):
    return quantized(build, "quest", bits, **SIZES[build], **options)


@BUILDS
def test_the_operator_neither_acts_nor_reacts_outside_the_range(build):
    model = rotated(build)
    family = hessian(model, DATA)
    J = projector(model, family.selection.names)
    v = random_vectors(1, family.dim)[0]
    outside = v - J @ v
    assert float(outside.norm()) > 0.1
    scale = float(family.matvec(v).norm())
    assert float(family.matvec(outside).norm()) < 1e-12 * scale
    found = family.matvec(v)
    assert float((J @ found - found).norm()) < 1e-12 * scale
    gradient = family.mean.gradient
    assert float((J @ gradient - gradient).norm()) < 1e-12 * float(gradient.norm())
    assert family.mean.grad_norm == pytest.approx(float(gradient.norm()))


def test_masked_directions_are_exact_zeros_and_the_rest_is_not():
    model = rotated()
    family = hessian(model, DATA)
    values, vectors = torch.linalg.eigh(projector(model, family.selection.names))
    basis = vectors[:, values > 0.5]  # orthonormal, of the range
    assert basis.shape[1] == family.dim_unmasked < family.dim
    at_q = operator_matrix(hessian(model, DATA, surface="quantized"))
    inside = torch.linalg.eigvalsh(basis.T @ at_q @ basis)
    zeros = torch.zeros(family.dim - family.dim_unmasked, dtype=inside.dtype)
    expected = torch.cat((inside, zeros)).sort().values
    found = torch.linalg.eigvalsh(operator_matrix(family))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_probes_are_unit_vectors_of_the_range():
    model = rotated()
    family = hessian(model, DATA)
    J = projector(model, family.selection.names)
    draws = torch.stack(
        [
            probe(family.dim, seed=0, probe=k, dtype=torch.float64, keep=family.keep)
            for k in range(2000)
        ]
    )
    torch.testing.assert_close(draws.norm(dim=1), torch.ones(2000).double())
    torch.testing.assert_close(draws @ J, draws, rtol=0, atol=1e-12)
    # Uniform on the sphere of a space of dimension r: E v vᵀ = J/r.
    second = draws.T @ draws / len(draws) * family.dim_unmasked
    noise = math.sqrt(family.dim_unmasked**2 / len(draws))  # of ‖second − J‖, Frobenius
    assert float((second - J).norm()) < 1.2 * noise
    one = probe(family.dim, seed=0, dtype=torch.float32, keep=family.keep)
    torch.testing.assert_close(one.double(), draws[0], rtol=0, atol=0.5)


def test_lanczos_to_the_end_finds_the_spectrum_without_its_masked_zeros():
    model = quantized(llama, "quest", 1, inner=4)
    family = hessian(model, DATA[:1])
    eigenvalues = torch.linalg.eigvalsh(operator_matrix(family))
    result = spectra.slq(family, num_probes=1, lanczos_steps=family.dim_unmasked)
    order = eigenvalues.abs().argsort(descending=True)[: family.dim_unmasked]
    found = torch.from_numpy(result.nodes[0, 0][: int(result.steps[0, 0])]).sort().values
    torch.testing.assert_close(found, eigenvalues[order].sort().values, rtol=1e-6, atol=1e-8)
    assert result.metadata["dim_unmasked"] == family.dim_unmasked
    share = 1 - family.dim_unmasked / family.dim
    assert result.metadata["masked_fraction"] == pytest.approx(share)
    assert share > 0
    assert result.mass(-1e-12, 1e-12).value >= share * 0.999


@BUILDS
@pytest.mark.parametrize("build_operator", [hessian, ggn])
def test_several_vectors_rebuilt_graphs_and_penalties(build, build_operator):
    model = rotated(build)
    V = random_vectors(3, build_operator(model, DATA).dim)
    one = torch.stack([build_operator(model, DATA, proximal=0.5).matvec(v) for v in V])
    several = build_operator(model, DATA, proximal=0.5).mean
    several.batched_products = True
    torch.testing.assert_close(several.matvecs(V), one)
    again = build_operator(model, DATA, proximal=0.5, graph="recompute")
    torch.testing.assert_close(again.matvecs(V), one)
    plain = torch.stack([build_operator(model, DATA).matvec(v) for v in V])
    torch.testing.assert_close(one - plain, 0.5 * V)  # the penalty is on every coordinate
    assert again.keep is None


@BUILDS
def test_checks_hold(build):
    checks = run_checks(hessian(rotated(build), DATA))
    assert checks.symmetry_error < 1e-10
    assert checks.difference_error < 1e-6
    single = build(**SIZES[build])
    prepare(single, spec("quest", w_bits=2))
    assert run_checks(hessian(single, DATA)).product_error < 1e-2


@BUILDS
@pytest.mark.parametrize("length", [3, 6])
def test_structural_zeros_come_on_top_of_masked_directions(build, length):
    family = hessian(rotated(build), [batch(1, length)])
    found = structural_zeros(family)
    eigenvalues = torch.linalg.eigvalsh(operator_matrix(family))
    exact = int((eigenvalues.abs() < 1e-9 * eigenvalues.abs().max()).sum())
    masked = family.dim - family.dim_unmasked
    assert masked > 0
    assert masked + found.zeros <= exact
    if length == 3:
        assert found.zeros > 0


def test_the_quantized_and_latent_surfaces_have_no_projector():
    model = rotated()
    for surface in ("quantized", "latent"):
        family = hessian(model, DATA, surface=surface)
        assert family.keep is None
        assert family.dim_unmasked == family.dim
