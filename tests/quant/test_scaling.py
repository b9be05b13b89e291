"""Delayed scaling: worked examples, windows, frozen histories, estimators of both passes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from spectra.quant import (
    QuantLinear,
    advance_histories,
    get_quantizer,
    spec,
)
from spectra.quant.floats import round_hif8
from spectra.quant.scaling import EMPTY
from tests.quant.cases import FLOATS, gaussian

FLOAT = pytest.mark.parametrize("name", sorted(FLOATS))


def layer_of(name="hif8", *, a_bits=8, bias=False, dtype=torch.float32, **options):
    linear = nn.Linear(8, 6, bias=bias, dtype=dtype)
    linear.weight.data = gaussian(6, 8, dtype=dtype)
    return QuantLinear.from_linear(linear, spec(name, w_bits=8, a_bits=a_bits, **options))


def history_of(entries, name="hif8", **options):
    """The history of the inputs of a layer, filled with entries, the oldest first."""
    history = layer_of(name, **options).scaling.inputs
    for entry in entries:
        history.advance(torch.tensor(float(entry)))
    return history


def quantized(history, x):
    x = torch.tensor([float(x)])
    return float(history.scaling.values(x, history.step(x, record=False)))


@pytest.mark.parametrize(
    ("policy", "saturate", "value"),
    [
        ("max", "none", 6.4),
        ("max", "target", 4.0),
        ("most_recent", "target", 2.0),
        ("most_recent", "none", 48 / 7.5),
        ("mean", "target", 7 / 3),
        ("current", "target", 6.0),
    ],
)
def test_the_worked_example(policy, saturate, value):
    history = history_of([1, 4, 2], policy=policy, saturate=saturate)
    assert quantized(history, 6) == pytest.approx(value, rel=1e-6)


def test_the_scale_is_the_target_over_the_window():
    history, x = history_of([1, 4, 2]), torch.tensor([6.0])
    assert float(1 / history.step(x, record=False)) == pytest.approx(15 / (4 + 1e-12))
    fp8 = history_of([1, 4, 2], "fp8_e4m3", margin=2)
    assert float(1 / fp8.step(x, record=False)) == pytest.approx(448 / 4 / 2**2)
    own = history_of([1, 4, 2], target=7.5)
    assert float(1 / own.step(x, record=False)) == pytest.approx(7.5 / 4)


def test_an_underestimated_maximum_overflows_where_the_format_ends():
    for saturate, beyond in (("none", math.inf), ("format", 32768 / 15)):
        history = history_of([1.0], saturate=saturate)
        assert quantized(history, 2184) == pytest.approx(32768 / 15)
        assert quantized(history, 2730) == pytest.approx(32768 / 15)
        assert quantized(history, 2731) == pytest.approx(beyond)
    assert quantized(history_of([1.0], "fp8_e4m3"), 1.3) == 1.0


@pytest.mark.parametrize("entry", [0.0, -0.5, math.inf, math.nan])
@pytest.mark.parametrize("policy", ["max", "most_recent", "mean"])
def test_what_is_no_maximum_works_as_one(entry, policy):
    history = history_of([entry], policy=policy)
    assert float(history.step(torch.tensor([6.0]), record=False)) == pytest.approx(1 / 15)


def test_an_old_maximum_leaves_the_window():
    history = history_of([5.0, *[1.0] * 3], history=4)
    assert float(history.limit(torch.tensor(9.0))) == 5.0
    assert history.age() == 4
    history.advance(torch.tensor(2.0))
    assert float(history.limit(torch.tensor(9.0))) == 2.0
    assert history.age() == 1
    assert history.amax.tolist() == [2.0, 1.0, 1.0, 1.0]


@FLOAT
@pytest.mark.parametrize("policy", ["max", "most_recent", "mean", "current"])
def test_every_policy_starts_cold_with_the_tensor_itself(name, policy):
    layer, x = layer_of(name, policy=policy), gaussian(5, 8)
    q = get_quantizer(name, policy=policy)
    expected = q.value(x, q.start(x.reshape(1, -1), 8), 8)
    layer.eval()
    a = layer.scaling.inputs.step(x, record=False)
    assert torch.equal(layer.scaling.inputs.scaling.values(x, a), expected)
    rows = layer.weight.detach()
    assert torch.equal(layer.quantized_weight(), q.value(rows, q.start(rows, 8), 8))
    assert layer.scaling.inputs.age() is None


@FLOAT
def test_the_forward_is_that_of_quantized_inputs_and_weights(name):
    layer, x = layer_of(name, bias=True, g_bits=8), gaussian(5, 8)
    scaling = layer.scaling.inputs.scaling
    x_hat = scaling.values(x, scaling.step(scaling.limit(x.abs().max())))
    y = layer(x)
    expected = nn.functional.linear(x_hat, layer.quantized_weight(), layer.bias)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    assert (x_hat != x).any()


def test_within_a_step_all_micro_batches_have_the_scale_of_earlier_steps():
    layer = layer_of()
    first, second = gaussian(5, 8), 3 * gaussian(5, 8, seed=1)
    layer(first)
    layer(second)  # still cold: by its own maximum
    assert bool((layer.scaling.inputs.amax == EMPTY).all())
    model = nn.Sequential(layer)
    advance_histories(model)
    assert float(layer.scaling.inputs.amax[0]) == float(second.abs().max())
    assert float(layer.scaling.inputs.amax[1]) == EMPTY
    assert float(layer.scaling.weights.amax[0]) == float(layer.weight.detach().abs().max())
    layer(first)
    advance_histories(model)
    entries = [float(second.abs().max()), float(first.abs().max())]
    assert layer.scaling.inputs.amax[:2].tolist() == entries[::-1]
    assert float(layer.scaling.inputs.limit(torch.tensor(0.1))) == pytest.approx(entries[0])
    before = layer.scaling.inputs.amax.clone()
    advance_histories(model)  # a step in which the layer was not called
    assert torch.equal(layer.scaling.inputs.amax, before)


def test_a_window_of_calls_takes_each_call_after_its_use():
    layer = layer_of(window="calls")
    calls = [k * gaussian(5, 8, seed=k) for k in (1, 2, 3)]
    for x in calls:
        layer(x)
    advance_histories(nn.Sequential(layer))
    expected = [float(x.abs().max()) for x in reversed(calls)]
    assert layer.scaling.inputs.amax[:3].tolist() == expected
    assert layer.scaling.inputs.counts.tolist()[:2] == [3, 2]  # calls, those beyond the window


def test_ranks_share_the_largest_entry():
    for window, entries in (("steps", [7.0, EMPTY]), ("calls", [7.0, 7.0])):
        layer = layer_of(window=window)
        for scale in (1.0, 2.0):
            layer(scale * torch.ones(3, 8))
        advance_histories(nn.Sequential(layer), lambda flat: flat.clamp_(min=7.0))
        assert layer.scaling.inputs.amax[:2].tolist() == entries


@FLOAT
def test_evaluation_and_second_derivatives_leave_no_trace(name):
    layer, x = layer_of(name, g_bits=8), gaussian(5, 8)
    layer(x).sum().backward()
    advance_histories(nn.Sequential(layer))
    before = {n: t.clone() for n, t in layer.state_dict().items()}
    counts = [history.counts.clone() for history in layer.scaling.histories().values()]
    layer.eval()
    y = layer(100 * x.requires_grad_())
    (g,) = torch.autograd.grad(y.pow(3).sum(), layer.weight, create_graph=True)
    torch.autograd.grad(g.sum(), layer.weight)
    layer.train()
    layer.quantized_weight()
    layer.mask()
    after = layer.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in before)
    for history, count in zip(layer.scaling.histories().values(), counts, strict=True):
        assert torch.equal(history.counts, count)
        assert history.pending is None


@pytest.mark.parametrize("saturate", ["format", "target"])
def test_the_estimator_passes_every_gradient_and_the_scale_none(saturate):
    layer = layer_of(saturate=saturate)
    layer.scaling.inputs.advance(torch.tensor(0.1))  # nearly all is beyond the window
    layer.scaling.weights.advance(torch.tensor(0.1))
    layer.eval()
    x, g = gaussian(5, 8).requires_grad_(), gaussian(5, 6, seed=3)
    layer(x).backward(g)
    weight, x_hat = layer.quantized_weight().detach(), layer.scaling.quantize_inputs
    torch.testing.assert_close(x.grad, g @ weight)
    torch.testing.assert_close(layer.weight.grad, g.T @ x_hat(x, record=False).detach())


@FLOAT
def test_second_derivatives_are_those_at_the_quantized_point(name):
    layer = layer_of(name, dtype=torch.float64).eval()
    x = gaussian(5, 8, dtype=torch.float64)
    y = layer(x)
    (g,) = torch.autograd.grad(y.pow(3).sum(), layer.weight, create_graph=True)
    v = gaussian(6, 8, seed=4, dtype=torch.float64)
    (found,) = torch.autograd.grad((g * v).sum(), layer.weight)
    x_hat = layer.scaling.quantize_inputs(x, record=False)
    expected = (6 * y * (x_hat @ v.T)).T @ x_hat
    torch.testing.assert_close(found, expected)
    assert float(found.abs().max()) > 1


@FLOAT
def test_gradients_are_quantized_before_both_products(name):
    layer, x = layer_of(name, g_bits=8, bias=True), gaussian(5, 8).requires_grad_()
    g = 1e-3 * gaussian(5, 6, seed=3)
    layer(x).backward(g)
    gradients = layer.scaling.gradients
    scaling = gradients.scaling
    assert scaling.format.name == ("HiF8" if name == "hif8" else "FP8 E5M2")
    g_hat = scaling.values(g, scaling.step(scaling.limit(g.abs().max())))
    assert (g_hat != g).any()
    x_hat = layer.scaling.inputs.scaling.values(x.detach(), scaled(layer.scaling.inputs.scaling, x))
    torch.testing.assert_close(layer.weight.grad, g_hat.T @ x_hat, rtol=1e-6, atol=0)
    torch.testing.assert_close(x.grad, g_hat @ layer.quantized_weight().detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.bias.grad, g_hat.sum(0))
    assert float(gradients.pending) == float(g.abs().max())


def scaled(scaling, x):
    return scaling.step(scaling.limit(x.detach().abs().max()))


def test_gradients_are_not_quantized_in_evaluation():
    layer, x = layer_of(g_bits=8).eval(), gaussian(5, 8).requires_grad_()
    g = gaussian(5, 6, seed=3)
    layer(x).backward(g)
    torch.testing.assert_close(x.grad, g @ layer.quantized_weight().detach())


def test_stochastic_gradients_are_those_of_the_moment():
    g = 10 ** (3 * gaussian(4000, 6, seed=3))  # most far below the largest: 2 bits and fewer
    found = {}
    for key in ((1, 0), (1, 1), (2, 0)):
        layer = layer_of(g_bits=8, g_rounding="stochastic", bias=True)
        layer.scaling.moment.step, layer.scaling.moment.micro_batch = key
        layer(torch.ones(4000, 8)).backward(g)
        again = layer_of(g_bits=8, g_rounding="stochastic", bias=True)
        again.scaling.moment.step, again.scaling.moment.micro_batch = key
        again(torch.ones(4000, 8)).backward(g)
        assert torch.equal(layer.weight.grad, again.weight.grad)
        found[key] = layer.weight.grad
    assert not torch.equal(found[1, 0], found[1, 1])
    assert not torch.equal(found[1, 0], found[2, 0])


def test_bfloat16_weights_are_rounded_in_float32():
    layer = layer_of(dtype=torch.bfloat16)
    rows = layer.weight.detach().float()
    a = (rows.abs().max() + 1e-12) / 15
    assert torch.equal(layer.quantized_weight(), round_hif8(rows / a) * a)
    y = layer(gaussian(3, 8, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert layer.scaling.inputs.amax.dtype == torch.float32


def test_no_tokens_are_no_call():
    layer = layer_of(g_bits=8)
    assert layer(torch.empty(0, 8)).shape == (0, 6)
    assert layer.scaling.inputs.pending is None
