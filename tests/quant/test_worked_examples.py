"""Numbers worked out by hand or in closed form, quantizer by quantizer."""

import math

import pytest
import torch

from spectra.quant import get_quantizer
from tests.quant.cases import derivatives, error_ratio, example, gaussian

T = 2 / 3
EXAMPLES = {  # bits: scale, levels in units of 1, mask, error ratio, κ, gradient of the scale
    1: (0.5333, [-0.5333] * 3 + [0.5333] * 3, [0, 0, 1, 1, 1, 0], 0.5319, 0.40825, 0.0),
    1.58: (1, [-T, -T, 0, 0, T, T], [0, 1, 1, 1, 1, 1], 0.3497, 0.40825, -0.38103),
    2: (1, [-0.75, -0.75, -0.25, 0.25, 0.25, 0.75], [0, 1, 1, 1, 1, 1], 0.2552, 0.40825, -0.44907),
    3: (1 / 3, [-1, -T, -1 / 3, 0, 1 / 3, 1], [1] * 6, 0.1400, 0.2357, -0.18856),
    4: (1 / 7, [c / 7 for c in (-7, -4, -1, 1, 3, 6)], [1] * 6, 0.0600, 0.1543, 0.12344),
}


@pytest.mark.parametrize("bits", EXAMPLES)
def test_paretoq_on_six_weights(bits):
    quantizer, weight = get_quantizer("paretoq"), example()
    a, levels, mask, ratio, kappa, grad = EXAMPLES[bits]
    scale = quantizer.initial_scale(weight, bits)
    assert float(scale) == pytest.approx(a, abs=1e-4)
    q, grad_w, grad_a = derivatives(quantizer, weight, scale, bits)
    assert q[0].tolist() == pytest.approx(levels, abs=1e-4)
    assert grad_w[0].tolist() == mask
    assert quantizer.mask(weight, scale, bits)[0].tolist() == [bool(m) for m in mask]
    assert float(grad_a) == pytest.approx(grad, abs=1e-4)
    assert quantizer.gradient_scale(weight.numel(), bits) == pytest.approx(kappa, abs=1e-4)
    assert error_ratio(weight, q) == pytest.approx(ratio, abs=1e-4)


def test_kappa_counts_the_whole_matrix_and_the_integer_top_code():
    quantizer = get_quantizer("paretoq")
    weight = example().repeat(4, 1)
    scale = quantizer.initial_scale(weight, 2)
    _, _, grad = derivatives(quantizer, weight, scale, 2)
    assert grad.squeeze().tolist() == pytest.approx([-0.44907 / 2] * 4, abs=1e-4)
    kappas = [quantizer.gradient_scale(1, bits) ** -2 for bits in (1, 1.58, 2, 3, 4)]
    assert kappas == pytest.approx([1, 1, 1, 3, 7])


@pytest.mark.parametrize(("outside", "slope"), [("code", 1.0), ("saturation", T)])
def test_the_ternary_derivative_outside_is_the_public_code_s_unless_switched(outside, slope):
    quantizer = get_quantizer("paretoq", ternary_outside=outside)
    one = torch.ones(1, 1, dtype=torch.float64)
    for sign in (1, -1):
        q, grad_w, grad_a = derivatives(quantizer, 1.5 * sign * one, one, 1.58)
        assert float(q) == pytest.approx(sign * T)
        assert float(grad_w) == 0
        assert float(grad_a) == pytest.approx(sign * slope)


def test_at_2_bits_the_clip_keeps_the_largest_weight_on_the_grid():
    quantizer, one = get_quantizer("paretoq"), torch.ones(1, 1)
    assert float(quantizer.quantize(one, one, 2)) == 0.75
    assert float(quantizer.quantize(-3 * one, one, 2)) == -0.75


@pytest.mark.parametrize(("bits", "low", "high"), [(1, -1, 1), (3, -4, 3), (4, -8, 7)])
def test_paretoq_passes_on_its_bounds_and_not_beyond(bits, low, high):
    s = torch.tensor([[low, high, low - 1e-6, high + 1e-6]], dtype=torch.float64)
    a = torch.full((1, 1), 0.5, dtype=torch.float64)
    _, grad_w, _ = derivatives(get_quantizer("paretoq"), s * a, a, bits)
    assert grad_w[0].tolist() == [1, 1, 0, 0]


