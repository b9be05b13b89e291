"""Laws that every quantizer obeys at every width; a new one is in the table by being registered."""

import pytest
import torch

from spectra.errors import UsageError
from spectra.quant import QuantLinear, get_quantizer, spec
from tests.quant.cases import (
    CASES,
    FLOATS,
    LEARNED,
    SYMMETRIC,
    UNMASKED,
    derivatives,
    gaussian,
    projector,
    worn_scale,
)

DTYPES = [torch.float32, torch.bfloat16]
table = pytest.mark.parametrize(("name", "bits"), CASES)
learned = pytest.mark.parametrize(("name", "bits"), LEARNED)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def layer_of(name, bits, dtype=torch.float32, rows=32, columns=256, worn=True):
    linear = torch.nn.Linear(columns, rows, bias=False, dtype=dtype)
    linear.weight.data = gaussian(rows, columns, dtype=dtype)
    layer = QuantLinear.from_linear(linear, spec(name, w_bits=bits))
    if layer.scale is not None and worn:
        layer.scale.data = worn_scale(layer.quantizer, linear.weight.data.float(), bits)
    return layer


@table
@dtypes
def test_quantizing_twice_is_quantizing_once(name, bits, dtype):
    layer = layer_of(name, bits, dtype)
    scale = layer._scale_of(layer.weight).detach()
    once = layer.quantized_weight().detach()
    assert torch.equal(layer.quantizer.quantize(once, scale, bits), once)
    stored = once.to(dtype)
    assert torch.equal(layer.quantizer.quantize(stored, scale, bits).to(dtype), stored)


@table
@dtypes
def test_the_values_are_the_levels_times_the_scale_all_of_them(name, bits, dtype):
    quantizer = get_quantizer(name)
    grid = torch.tensor(quantizer.grid(bits))
    assert len(grid) == quantizer.levels(bits)
    assert bool((grid.diff() > 0).all())
    scale = torch.tensor([[0.5], [0.25]])  # powers of two: the product is exact
    points = torch.cat([torch.linspace(-1.3, 1.3, 20000) * grid.abs().max(), grid])
    x = torch.cat([points, torch.tensor([1e-9])])[None] * scale
    x = x[:, (x != 0).all(0)].to(dtype)  # at 1 bit zero is its own value
    values = quantizer.quantize(quantizer.unrotate(x), scale, bits)
    for row, a in zip(values, quantizer.step(scale), strict=True):
        if quantizer.rotates:  # there and back is the identity up to rounding
            codes = quantizer.rotate(row) / a
            torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
            assert torch.equal(codes.round().unique(), grid)
        else:
            assert torch.equal(row.unique(), grid * a)


@table
def test_the_number_of_levels_is_the_width_s(name, bits):
    full = {1: 2, 1.58: 3}.get(bits, 2**bits)
    expected = FLOATS.get(name, full - (name in SYMMETRIC))
    assert get_quantizer(name).levels(bits) == expected


@table
def test_the_error_is_at_most_half_a_step_where_nothing_is_clipped(name, bits):
    quantizer, weight = get_quantizer(name), gaussian(64, 64)
    scale = quantizer.initial_scale(weight, bits)
    grid, s = torch.tensor(quantizer.grid(bits)), quantizer.rotate(weight) / scale
    within = (s >= grid[0]) & (s <= grid[-1])
    error = (s - quantizer.rotate(quantizer.quantize(weight, scale, bits)) / scale).abs()
    assert float(error[within].max()) <= float(grid.diff().max()) / 2 * (1 + 1e-5)
    assert within.any()


@table
@dtypes
def test_the_gradient_of_the_weight_is_the_masked_gradient(name, bits, dtype):
    layer = layer_of(name, bits, dtype)
    g = gaussian(32, 256, seed=5)
    layer.quantized_weight().backward(g)
    expected = layer.quantizer.project(g.to(dtype).float(), layer.mask())
    near = 1e-2 if layer.quantizer.rotates else 0
    torch.testing.assert_close(layer.weight.grad.float(), expected, rtol=1e-2, atol=near)
    if dtype == torch.float32:
        assert torch.equal(layer.weight.grad, layer.quantizer.project(g, layer.mask()))
        if not layer.quantizer.rotates:
            assert torch.equal(layer.weight.grad, layer.mask() * g)
    assert layer.mask().all() == (name in UNMASKED)


@table
def test_the_derivative_is_an_orthogonal_projector_of_the_rank_of_the_mask(name, bits):
    quantizer, weight = get_quantizer(name), gaussian(3, 24, dtype=torch.float64)
    scale = quantizer.initial_scale(weight, bits) * (0.5 if quantizer.learns_scale else 1)
    J = projector(quantizer, weight, scale, bits)
    torch.testing.assert_close(J, J.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(J @ J, J, rtol=0, atol=1e-12)
    rank = int(quantizer.mask(weight, scale, bits).sum())
    assert float(torch.trace(J)) == pytest.approx(rank, abs=1e-9)
    assert quantizer.rotates or torch.equal(J, torch.diag(J.diagonal()))


@learned
def test_the_gradient_of_the_scale_is_that_of_a_fixed_code_less_the_mask_times_s(name, bits):
    """Ŵ = a · code(w/a): ∂Ŵ/∂a = code − M s, the estimator standing for the code's derivative."""
    options = {"ternary_outside": "saturation"} if name == "paretoq" else {}
    quantizer, weight = get_quantizer(name, **options), gaussian(6, 40, dtype=torch.float64)
    scale, g = worn_scale(quantizer, weight, bits), gaussian(6, 40, seed=5, dtype=torch.float64)
    q, mask, grad = derivatives(quantizer, weight, scale, bits, torch.ones_like(weight))
    slope = q / scale - mask * weight / scale
    if (name, bits) == ("paretoq", 1):
        slope = weight.sign()  # the public code's: the term of the mask is left out
    _, _, grad = derivatives(quantizer, weight, scale, bits, g)
    top = {1: 1, 1.58: 1}.get(bits, 2 ** (bits - 1) - 1)
    kappa = 1 if name == "efficientqat" else (weight.numel() * top) ** -0.5
    expected = (slope * g).sum(-1, keepdim=True) * kappa
    torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-14)


