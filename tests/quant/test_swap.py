"""Into a model and out of it."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from spectra.errors import InputWarning, UsageError
from spectra.quant import (
    QuantLinear,
    bypassed,
    convert,
    prepare,
    quant_layers,
    quantized_state,
    set_noise,
    spec,
)
from spectra.quant.noise import NoiseState
from spectra.quant.swap import linear_layers
from tests.curvature.models import gpt2, llama

TWO = spec("paretoq", w_bits=2)
IDS = torch.arange(6)[None]
builds = pytest.mark.parametrize("build", [llama, gpt2])
LINEARS = {
    llama: [f"self_attn.{n}_proj" for n in "qkvo"]
    + [f"mlp.{n}_proj" for n in ("gate", "up", "down")],
    gpt2: ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
}


def expected_names(build):
    root = "model.layers" if build is llama else "transformer.h"
    return [f"{root}.{i}.{name}" for i in range(2) for name in LINEARS[build]]


@builds
def test_every_linear_layer_of_the_blocks_is_swapped_and_nothing_else(build):
    model = build(layers=2)
    parameters = dict(model.named_parameters())
    classes = {name: type(module) for name, module in model.named_modules()}
    names = prepare(model, TWO)
    assert list(names) == expected_names(build)
    assert list(quant_layers(model)) == list(names)
    for name, module in model.named_modules():
        assert type(module) is (QuantLinear if name in names else classes[name])
    after = dict(model.named_parameters())
    assert set(after) == set(parameters) | {f"{name}.scale" for name in names}
    assert all(after[name] is parameter for name, parameter in parameters.items())


@builds
@pytest.mark.parametrize("bits", [1, 1.58, 2, 3, 4, 16])
def test_converting_gives_the_plain_classes_the_same_function_and_the_quantized_weights(
    build, bits
):
    model = build(layers=2).eval()
    classes = {name: type(module) for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    float_logits = model(IDS).logits
    names = prepare(model, spec("paretoq", w_bits=bits))
    quantized, logits = quantized_state(model), model(IDS).logits
    assert convert(model) == names
    assert {name: type(module) for name, module in model.named_modules()} == classes
    assert {type(model.get_submodule(name)) for name in names} <= {nn.Linear, Conv1D}
    torch.testing.assert_close(model(IDS).logits, logits, rtol=1e-5, atol=1e-6)
    after = model.state_dict()
    assert list(after) == list(state)
    for name, tensor in after.items():
        expected = quantized[name].value if name in quantized else state[name]
        assert torch.equal(tensor, expected)
    same = torch.equal(logits, float_logits) or torch.allclose(logits, float_logits, rtol=1e-5)
    assert same == (bits == 16)
    assert not model.training
    assert not any(module.training for module in model.modules())


@builds
def test_bypassing_gives_back_the_float_model(build):
    model = build(layers=2).eval()
    logits = model(IDS).logits
    prepare(model, spec("paretoq", w_bits=2, a_bits=8))
    with bypassed(model, "all"):
        torch.testing.assert_close(model(IDS).logits, logits, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model(IDS).logits, logits, rtol=1e-3)


@builds
def test_the_quantized_state_is_what_the_forward_uses(build):
    model = build(layers=2).eval()
    prepare(model, spec("paretoq", w_bits=1))
    logits, state = model(IDS).logits, quantized_state(model)
    parameters = dict(model.named_parameters())
    assert list(state) == [f"{name}.weight" for name in expected_names(build)]
    for name, (value, mask) in state.items():
        assert value.shape == mask.shape == parameters[name].shape
        assert mask.dtype == torch.bool
        assert not value.requires_grad
    with bypassed(model):
        values = {name: entry.value for name, entry in state.items()}
        found = torch.func.functional_call(model, values, (IDS,)).logits
    torch.testing.assert_close(found, logits)


def test_a_copy_has_scales_and_a_state_of_its_own():
    model = llama(layers=2)
    prepare(model, TWO)
    other = copy.deepcopy(model)
    set_noise(other, None, NoiseState(step=3))
    first, second = (next(iter(quant_layers(m).values())) for m in (model, other))
    assert first.shared.noise.step == 0
    assert all(layer.shared is second.shared for layer in quant_layers(other).values())
    first.scale.data.zero_()
    assert second.scale.min() > 0


def test_activation_quantizers_that_a_plain_layer_cannot_have_are_told():
    for widths in ({"a_bits": 8}, {"kv_bits": 8}):
        model = llama()
        prepare(model, spec("paretoq", w_bits=2, **widths))
        with pytest.warns(InputWarning, match="no activation quantizer"):
            convert(model)


def test_plain_modules_are_taken_whole_and_a_module_used_twice_is_swapped_twice():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2))
    assert prepare(model, TWO) == ("0", "3")
    assert model[0] is model[2]
    assert isinstance(model[0], QuantLinear)
    convert(model)
    assert model[0] is model[2]
    assert type(model[0]) is nn.Linear


def test_weights_of_a_conv1d_keep_their_orientation():
    model = gpt2()
    shape = model.transformer.h[0].attn.c_attn.weight.shape
    prepare(model, TWO)
    layer = model.transformer.h[0].attn.c_attn
    assert layer.weight.shape == layer.quantized_weight().shape == shape
    assert layer.scale.shape == (shape[1], 1)


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = nn.Linear(2, 2)
        self.experts = nn.Parameter(torch.zeros(2, 3, 3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Embedding(3, 3), nn.LayerNorm(3)), "no linear layer"),
        (Fused(), r"experts of shape \(2, 3, 3\).*fused"),
        (nn.Sequential(nn.Linear(2, 2), nn.Bilinear(2, 2, 2)), "1.weight of shape"),
    ],
)
def test_models_that_cannot_be_quantized_are_refused(model, message):
    with pytest.raises(UsageError, match=message):
        prepare(model, TWO)


def test_a_refusal_leaves_the_model_as_it_was():
    class Adapted(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Adapted(2, 2))
    with pytest.raises(UsageError, match="1 is a Adapted"):
        prepare(model, TWO)
    assert type(model[0]) is nn.Linear
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(UsageError, match="1 and 0 share one weight"):
        prepare(tied, TWO)


def test_preparing_twice_and_converting_a_plain_model_are_refused():
    model = llama()
    with pytest.raises(UsageError, match="no quantized layer; call prepare"):
        convert(model)
    prepare(model, TWO)
    with pytest.raises(UsageError, match=r"self_attn.q_proj is quantized already; convert"):
        prepare(model, TWO)


def test_separate_keys_and_values_are_needed_for_kv_bits():
    with pytest.raises(UsageError, match="kv_bits=8 needs layers named k_proj and v_proj"):
        prepare(gpt2(), spec("paretoq", w_bits=2, kv_bits=8))


@builds
def test_a_prepared_model_trains_its_weights_and_scales(build):
    model = build(layers=2).train()
    prepare(model, TWO)
    model(IDS, labels=IDS).loss.backward()
    for layer in quant_layers(model).values():
        assert float(layer.weight.grad.abs().max()) > 0
        assert float(layer.scale.grad.abs().max()) > 0
        assert not layer.weight.grad[~layer.mask()].any()


@builds
def test_given_scales_are_the_layers_own(build):
    worn = build(layers=2).eval()
    names = prepare(worn, TWO)
    generator = torch.Generator().manual_seed(3)
    for layer in quant_layers(worn).values():
        layer.scale.data *= 0.5 + torch.rand(layer.scale.shape, generator=generator)
    scales = {name: layer.scale for name, layer in quant_layers(worn).items()}
    model = build(layers=2).eval()
    assert prepare(model, TWO, scales=scales) == names
    assert torch.equal(model(IDS).logits, worn(IDS).logits)
    for name, layer in quant_layers(model).items():
        assert torch.equal(layer.scale, scales[name])
        assert layer.scale is not scales[name]
        assert layer.scale.requires_grad


def test_the_layers_to_swap_are_known_beforehand():
    for build in (llama, gpt2):
        model = build(layers=2)
        layers = linear_layers(model)
        assert list(layers) == expected_names(build)
        assert all(model.get_submodule(name) is layer for name, layer in layers.items())


@pytest.mark.parametrize("spoil", ["lacking", "strange", "shape", "nan", "inf"])
def test_scales_that_do_not_fit_are_refused_and_nothing_is_swapped(spoil):
    model = llama()
    scales = {
        name: torch.ones(layer.out_features, 1) for name, layer in linear_layers(model).items()
    }
    first = next(iter(scales))
    if spoil == "lacking":
        del scales[first]
    elif spoil == "strange":
        scales["elsewhere"] = torch.ones(2, 1)
    elif spoil == "shape":
        scales[first] = torch.ones(3)
    else:
        scales[first][0] = float(spoil)
    message = {
        "lacking": f"7 layers, none for {first};",
        "strange": "some for elsewhere, no such layer; pass one for each",
        "shape": rf"scales of {first} have shape \(3,\)",
    }.get(spoil, f"scales given for {first} are not finite")
    with pytest.raises(UsageError, match=message):
        prepare(model, TWO, scales=scales)
    assert not any(isinstance(module, QuantLinear) for module in model.modules())


def test_scales_for_a_quantizer_that_learns_none_are_refused():
    model = llama()
    scales = {
        name: torch.ones(layer.out_features, 1) for name, layer in linear_layers(model).items()
    }
    for one in (spec("rtn", w_bits=2), spec("paretoq", w_bits=16)):
        with pytest.raises(UsageError, match=r"was given scales, but .* learns none"):
            prepare(model, one, scales=scales)


def test_given_scales_below_the_floor_are_told_once():
    model = llama().eval()
    scales = {
        name: torch.ones(layer.out_features, 1) for name, layer in linear_layers(model).items()
    }
    first = next(iter(scales))
    scales[first][:3] = torch.tensor([[-1.0], [0.0], [1e-5]])
    with pytest.warns(InputWarning, match=rf"^3 of .* given scales are not above 1e-05 .* {first}"):
        prepare(model, TWO, scales=scales)
    model(IDS)  # a second warning would be an error


def test_a_skeleton_without_memory_is_prepared_too():
    with torch.device("meta"):
        model = llama()
    prepare(model, TWO)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert all(layer.scale.shape[1] == 1 for layer in quant_layers(model).values())
