"""EfficientQAT: steps and zero points of groups, worked by hand; the integers fixed; surfaces."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from spectra.curvature import hessian
from spectra.errors import UsageError
from spectra.quant import QuantLinear, convert, get_quantizer, prepare, quant_layers, spec
from tests.curvature.models import batch, dense, llama, operator_matrix, reference_copy
from tests.curvature.quantized import flat_mask, through_the_estimator
from tests.quant.cases import EXAMPLE, gaussian

BITS = (2, 3, 4)


def layer_of(weight, bits=2, **options):
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    linear.weight.data = weight.clone()
    return QuantLinear.from_linear(linear, spec("efficientqat", w_bits=bits, **options))


def composite(w, s, z, bits, size):
    """Ŵ written with detached rounding and clamping, as autograd sees the public description."""
    top = 2**bits - 1
    s = s + (s.clamp(1e-4, 1e4) - s).detach()
    z = z + (z.round().clamp(0, top) - z).detach()
    x = w.reshape(w.shape[0], -1, size) / s[..., None]
    code = (x + (x.round() - x).detach() + z[..., None]).clamp(0, top)
    return ((code - z[..., None]) * s[..., None]).reshape(w.shape)


def test_a_worked_example_of_two_groups():
    """q = 3; (−1, −.6, −.2): s = .8/3, z = 4 → 3; (.1, .4, .9): s = .8/3, z = 0."""
    layer = layer_of(torch.tensor([EXAMPLE], dtype=torch.float64), 2, group_size=3)
    s = 0.8 / 3
    torch.testing.assert_close(layer.scale.data, torch.full((1, 2), s, dtype=torch.float64))
    assert layer.zero.tolist() == [[4, 0]]
    # −1/s = −3.75 rounds to −4, whose code −1 (z works as 3) is clipped: the only one.
    expected = torch.tensor([[-3, -2, -1, 0, 2, 3]]) * s
    torch.testing.assert_close(layer.quantized_weight().data, expected.double())
    assert layer.codes().tolist() == [[0, 1, 2, 0, 2, 3]]
    assert layer.mask().tolist() == [[False, True, True, True, True, True]]
    layer.quantized_weight().sum().backward()
    r = torch.tensor(EXAMPLE, dtype=torch.float64) / s
    first = -3 + (-2 - r[1]) + (-1 - r[2])
    second = (0 - r[3]) + (2 - r[4]) + (3 - r[5])
    torch.testing.assert_close(layer.scale.grad[0], torch.stack([first, second]))
    torch.testing.assert_close(layer.zero.grad, torch.tensor([[-s, 0.0]], dtype=torch.float64))


def test_the_mask_is_that_of_the_rounded_code():
    """s = 3.33 with h = 3 rounds to 3 and passes; ParetoQ, which tests 3.33 itself, masks it."""
    w, a = torch.tensor([[3.33, 3.6]]), torch.ones(1, 1)
    assert get_quantizer("efficientqat").mask(w, a, 3).tolist() == [[True, False]]
    assert get_quantizer("paretoq").mask(w, a, 3).tolist() == [[False, False]]


@pytest.mark.parametrize("bits", BITS)
def test_values_and_gradients_are_those_of_the_composed_estimator(bits):
    w = gaussian(5, 24, seed=1, dtype=torch.float64)
    quantizer = get_quantizer("efficientqat", group_size=8)
    s = quantizer.initial_scale(w, bits) * 0.7
    s[0, 0], s[1, 1] = 3e-5, -1.0  # both work as 1e-4, and their gradient passes
    z = quantizer.initial_zero(w, s.clamp_min(0.05), bits) + 0.3
    mine = [t.clone().requires_grad_() for t in (w, s, z)]
    theirs = [t.clone().requires_grad_() for t in (w, s, z)]
    found = quantizer.quantize(mine[0], torch.stack(mine[1:]), bits)
    truth = composite(*theirs, bits, 8)
    torch.testing.assert_close(found, truth)
    g = gaussian(5, 24, seed=2, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(found, mine, g), torch.autograd.grad(truth, theirs, g), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_with_fixed_codes_the_slope_of_a_step_is_its_integer():
    w = gaussian(4, 16, dtype=torch.float64)
    layer = layer_of(w, 3, group_size=8, codes="fixed")
    layer.reset_(1.0)
    k = layer.quantized_weight().detach().reshape(4, 2, 8) / layer.scale.detach()[..., None]
    torch.testing.assert_close(k, k.round())
    layer.quantized_weight().sum().backward()
    torch.testing.assert_close(layer.scale.grad, k.sum(-1))
    trained = layer_of(w, 3, group_size=8)
    trained.reset_(1.0)
    trained.quantized_weight().sum().backward()
    torch.testing.assert_close(trained.scale.grad, torch.zeros(4, 2, dtype=torch.float64))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("surface", ["ste", "quantized", "latent"])
def test_every_surface_against_its_dense_hessian(bits, surface):
    model = reference_copy(llama())
    prepare(model, spec("efficientqat", w_bits=bits, group_size=2))
    for layer in quant_layers(model).values():
        layer.scale.data.mul_(0.6)
    plain = copy.deepcopy(model)
    convert(plain)
    data = [batch(2, 6)]
    family = hessian(model, data, surface=surface)
    names, found = family.selection.names, operator_matrix(family)
    if surface == "latent":
        truth = dense(reference_copy(llama()), names, data)[2]
    else:
        truth = dense(plain, names, data)[2]
    if surface == "ste":
        m = flat_mask(model, names)
        assert 0 < int(m.sum()) < len(m)
        truth = m[:, None] * truth * m
        assert float((found - through_the_estimator(model, names, data)).abs().max()) < 1e-8
    assert float((found - truth).abs().max()) < 1e-8
    assert float(truth.abs().max()) > 1e-2


def test_groups_that_do_not_fill_a_row_are_refused():
    with pytest.raises(UsageError, match="group_size=5 does not divide a row of 24 weights"):
        layer_of(gaussian(2, 24), 2, group_size=5)
    for size in (0, -2, 1.5, True):
        with pytest.raises(UsageError, match="is no number of weights"):
            get_quantizer("efficientqat", group_size=size)
    with pytest.raises(UsageError, match="codes='free' is not known"):
        get_quantizer("efficientqat", codes="free")
    assert layer_of(gaussian(2, 24), 2, group_size=-1).scale.shape == (2, 1)
    assert layer_of(gaussian(2, 24), 2, group_size=64).scale.shape == (2, 1)


def test_zero_points_of_another_shape_are_refused():
    linear = nn.Linear(8, 2, bias=False)
    with pytest.raises(UsageError, match=r"zero points of .* have shape \(2, 2\).*: \(2, 1\)"):
        QuantLinear.from_linear(
            linear, spec("efficientqat", w_bits=2), zero=torch.zeros(2, 2), name="it"
        )
