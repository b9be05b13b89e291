"""A quantized linear layer: its forward, its precision, its warnings, its refusals."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from spectra.errors import InputWarning, UsageError
from spectra.quant import QuantLinear, get_quantizer, prepare, quant_layers, spec
from spectra.quant.activations import quantize_activations
from tests.curvature.models import llama
from tests.quant.cases import CASES, gaussian


def plain(kind, dtype=torch.float32):
    linear = Conv1D(6, 10) if kind == "Conv1D" else nn.Linear(10, 6)
    linear = linear.to(dtype)
    shape = (10, 6) if kind == "Conv1D" else (6, 10)
    linear.weight.data, linear.bias.data = gaussian(*shape, dtype=dtype), gaussian(6, dtype=dtype)
    return linear


kinds = pytest.mark.parametrize("kind", ["Linear", "Conv1D"])


@kinds
@pytest.mark.parametrize("a_bits", [8, 16])
@pytest.mark.parametrize("bits", [1, 1.58, 2, 3, 4, 16])
def test_the_forward_is_that_of_quantized_inputs_and_weights(kind, bits, a_bits):
    linear, x = plain(kind), gaussian(2, 3, 10, seed=1)
    layer = QuantLinear.from_linear(linear, spec("paretoq", w_bits=bits, a_bits=a_bits))
    assert isinstance(layer, nn.Linear)
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    rows = linear.weight.T if kind == "Conv1D" else linear.weight
    quantizer = get_quantizer("paretoq")
    q = quantizer.quantize(rows, quantizer.initial_scale(rows, bits), bits)
    expected = quantize_activations(x, a_bits) @ q.T + linear.bias
    torch.testing.assert_close(layer(x), expected)
    assert torch.equal(layer.quantized_weight(), q.T if kind == "Conv1D" else q)
    assert layer.quantized_weight().shape == layer.mask().shape == linear.weight.shape
    if bits != 16:
        assert layer.scale.shape == (6, 1)
        mask = quantizer.mask(rows, layer.scale, bits)
        assert torch.equal(layer.mask(), mask.T if kind == "Conv1D" else mask)


@kinds
def test_each_orientation_masks_its_own_outputs(kind):
    layer = QuantLinear.from_linear(plain(kind), spec("paretoq", w_bits=2))
    columns = layer.mask().T if kind == "Linear" else layer.mask()
    assert (~columns).sum(0).tolist() == [1] * 6  # the largest weight of each output


def test_under_autocast_the_weights_are_quantized_in_float32_and_multiplied_in_bfloat16():
    torch.manual_seed(0)
    linear = nn.Linear(64, 32)
    layer = QuantLinear.from_linear(linear, spec("paretoq", w_bits=4))
    x, before = gaussian(5, 64), layer.quantized_weight().detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.quantized_weight(), before)
        y = layer(x)
        y_of_low_inputs = layer(x.bfloat16())
    low = torch.nn.functional.linear(x.bfloat16(), before.bfloat16(), linear.bias.bfloat16())
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, low)
    assert torch.equal(y_of_low_inputs, low)
    y.float().sum().backward()
    assert layer.weight.grad.dtype == layer.scale.grad.dtype == torch.float32
    # the care is not idle: bfloat16 moves weights over thresholds
    a = layer.scale.detach().bfloat16()
    moved = (linear.weight.detach().bfloat16() / a).round() != (before / layer.scale).round()
    assert moved.any()


def test_a_bfloat16_layer_runs_and_keeps_its_scales_in_float32():
    layer = QuantLinear.from_linear(plain("Linear", torch.bfloat16), spec("paretoq", w_bits=2))
    y = layer(gaussian(3, 10, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert layer.scale.dtype == torch.float32
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.bfloat16


def test_float64_stays_float64():
    layer = QuantLinear.from_linear(plain("Linear", torch.float64), spec("paretoq", w_bits=2))
    assert layer(gaussian(3, 10, dtype=torch.float64)).dtype == torch.float64
    assert layer.quantized_weight().dtype == layer.scale.dtype == torch.float64


def test_given_scales_are_used_and_their_shape_is_checked():
    linear, given = plain("Linear"), torch.full((6, 1), 0.5)
    layer = QuantLinear.from_linear(linear, spec("paretoq", w_bits=2), scale=given)
    assert torch.equal(layer.scale, given)
    layer.scale.data.mul_(2)
    assert torch.equal(given, torch.full((6, 1), 0.5))
    for shape in [(6,), (1, 6), (5, 1), (1, 1)]:
        with pytest.raises(UsageError, match=r"scales of q have shape .*\(6, 1\)"):
            QuantLinear.from_linear(
                linear, spec("paretoq", w_bits=2), scale=torch.ones(shape), name="q"
            )
    for quantizer, bits in (("rtn", 2), ("paretoq", 16)):
        with pytest.raises(UsageError, match=f"{quantizer} at {bits} bits learns none"):
            QuantLinear.from_linear(linear, spec(quantizer, w_bits=bits), scale=given)


def test_floored_scales_are_told_once_for_the_whole_model_and_work_as_the_floor():
    model = llama(layers=2).eval()
    prepare(model, spec("paretoq", w_bits=2))
    layers = list(quant_layers(model).items())
    fixed = copy.deepcopy(model)
    for (_, layer), (_, other) in zip(layers, quant_layers(fixed).items(), strict=True):
        layer.scale.data[0], other.scale.data[0] = -0.25, 1e-5
    ids = torch.arange(5)[None]
    name, rows = layers[0][0], layers[0][1].out_features
    match = f"1 of {rows} scales of {name} are not above 1e-05 .*smallest is -0.25"
    with pytest.warns(InputWarning, match=match) as told:
        found = model(ids).logits
    assert len(told) == 1
    assert torch.equal(model(ids).logits, found)  # and warns no more: a second would fail here
    with pytest.warns(InputWarning):
        assert torch.equal(fixed(ids).logits, found)


def test_scales_are_looked_at_again_when_they_change():
    layer = QuantLinear.from_linear(plain("Linear"), spec("paretoq", w_bits=2))
    x = gaussian(2, 10)
    layer(x)
    with torch.no_grad():
        layer.scale[3] = 0.0
    with pytest.warns(InputWarning, match="1 of 6 scales"):
        layer(x)
    loaded = QuantLinear.from_linear(plain("Linear"), spec("paretoq", w_bits=2))
    loaded(x)
    loaded.load_state_dict(layer.state_dict())
    with pytest.warns(InputWarning, match="1 of 6 scales"):
        loaded(x)


def test_gradients_reach_the_parameters_that_were_trained_and_no_others():
    linear = plain("Linear")
    linear.weight.requires_grad_(False)
    layer = QuantLinear.from_linear(linear, spec("paretoq", w_bits=2))
    layer(gaussian(2, 10)).sum().backward()
    assert layer.weight.grad is None
    assert layer.scale.grad is None
    assert layer.bias.grad is not None


def test_bypassed_weights_are_used_as_they_are():
    linear, x = plain("Linear"), gaussian(3, 10)
    layer = QuantLinear.from_linear(linear, spec("paretoq", w_bits=1, a_bits=4))
    quantized = layer(x)
    with layer.bypassed("all"):
        assert torch.equal(layer(x), linear(x))
    with layer.bypassed():
        assert torch.equal(layer(x), linear(quantize_activations(x, 4)))
    assert torch.equal(layer(x), quantized)
    with pytest.raises(UsageError, match="bypass='everything'"), layer.bypassed("everything"):
        pass


class Adapted(nn.Linear):
    pass


def test_layers_of_another_class_or_without_a_float_parameter_are_refused():
    two = spec("paretoq", w_bits=2)
    with pytest.raises(UsageError, match="q is a Adapted"):
        QuantLinear.from_linear(Adapted(3, 3), two, name="q")
    with pytest.raises(UsageError, match="is a Embedding"):
        QuantLinear.from_linear(nn.Embedding(3, 3), two)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    normed_plain = nn.Linear(3, 3)
    normed_plain._parameters.pop("weight")
    for linear, message in ((normed, "a ParametrizedLinear"), (normed_plain, "computed from")):
        with pytest.raises(UsageError, match=f"q is {message}"):
            QuantLinear.from_linear(linear, two, name="q")
    integer = nn.Linear(3, 3)
    integer.weight = nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UsageError, match="int8"):
        QuantLinear.from_linear(integer, two)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_compiling_keeps_the_numbers_in_one_graph():
    layer = QuantLinear.from_linear(plain("Linear"), spec("paretoq", w_bits=2, a_bits=8))
    x, g = gaussian(4, 10), gaussian(4, 6, seed=2)
    layer(x).backward(g)
    expected = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    y = torch.compile(layer, backend="aot_eager", fullgraph=True)(x)
    y.backward(g)
    assert torch.equal(y, layer(x))
    for parameter, truth in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, truth)


def test_printing_says_what_the_layer_does():
    layer = QuantLinear.from_linear(plain("Linear"), spec("paretoq", w_bits=1.58, a_bits=8))
    assert "paretoq, w_bits=1.58, a_bits=8" in repr(layer)


@pytest.mark.parametrize(("name", "bits"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
def test_codes_name_the_level_of_every_weight(name, bits, dtype, kind):
    layer = QuantLinear.from_linear(plain(kind).to(dtype), spec(name, w_bits=bits))
    codes = layer.codes()
    assert codes.shape == layer.weight.shape
    rows = layer.weight.detach().T if kind == "Conv1D" else layer.weight.detach()
    rows = rows.to(torch.promote_types(dtype, torch.float32))
    scale = layer.quantizer.initial_scale(rows, bits) if layer.scale is None else layer.scale
    grid = torch.tensor(layer.quantizer.grid(bits), dtype=rows.dtype)
    levels = grid[(codes.T if kind == "Conv1D" else codes).long()]
    if layer.zero is not None:
        levels = levels - grid[0] - layer.zero.detach().round().clamp(0, 2**bits - 1)
    levels = layer.quantizer.unrotate(levels * layer.quantizer.step(scale.detach()))
    expected = layer.quantized_weight().detach()
    torch.testing.assert_close(levels, expected.T if kind == "Conv1D" else expected)


def test_codes_without_quantization_are_all_equal():
    layer = QuantLinear.from_linear(plain("Linear"), spec("paretoq", w_bits=16))
    assert not layer.codes().any()