def test_a_derived_scale_has_no_gradient():
    quantizer, weight = get_quantizer("rtn"), gaussian(4, 16)
    _, _, grad = derivatives(quantizer, weight, quantizer.initial_scale(weight, 3), 3)
    assert grad is None
    assert layer_of("rtn", 3).scale is None


@table
@dtypes
def test_scaling_weights_and_scale_scales_the_result(name, bits, dtype):
    quantizer, weight = get_quantizer(name), gaussian(8, 64, dtype=dtype)
    scale = quantizer.initial_scale(weight, bits)
    q = quantizer.quantize(weight, scale, bits)
    found = (
        quantizer.quantize(4 * weight, 4 * scale, bits),
        quantizer.initial_scale(4 * weight, bits),
    )
    if name in ("llm-qat", "quest"):  # something small is added to the statistic
        torch.testing.assert_close(found, (4 * q, 4 * scale), rtol=1e-5, atol=0)
    else:
        assert torch.equal(found[0], 4 * q)
        assert torch.equal(found[1], 4 * scale)


BY_ROW = [(name, bits) for name, bits in CASES if name != "bitnet"]


@pytest.mark.parametrize(("name", "bits"), BY_ROW)
def test_a_row_knows_nothing_of_the_others(name, bits):
    quantizer = get_quantizer(name)
    weight = gaussian(8, 64) * torch.logspace(-2, 2, 8)[:, None]
    scale = quantizer.initial_scale(weight, bits)
    assert scale.shape == (8, 1)
    if name in FLOATS:  # one scale for the tensor
        assert torch.equal(scale, quantizer.initial_scale(weight.reshape(1, -1), bits).expand(8, 1))
        row = scale[3:4]
    else:
        row = quantizer.initial_scale(weight[3:4], bits)
    assert torch.equal(row, scale[3:4])
    q = quantizer.quantize(weight, scale, bits)
    assert torch.equal(quantizer.quantize(weight[3:4], row, bits), q[3:4])


@table
def test_low_precision_weights_are_quantized_in_float32(name, bits):
    layer = layer_of(name, bits, torch.bfloat16)
    scale = layer._scale_of(layer.weight).detach()
    wide = layer.quantizer.quantize(layer.weight.detach().float(), scale, bits)
    assert layer.quantized_weight().dtype == torch.float32
    assert torch.equal(layer.quantized_weight(), wide)


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
@dtypes
def test_16_bits_are_the_identity(name, dtype):
    quantizer, weight = get_quantizer(name), gaussian(4, 16, dtype=dtype).requires_grad_()
    scale = quantizer.initial_scale(weight, 16)
    q = quantizer.quantize(weight, scale, 16)
    assert torch.equal(q, weight)
    g = gaussian(4, 16, seed=2, dtype=dtype)
    q.backward(g)
    assert torch.equal(weight.grad, g)
    assert quantizer.mask(weight, scale, 16).all()
    assert layer_of(name, 16, dtype).scale is None


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_a_width_that_is_not_defined_is_refused_with_those_that_are(name):
    quantizer, weight = get_quantizer(name), gaussian(2, 4)
    one = torch.ones(2, 1)
    known = ", ".join(f"{bits:g}" for bits in quantizer.supported_bits)
    for bits in (0, 1.5, 9, 12, 32):
        match = f"w_bits={bits:g} .*{name}.*{known}, or 16"
        with pytest.raises(UsageError, match=match) as refused:
            quantizer.check_bits(bits)
        said = "ternary is 1.58" in str(refused.value)
        assert said == (bits in (0, 1.5) and 1.58 in quantizer.supported_bits)
        for function in (quantizer.quantize, quantizer.mask):
            with pytest.raises(UsageError):
                function(weight, one, bits)
        with pytest.raises(UsageError):
            quantizer.initial_scale(weight, bits)


def test_a_scale_not_above_the_floor_works_as_the_floor():
    quantizer, weight = get_quantizer("paretoq"), gaussian(3, 8)
    low = torch.tensor([[-1.0], [0.0], [9e-6]])
    floor = torch.full((3, 1), 1e-5)
    g = gaussian(3, 8, seed=4)
    for bits in quantizer.supported_bits:
        for a, b in zip(
            derivatives(quantizer, weight, low, bits, g),
            derivatives(quantizer, weight, floor, bits, g),
            strict=True,
        ):
            assert torch.equal(a, b)
    assert torch.equal(quantizer.initial_scale(torch.zeros(3, 4), 2), floor)
