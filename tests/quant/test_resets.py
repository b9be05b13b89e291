"""W ← (1−f) W + f Q(W) with the scales as they are."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from spectra.errors import UsageError
from spectra.quant import (
    Quantizer,
    QuantLinear,
    get_quantizer,
    prepare,
    quant_layers,
    quantized_state,
    reset_,
    spec,
)
from tests.curvature.models import gpt2, llama
from tests.quant.cases import CASES, LEARNED, error_ratio, example, gaussian, worn_scale

FRACTIONS = (0.0, 0.1, 0.4, 0.5, 0.8, 0.9, 1.0)


def layer_of(name, bits, weight, scale=None):
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    linear.weight.data = weight.clone()
    return QuantLinear.from_linear(linear, spec(name, w_bits=bits), scale=scale)


def worn(name, bits, dtype=torch.float32, seed=0):
    weight = gaussian(64, 192, dtype=dtype, seed=seed)
    quantizer = get_quantizer(name)
    scale = worn_scale(quantizer, weight.float(), bits) if quantizer.learns_scale else None
    return layer_of(name, bits, weight, scale)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "bits"), LEARNED)
def test_the_quantized_weights_are_the_same_bit_for_bit(name, bits, dtype, fraction):
    layer = worn(name, bits, dtype)
    before, scale = layer.quantized_weight().detach().clone(), layer.scale.detach().clone()
    layer.reset_(fraction)
    assert torch.equal(layer.quantized_weight(), before)
    assert torch.equal(layer.scale, scale)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize(("name", "bits"), CASES)
def test_the_error_shrinks_by_one_less_the_fraction(name, bits, fraction):
    layer = worn(name, bits, torch.float64)
    weight, goal = layer.weight.detach().clone(), layer.quantized_weight().detach()
    layer.reset_(fraction)
    torch.testing.assert_close(layer.weight.data, (1 - fraction) * weight + fraction * goal)
    ratio = float((layer.weight.data - goal).norm() / (weight - goal).norm())
    assert ratio == pytest.approx(1 - fraction, abs=1e-12)


@pytest.mark.parametrize("worn_or_fresh", ["worn", "fresh"])
@pytest.mark.parametrize("bits", [1, 3, 4])
def test_the_mask_is_the_same_up_to_nine_tenths_where_the_bound_is_a_level(bits, worn_or_fresh):
    layer = worn("paretoq", bits)
    if worn_or_fresh == "fresh":
        layer = layer_of("paretoq", bits, gaussian(64, 200, seed=8))
    start, mask = layer.weight.detach().clone(), layer.mask()
    for fraction in FRACTIONS[:-1]:
        layer.weight.data = start.clone()
        layer.reset_(fraction)
        assert torch.equal(layer.mask(), mask)
    if worn_or_fresh == "worn" or bits == 1:
        assert not mask.all()


@pytest.mark.parametrize("bits", [1, 3, 4])
def test_a_full_reset_lands_on_the_inclusive_bound_and_unmasks(bits):
    weight = gaussian(64, 200)
    scale = torch.full((64, 1), 0.25 if bits > 1 else 0.5) / 2 ** (bits == 4)
    layer = layer_of("paretoq", bits, weight, scale)  # powers of two: quotients are exact
    assert 1 - float(layer.mask().float().mean()) > 0.001
    layer.reset_(1.0)
    assert layer.mask().all()
    assert torch.equal(layer.weight, layer.quantized_weight())


@pytest.mark.parametrize("bits", [3, 4])
def test_with_any_scale_a_full_reset_unmasks_but_for_the_rounding_of_the_quotient(bits):
    layer = worn("paretoq", bits)
    clipped = ~layer.mask()
    layer.reset_(1.0)
    s = (layer.weight / layer.scale).detach()
    bound = s.abs() / torch.where(s > 0, 2 ** (bits - 1) - 1, 2 ** (bits - 1))
    assert float((bound[clipped] - 1).abs().max()) <= torch.finfo(torch.float32).eps
    assert torch.equal(layer.mask(), (s <= 2 ** (bits - 1) - 1) & (s >= -(2 ** (bits - 1))))
    assert float(layer.mask()[clipped].float().mean()) > 0.5


@pytest.mark.parametrize("bits", [1.58, 2])
def test_the_masked_share_of_a_stretched_grid_never_grows_and_falls_to_nothing(bits):
    shares = []
    for fraction in FRACTIONS:
        layer = worn("paretoq", bits)
        before = layer.mask()
        layer.reset_(fraction)
        assert bool((layer.mask() | ~before).all())  # what passed still passes
        shares.append(1 - float(layer.mask().float().mean()))
    assert shares[0] > 0.01
    assert shares == sorted(shares, reverse=True)
    assert shares[2] < shares[0]
    assert shares[-1] == 0


def test_numbers_at_2_bits():
    one = torch.ones(1, 1)
    moved = []
    for weight, fraction in ((0.4, 0.4), (0.4, 0.8), (1.2, 0.4), (1.2, 0.8)):
        layer = layer_of("paretoq", 2, weight * one, one)
        layer.reset_(fraction)
        moved.append((round(float(layer.weight.data), 6), bool(layer.mask())))
    assert moved == [(0.34, True), (0.28, True), (1.02, False), (0.84, True)]


@pytest.mark.parametrize("bits", [1, 1.58, 2, 3, 4])
def test_six_weights(bits):
    layer = layer_of("paretoq", bits, example())
    before = layer.quantized_weight().detach()
    ratio = (example() - before).norm()
    layer.reset_(0.4)
    assert torch.equal(layer.quantized_weight(), before)
    assert float((layer.weight.data - before).norm()) == pytest.approx(0.6 * float(ratio))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_an_absolute_maximum_is_a_level_and_so_survives_a_reset_though_it_is_derived(bits):
    for fraction in FRACTIONS:
        layer = worn("rtn", bits)
        before = layer.quantized_weight().detach()
        layer.reset_(fraction)
        torch.testing.assert_close(layer.quantized_weight(), before, rtol=1e-6, atol=0)


@dataclass(frozen=True)
class AbsMean(Quantizer):
    """Ternary at the mean of the row (arXiv 2402.17764, there of the matrix)."""

    name: ClassVar[str] = "absmean"
    supported_bits: ClassVar[tuple[float, ...]] = (1.58,)
    learns_scale: ClassVar[bool] = False

    def grid(self, _):
        return (-1.0, 0.0, 1.0)

    def start(self, weight, _):
        return weight.abs().mean(-1, keepdim=True)

    def code(self, s, _):
        return s.round().clamp(-1, 1)

    def inside(self, s, _):
        return torch.ones_like(s, dtype=torch.bool)


def rederived(quantizer, weight, bits, fraction):
    """(Q before, Q after) a reset whose scales are derived afresh on both sides."""
    before = quantizer.quantize(weight, quantizer.initial_scale(weight, bits), bits)
    moved = torch.lerp(weight, before, fraction)
    return before, quantizer.quantize(moved, quantizer.initial_scale(moved, bits), bits)


@pytest.mark.parametrize(
    ("quantizer", "bits"),
    [
        (AbsMean(), 1.58),
        (get_quantizer("paretoq"), 1.58),
        (get_quantizer("paretoq"), 2),
        (get_quantizer("lsq"), 2),
        (get_quantizer("lsq"), 3),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_scales_that_no_level_carries_break_the_invariance_when_derived_afresh(quantizer, bits):
    before, after = rederived(quantizer, gaussian(64, 200), bits, 0.4)
    assert error_ratio(before, after) > 0.01


def test_the_six_weight_example_with_its_ternary_mean():
    weight = torch.tensor([[-1.0, 0.2, 0.6, -0.1]])
    scale = AbsMean().initial_scale(weight, 1.58)
    assert float(scale) == pytest.approx(0.475)
    q = AbsMean().quantize(weight, scale, 1.58)
    assert q[0].tolist() == pytest.approx([-0.475, 0, 0.475, 0])


@pytest.mark.parametrize("bits", [1, 3, 4])
def test_scales_that_a_level_carries_come_out_the_same_when_derived_afresh(bits):
    before, after = rederived(get_quantizer("paretoq"), gaussian(64, 200), bits, 0.4)
    assert error_ratio(before, after) < 1e-6


@pytest.mark.parametrize("build", [llama, gpt2])
def test_all_layers_of_a_model_at_once(build):
    model = build(layers=2)
    prepare(model, spec("paretoq", w_bits=2))
    before, others = quantized_state(model), other_parameters(model)
    errors = {n: error_ratio(p.weight, p.quantized_weight()) for n, p in layers_of(model)}
    reset_(model, 0.5)
    after = quantized_state(model)
    for name, entry in before.items():
        assert torch.equal(entry.value, after[name].value)
    for name, layer in layers_of(model):
        distance = float((layer.weight.data - before[f"{name}.weight"].value).norm())
        assert distance > 0
        assert error_ratio(layer.weight, layer.quantized_weight()) < errors[name]
    assert all(torch.equal(a, b) for a, b in zip(others, other_parameters(model), strict=True))


def layers_of(model):
    return list(quant_layers(model).items())


def other_parameters(model):
    touched = {id(layer.weight) for _, layer in layers_of(model)}
    return [p.detach().clone() for p in model.parameters() if id(p) not in touched]


@pytest.mark.parametrize("fraction", [-0.1, 1.5, math.nan])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    layer = worn("paretoq", 2)
    with pytest.raises(UsageError, match=r"reset_fraction=.* outside \[0, 1\]"):
        layer.reset_(fraction)


def test_a_reset_of_full_precision_weights_does_nothing():
    layer = layer_of("paretoq", 16, gaussian(3, 4))
    layer.reset_(0.7)
    assert torch.equal(layer.weight, gaussian(3, 4))


def test_a_reset_takes_no_part_of_the_noise():
    from spectra.quant import Noise

    quiet, noisy = worn("paretoq", 2), worn("paretoq", 2)
    noisy.set_noise(Noise(0.3, 0.3))
    noisy.train()
    quiet.reset_(0.4)
    noisy.reset_(0.4)
    assert torch.equal(quiet.weight, noisy.weight)
