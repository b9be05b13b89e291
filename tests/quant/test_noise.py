"""Noise is what was asked for, in training only, and depends on where training stands alone."""

import copy
import math

import pytest
import torch
from torch import nn

from spectra.errors import UsageError
from spectra.quant import (
    Noise,
    NoiseState,
    QuantLinear,
    get_quantizer,
    prepare,
    quant_layers,
    set_noise,
    spec,
)
from spectra.quant.noise import What, draw
from tests.curvature.models import batch, gpt2, llama
from tests.quant.cases import gaussian


def layer_of(
    bits=2, rows=8, columns=16, noise=None, state=None, quantizer="paretoq", dtype=torch.float32
):
    linear = nn.Linear(columns, rows, bias=False)
    linear.weight.data = 0.02 * gaussian(rows, columns, dtype=dtype)
    layer = QuantLinear.from_linear(linear, spec(quantizer, w_bits=bits))
    set_noise(layer, noise, state)
    return layer.train()


def prepared(build=llama, noise=None, **more):
    model = build(layers=2, hidden=8, **more).train()
    prepare(model, spec("paretoq", w_bits=2))
    set_noise(model, noise)
    return model


def gradients(model, one):
    model.zero_grad()
    model(input_ids=one.input_ids, labels=one.labels).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_thousandth_of_noise_flips_the_signs_of_1_59_percent_of_weights_of_size_one_fiftieth():
    layer = layer_of(1, rows=1000, columns=1000, noise=Noise(1e-3, 0))
    before = layer.quantized_weight().detach()
    flips = []
    for layer.shared.noise.step in range(4):
        after = layer.quantized_weight(noise=True).detach()
        flips.append(float((after.sign() != before.sign()).double().mean()))
    expected = math.atan(0.001 / 0.02) / math.pi
    assert expected == pytest.approx(0.0159, abs=1e-4)
    error = math.sqrt(expected * (1 - expected) / 1e6)
    assert all(abs(rate - expected) < 4 * error for rate in flips)


def test_draws_are_standard_gaussian_and_independent_of_each_other():
    like = torch.empty(400, 500)
    count = like.numel()
    keys = [
        {"state": NoiseState(**changes), "layer": 0, "what": What.WEIGHT}
        for changes in ({}, {"seed": 1}, {"step": 1}, {"micro_batch": 1}, {"resets": 1})
    ]
    keys += [{"state": NoiseState(), "layer": 1, "what": What.WEIGHT}]
    keys += [{"state": NoiseState(), "layer": 0, "what": what} for what in What if what]
    keys += [{**keys[0], "frozen": True}, {**keys[4], "frozen": True}]
    draws = torch.stack([draw(like, **key).reshape(-1) for key in keys])
    assert float(draws.mean(1).abs().max()) < 5 / math.sqrt(count)
    assert float((draws.var(1) - 1).abs().max()) < 5 * math.sqrt(2 / count)
    assert torch.equal(draws[0], draws[4])  # resets concern frozen noise only
    distinct = torch.cat([draws[:4], draws[5:]])
    correlation = distinct @ distinct.T / count - torch.eye(len(distinct))
    correlation.fill_diagonal_(0)
    assert float(correlation.abs().max()) < 5 / math.sqrt(count)


def test_a_draw_depends_on_nothing_that_ran_before():
    state = NoiseState(seed=3, step=5, micro_batch=2)
    first = draw(torch.empty(4, 5), state, layer=7, what=What.WEIGHT)
    torch.manual_seed(99)
    torch.randn(10)
    global_state = torch.get_rng_state()
    again = draw(torch.empty(4, 5), copy.copy(state), layer=7, what=What.WEIGHT)
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), global_state)


def test_before_quantization_weights_and_scales_are_perturbed_and_gradients_land_on_the_originals():
    noise, state = Noise(0.01, 0.02), NoiseState(seed=1, step=2, micro_batch=3)
    layer, quantizer = layer_of(2, noise=noise, state=state), get_quantizer("paretoq")
    layer.index = 4
    weight, scale = layer.weight.detach().clone(), layer.scale.detach().clone()
    u = draw(weight, state, layer=4, what=What.WEIGHT)
    v = draw(scale, state, layer=4, what=What.SCALE)
    w = (weight + 0.01 * u).requires_grad_()
    a = (scale + 0.02 * v).requires_grad_()
    expected = quantizer.quantize(w, a, 2)
    g = gaussian(8, 16, seed=6)
    expected.backward(g)
    found = layer.quantized_weight(noise=True)
    found.backward(g)
    assert torch.equal(found, expected)
    assert torch.equal(layer.weight.grad, w.grad)
    assert torch.equal(layer.scale.grad, a.grad)
    assert not torch.equal(found, layer.quantized_weight())
    assert torch.equal(layer.weight, weight)