def test_zero_stays_zero_at_1_bit():
    quantizer = get_quantizer("paretoq")
    weight = torch.tensor([[0.0, 2.0]])
    assert quantizer.quantize(weight, torch.ones(1, 1), 1)[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("s", "code", "passes", "slope"),
    [(1.2, 1, 1, -0.2), (4.1, 3, 0, 3), (3.0, 3, 0, 3), (-4.5, -4, 0, -4), (-4.0, -4, 0, -4)],
)
def test_lsq_at_3_bits(s, code, passes, slope):
    quantizer = get_quantizer("lsq")
    a = torch.full((1, 1), 0.5, dtype=torch.float64)
    q, grad_w, grad_a = derivatives(quantizer, s * a, a, 3)
    assert float(q) == pytest.approx(code * 0.5)
    assert float(grad_w) == passes
    assert float(grad_a) == pytest.approx(slope / math.sqrt(3))


def test_lsq_starts_at_twice_the_mean_over_the_root_of_the_top_code():
    scale = get_quantizer("lsq").initial_scale(example(), 3)
    assert float(scale) == pytest.approx(2 * (3.2 / 6) / math.sqrt(3))


def test_lsq_takes_one_scale_for_the_whole_layer():
    quantizer, weight = get_quantizer("lsq"), gaussian(4, 8, dtype=torch.float64)
    one = torch.full((1, 1), 0.3, dtype=torch.float64)
    g = gaussian(4, 8, seed=3, dtype=torch.float64)
    q, grad_w, grad = derivatives(quantizer, weight, one, 3, g)
    q_rows, grad_w_rows, grads = derivatives(quantizer, weight, one.repeat(4, 1), 3, g)
    assert torch.equal(q, q_rows)
    assert torch.equal(grad_w, grad_w_rows)
    assert grad.shape == (1, 1)
    assert float(grad) == pytest.approx(float(grads.sum()))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rtn_reaches_the_top_code_and_never_the_one_below_the_bottom(bits):
    quantizer, weight = get_quantizer("rtn"), gaussian(64, 128)
    scale = quantizer.initial_scale(weight, bits)
    codes = (quantizer.quantize(weight, scale, bits) / scale).round()
    top = 2 ** (bits - 1) - 1
    assert codes.abs().amax(-1).tolist() == [top] * 64
    assert quantizer.mask(weight, scale, bits).all()


def expected_square_error(a, bits):
    """E (w − Q(w))² of a standard Gaussian w, from the cells: levels and the thresholds between."""
    levels = {
        1: [-1, 1],
        1.58: [-T, 0, T],
        2: [-0.75, -0.25, 0.25, 0.75],
        3: range(-4, 4),
        4: range(-8, 8),
    }[bits]
    levels = torch.tensor(list(levels), dtype=torch.float64)
    w = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    cell = torch.bucketize(w / a, (levels[1:] + levels[:-1]) / 2)
    density = torch.exp(-(w**2) / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid((w - a * levels[cell]) ** 2 * density, w))


# masked fraction and error ratio: the latter one sample's, whose rows differ in their maximum
GAUSSIAN = {1: (0.4252, 0.603), 1.58: (3e-4, 0.714), 2: (3e-4, 0.558), 3: (0, 0.370), 4: (0, 0.158)}


@pytest.mark.parametrize("bits", GAUSSIAN)
def test_paretoq_on_gaussian_rows_of_4096(bits):
    quantizer, weight = get_quantizer("paretoq"), gaussian(256, 4096, dtype=torch.float64)
    scale = quantizer.initial_scale(weight, bits)
    masked, ratio = GAUSSIAN[bits]
    mask = quantizer.mask(weight, scale, bits)
    tolerance = 1.5e-3 if bits == 1 else 6e-5
    assert 1 - float(mask.double().mean()) == pytest.approx(masked, abs=tolerance)
    q = quantizer.quantize(weight, scale, bits)
    per_row = (weight - q).norm(dim=1) / weight.norm(dim=1)
    assert error_ratio(weight, q) == pytest.approx(ratio, abs=max(0.2 * float(per_row.std()), 1e-3))
    truth = sum(expected_square_error(float(a), bits) for a in scale[:32]) / 32
    found = (weight - q)[:32].square().mean()
    assert float(found) == pytest.approx(truth, rel=0.02)
    if bits == 1:
        phi = 0.5 * (1 + math.erf(math.sqrt(1 / math.pi)))
        assert masked == pytest.approx(2 * (1 - phi), abs=1e-3)
        assert ratio == pytest.approx(math.sqrt(1 - 2 / math.pi), abs=1e-3)
    if bits == 1.58:
        assert float((q == 0).double().mean()) == pytest.approx(0.80, abs=0.02)
        assert not mask.all(-1).any()  # the largest of each row starts beyond .99
