"""Per-token symmetric activations, and keys and values before rotary embedding."""

import pytest
import torch

from spectra.errors import UsageError
from spectra.quant import prepare, quant_layers, quantize_activations, spec
from tests.curvature.models import llama
from tests.quant.cases import gaussian


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_each_token_has_its_own_grid_up_to_its_largest_entry(bits):
    x = gaussian(2, 5, 300) * torch.logspace(-3, 3, 5)[:, None]
    top = 2 ** (bits - 1) - 1
    a = x.abs().amax(-1, keepdim=True) / top
    q = quantize_activations(x, bits)
    codes = q / a
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
    assert codes.round().abs().amax(-1).eq(top).all()
    assert float(((q - x).abs() / a).max()) <= 0.5 + 1e-4
    assert torch.equal(quantize_activations(x[1:, 2:3], bits), q[1:, 2:3])
    assert torch.equal(quantize_activations(q, bits), q)
    assert all(len(row.unique()) <= 2 * top + 1 for row in q.reshape(-1, 300))


def test_numbers_at_4_bits():
    q = quantize_activations(torch.tensor([[7.0, -3.4, 0.4, 0.6, -7.0]]), 4)
    assert q.tolist() == [[7, -3, 0, 1, -7]]


def test_the_gradient_passes_untouched_and_16_bits_are_the_identity():
    x, g = gaussian(3, 4).requires_grad_(), gaussian(3, 4, seed=1)
    quantize_activations(x, 3).backward(g)
    assert torch.equal(x.grad, g)
    assert quantize_activations(x, 16) is x


def test_a_token_of_zeros_stays_and_low_precision_keeps_its_type():
    assert torch.equal(quantize_activations(torch.zeros(2, 3), 8), torch.zeros(2, 3))
    x = gaussian(4, 64, dtype=torch.bfloat16)
    q = quantize_activations(x, 8)
    assert q.dtype == torch.bfloat16
    assert torch.equal(q, quantize_activations(x.float(), 8).bfloat16())


@pytest.mark.parametrize("bits", [0, 1, 1.58, 9, 12, 32])
def test_other_widths_are_refused(bits):
    with pytest.raises(
        UsageError, match=f"={bits:g} is not defined for activations.*2 to 8, or 16"
    ):
        quantize_activations(torch.ones(2), bits)


def test_keys_and_values_are_quantized_as_they_leave_their_projections():
    model = llama(hidden=16, layers=2, heads=2, kv_heads=2).eval()
    prepare(model, spec("paretoq", w_bits=16, kv_bits=2))
    outputs = {}
    for name, layer in quant_layers(model).items():
        layer.register_forward_hook(lambda _m, _i, y, name=name: outputs.update({name: y}))
    model(torch.arange(6)[None])
    few = {name for name, y in outputs.items() if max(len(t.unique()) for t in y[0]) <= 3}
    assert few == {n for n in outputs if n.endswith(("k_proj", "v_proj"))}
    assert len(few) == 4


def test_all_inputs_of_quantized_layers_are_quantized():
    model = llama(hidden=16).eval()
    prepare(model, spec("paretoq", w_bits=16, a_bits=2))
    for layer in quant_layers(model).values():
        x = gaussian(3, layer.in_features)
        with layer.bypassed("all"):
            expected = layer(quantize_activations(x, 2))
            plain = layer(x)
        assert torch.equal(layer(x), expected)
        assert not torch.equal(expected, plain)