def test_noise_smaller_than_a_bfloat16_weight_s_rounding_is_not_lost():
    state = NoiseState()
    layer = layer_of(16, noise=Noise(1e-6, 0), state=state, dtype=torch.bfloat16)
    weight = layer.weight.detach().float()
    expected = weight + 1e-6 * draw(weight, state, layer=0, what=What.WEIGHT)
    assert torch.equal(layer.quantized_weight(noise=True), expected)
    assert (expected != weight).float().mean() > 0.9


def test_after_quantization_the_quantized_weights_are_perturbed():
    state = NoiseState(step=1)
    layer = layer_of(2, noise=Noise(0.01, 0.5, place="after"), state=state)
    u = draw(layer.weight, state, layer=0, what=What.QUANTIZED)
    expected = layer.quantized_weight() + 0.01 * u
    assert torch.equal(layer.quantized_weight(noise=True), expected)


def test_both_places_together():
    state = NoiseState(step=1)
    before = layer_of(2, noise=Noise(0.01, 0.02), state=state).quantized_weight(noise=True)
    layer = layer_of(2, noise=Noise(0.01, 0.02, place="both"), state=state)
    u = draw(layer.weight, state, layer=0, what=What.QUANTIZED)
    assert torch.equal(layer.quantized_weight(noise=True), before + 0.01 * u)


def test_the_forward_has_noise_in_training_and_none_in_evaluation():
    layer, x = layer_of(2, noise=Noise(0.01, 0)), gaussian(3, 16)
    quiet = nn.functional.linear(x, layer.quantized_weight())
    noisy = nn.functional.linear(x, layer.quantized_weight(noise=True))
    assert torch.equal(layer(x), noisy)
    assert torch.equal(layer.eval()(x), quiet)
    set_noise(layer.train(), None)
    assert torch.equal(layer(x), quiet)
    assert not torch.equal(quiet, noisy)


def test_no_standard_deviation_is_no_noise():
    layer = layer_of(2, noise=Noise(0, 0))
    assert torch.equal(layer.quantized_weight(noise=True), layer.quantized_weight())


def test_a_derived_scale_follows_the_noisy_weights():
    state = NoiseState()
    layer = layer_of(3, noise=Noise(0.01, 0.5), state=state, quantizer="rtn")
    w = layer.weight.detach() + 0.01 * draw(layer.weight, state, layer=0, what=What.WEIGHT)
    expected = layer.quantizer.quantize(w, layer.quantizer.initial_scale(w, 3), 3)
    assert torch.equal(layer.quantized_weight(noise=True), expected)


def test_frozen_noise_changes_with_the_number_of_resets_only():
    layer = layer_of(2, noise=Noise(0.01, 0.01, frozen=True))
    state = layer.shared.noise
    first = layer.quantized_weight(noise=True)
    state.step, state.micro_batch = 17, 3
    assert torch.equal(layer.quantized_weight(noise=True), first)
    state.resets = 1
    second = layer.quantized_weight(noise=True)
    assert not torch.equal(second, first)
    state.resets = 0
    assert torch.equal(layer.quantized_weight(noise=True), first)


