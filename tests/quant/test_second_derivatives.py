"""Double backward through an estimator is M ∇²L(Q(W)) M, and never anything else."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectra.quant import (
    bypassed,
    get_quantizer,
    prepare,
    quant_layers,
    quantize_activations,
    quantized_state,
    spec,
)
from tests.curvature.models import batch, gpt2, llama, reference_copy, token_loss
from tests.quant.cases import CASES, LEARNED, gaussian, projector, worn_scale

ROWS, COLUMNS = 5, 8
INPUTS = gaussian(COLUMNS, 7, seed=11, dtype=torch.float64)
MIX = gaussian(ROWS, ROWS, seed=12, dtype=torch.float64)


def loss(q):
    """Not quadratic, and coupling all entries of (ROWS, COLUMNS)."""
    return (torch.tanh(MIX @ torch.tanh(q @ INPUTS)) ** 3 + (q @ INPUTS).sin()).sum()


def hessian(function, *tensors):
    """(dim, dim) of `function` at the tensors, by double backward, a column at a time in one go."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    grads = torch.autograd.grad(function(*leaves), leaves, create_graph=True)
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    eye = torch.eye(len(flat), dtype=flat.dtype)
    rows = torch.autograd.grad(
        flat, leaves, eye, is_grads_batched=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([row.reshape(len(flat), -1) for row in rows], dim=1)


def setting(name, bits):
    quantizer = get_quantizer(name)
    weight = gaussian(ROWS, COLUMNS, seed=3, dtype=torch.float64)
    learned = quantizer.learns_scale
    scale = (worn_scale if learned else type(quantizer).initial_scale)(quantizer, weight, bits)
    return quantizer, weight, scale


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_double_backward_is_the_masked_hessian_at_the_quantized_point(name, bits):
    quantizer, weight, scale = setting(name, bits)
    found = hessian(lambda w: loss(quantizer.quantize(w, scale, bits)), weight)
    J = projector(quantizer, weight, scale, bits)
    q = quantizer.quantize(weight, scale, bits)
    at_q, at_w = hessian(loss, q), hessian(loss, weight)
    truth = J @ at_q @ J
    assert float((found - truth).abs().max()) < 1e-8
    if bits < 7:  # what a mistaken reading would give is far away
        assert float((found - J @ at_w @ J).norm() / truth.norm()) > 1e-3
    masked = int((~quantizer.mask(weight, scale, bits)).sum())
    eigenvalues = torch.linalg.eigvalsh(found)
    assert int((eigenvalues.abs() < 1e-12).sum()) >= masked


@pytest.mark.parametrize("bits", [1, 1.58, 2, 3, 4])
def test_a_reset_changes_the_spectrum_through_the_mask_only(bits):
    quantizer, weight, scale = setting("paretoq", bits)
    q, spectra, masked = quantizer.quantize(weight, scale, bits), [], []
    for fraction in (0.0, 0.2, 0.4, 0.8, 0.9):
        moved = torch.lerp(weight, q, fraction)
        found = hessian(lambda w: loss(quantizer.quantize(w, scale, bits)), moved)
        spectra.append(torch.linalg.eigvalsh(found))
        masked.append(int((~quantizer.mask(moved, scale, bits)).sum()))
    assert masked[0] > 0
    if bits in (1, 3, 4):
        assert all(torch.equal(spectrum, spectra[0]) for spectrum in spectra)
    else:
        assert masked == sorted(masked, reverse=True)
        assert masked[-1] == 0
        assert float((spectra[-1] - spectra[0]).abs().max()) > 1e-3


@pytest.mark.parametrize(("name", "bits"), LEARNED)
def test_weights_and_scales_together_are_symmetric_with_slopes_as_constants(name, bits):
    quantizer, weight, scale = setting(name, bits)
    found = hessian(lambda w, a: loss(quantizer.quantize(w, a, bits)), weight, scale)
    q = quantizer.quantize(weight, scale, bits)
    kappa = quantizer.gradient_scale(weight.numel(), bits)
    slope = quantizer.slope(weight, scale, bits)
    J = torch.zeros(ROWS * COLUMNS, ROWS * COLUMNS + ROWS, dtype=torch.float64)
    J[:, : ROWS * COLUMNS] = torch.diag(quantizer.mask(weight, scale, bits).double().reshape(-1))
    for i in range(ROWS):
        J[i * COLUMNS : (i + 1) * COLUMNS, ROWS * COLUMNS + i] = kappa * slope[i]
    assert float((found - J.T @ hessian(loss, q) @ J).abs().max()) < 1e-8
    assert float((found - found.T).abs().max()) < 1e-12


@pytest.mark.parametrize(("name", "bits"), LEARNED)
def test_functional_transforms_agree_with_backward(name, bits):
    quantizer, weight, scale = setting(name, bits)
    moves = gaussian(3, ROWS, COLUMNS, seed=7, dtype=torch.float64)

    def function(w, a):
        return loss(quantizer.quantize(w, a, bits))

    grad = torch.func.grad(function, argnums=(0, 1))
    batched = torch.func.vmap(grad, in_dims=(0, None))(weight + moves, scale)
    for i, move in enumerate(moves):
        leaves = [(weight + move).requires_grad_(), scale.clone().requires_grad_()]
        expected = torch.autograd.grad(function(*leaves), leaves)
        for found, truth in zip(batched, expected, strict=True):
            torch.testing.assert_close(found[i], truth)


def test_activation_quantizers_pass_derivatives_of_every_order():
    x = gaussian(3, 4, dtype=torch.float64)
    found = hessian(lambda t: (quantize_activations(t, 4) ** 3).sum(), x)
    truth = torch.diag(6 * quantize_activations(x, 4).reshape(-1))
    torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("build", [llama, gpt2])
def test_a_whole_model_s_double_backward_is_that_of_its_quantized_state(build, bits):
    model = reference_copy(build())
    prepare(model, spec("paretoq", w_bits=bits, a_bits=8))
    for layer in quant_layers(model).values():
        layer.scale.data.mul_(0.6)  # so that something is clipped at every width
    state, batches = quantized_state(model), [batch(2, 5)]
    parameters = dict(model.named_parameters())

    def function(*values):
        return token_loss(model, dict(zip(state, values, strict=True)), batches)

    latent = hessian_of_model(function, [parameters[name] for name in state])
    with bypassed(model):
        quantized = hessian_of_model(function, [entry.value for entry in state.values()])
    m = torch.cat([entry.mask.reshape(-1) for entry in state.values()]).double()
    truth = m[:, None] * quantized * m
    assert float((latent - truth).abs().max()) < 1e-8
    assert float(truth.abs().max()) > 1e-2
    assert 0 < float(m.mean()) < 1


def hessian_of_model(function, tensors):
    with sdpa_kernel(SDPBackend.MATH):
        return hessian(function, *tensors)