@pytest.mark.parametrize("place", ["before", "after", "both"])
def test_trainable_standard_deviations_have_the_gradient_of_their_noise(place):
    state = NoiseState(step=3)
    fixed = layer_of(2, noise=Noise(0.01, 0.02, place=place), state=state)
    layer = layer_of(2, noise=Noise(0.01, 0.02, place=place, trainable=True), state=state)
    g = gaussian(8, 16, seed=6)
    found = layer.quantized_weight(noise=True)
    torch.testing.assert_close(found, fixed.quantized_weight(noise=True), rtol=0, atol=1e-8)
    found.backward(g)
    expected = 0.0
    if place in ("before", "both"):
        expected = (draw(g, state, layer=0, what=What.WEIGHT) * layer.weight.grad).sum()
        scale = (draw(layer.scale, state, layer=0, what=What.SCALE) * layer.scale.grad).sum()
        torch.testing.assert_close(layer.scale_noise_std.grad, scale)
    if place in ("after", "both"):
        expected = expected + (draw(g, state, layer=0, what=What.QUANTIZED) * g).sum()
    torch.testing.assert_close(layer.weight_noise_std.grad, expected)
    assert (layer.scale_noise_std is None) == (place == "after")


def test_trainable_deviations_are_parameters_and_others_leave_no_trace_in_the_state():
    plain = set(layer_of(2).state_dict())
    assert set(layer_of(2, noise=Noise()).state_dict()) == plain == {"weight", "scale"}
    layer = layer_of(2, noise=Noise(trainable=True))
    more = {"weight_noise_std", "scale_noise_std"}
    assert set(layer.state_dict()) == plain | more
    set_noise(layer, None)
    assert set(layer.state_dict()) == plain


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
@pytest.mark.parametrize("build", [llama, gpt2])
def test_gradient_checkpointing_changes_no_gradient(build):
    one, noise = batch(2, 6), Noise(0.05, 0.05)
    kept = prepared(build, noise)
    for module in kept.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    again = copy.deepcopy(kept)
    again.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    calls = count_forwards(again)
    expected = gradients(kept, one)
    found = gradients(again, one)
    assert calls[0] == 2 * len(quant_layers(again))  # the forward did run twice
    assert same(found, expected)
    quiet = copy.deepcopy(kept)
    set_noise(quiet, None)
    assert not same(gradients(quiet, one), expected)


def count_forwards(model):
    calls = [0]

    def count(*_):
        calls[0] += 1

    for layer in quant_layers(model).values():
        layer.register_forward_pre_hook(count)
    return calls


def test_micro_batches_have_the_same_noise_in_any_order_and_on_any_rank():
    model = prepared(noise=Noise(0.05, 0.05))
    state = set_noise(model, Noise(0.05, 0.05))
    batches = [batch(1, 6, seed=i) for i in range(4)]

    def run(own, micro):
        where = next(iter(quant_layers(own).values())).shared.noise
        where.step, where.micro_batch = 7, micro
        return gradients(own, batches[micro])

    alone = [run(model, micro) for micro in range(4)]
    ranks = [copy.deepcopy(model), copy.deepcopy(model)]
    torch.manual_seed(5)
    for micro in (3, 0, 2, 1):
        assert same(run(ranks[micro % 2], micro), alone[micro])
    assert state is next(iter(quant_layers(model).values())).shared.noise
    state.micro_batch = 1
    assert not same(gradients(model, batches[0]), alone[0])


def test_layers_share_one_state_and_have_noise_of_their_own():
    model = prepared(noise=Noise(0.01, 0))
    layers = list(quant_layers(model).values())
    assert len({id(layer.shared.noise) for layer in layers}) == 1
    assert [layer.index for layer in layers] == list(range(len(layers)))
    q, o = (quant_layers(model)[f"model.layers.0.self_attn.{n}_proj"] for n in "qo")
    o.weight.data, o.scale.data = q.weight.data.clone(), q.scale.data.clone()
    assert torch.equal(q.quantized_weight(), o.quantized_weight())
    assert not torch.equal(q.quantized_weight(noise=True), o.quantized_weight(noise=True))


@pytest.mark.parametrize("what", ["weight_std", "scale_std"])
@pytest.mark.parametrize("value", [-1e-3, math.nan, math.inf])
def test_a_standard_deviation_that_is_none_is_refused(what, value):
    with pytest.raises(UsageError, match=f"{what}=.* is no standard deviation"):
        Noise(**{what: value})


def test_an_unknown_place_and_an_impossible_state_are_refused():
    with pytest.raises(UsageError, match=r"place='during'.*before, after, both"):
        Noise(place="during")
    for state in (NoiseState(seed=-1), NoiseState(step=1 << 32)):
        with pytest.raises(UsageError, match="integers from 0 to"):
            draw(torch.empty(2), state, layer=0, what=What.WEIGHT)
