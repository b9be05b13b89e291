"""Options of the floating-point quantizers: which layers, which widths, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spectra.errors import UsageError
from spectra.quant import (
    advance_histories,
    amax_histories,
    parse_options,
    prepare,
    quant_layers,
    spec,
)
from tests.curvature.models import llama
from tests.quant.cases import gaussian


def test_sixteen_bits_have_no_history():
    model = nn.Sequential(nn.Linear(4, 4))
    prepare(model, spec("hif8", w_bits=16, a_bits=16))
    assert amax_histories(model) == {}
    x = gaussian(3, 4)
    assert torch.equal(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))
    advance_histories(model)
    only = nn.Sequential(nn.Linear(4, 4))
    prepare(only, spec("hif8", w_bits=8, a_bits=16))
    assert list(amax_histories(only)) == ["0.scaling.weights"]


PAPER = {"only": "*gate_proj,*up_proj,*down_proj", "skip_first": 1, "skip_last": 1}


def test_layers_and_blocks_that_are_left_out_stay_plain():
    model = llama(layers=4)
    names = prepare(model, spec("hif8", w_bits=8, a_bits=8, **PAPER))
    expected = [
        f"model.layers.{block}.mlp.{kind}_proj"
        for block in (1, 2)
        for kind in ("gate", "up", "down")
    ]
    assert list(names) == list(quant_layers(model)) == expected
    assert type(model.model.layers[0].mlp.gate_proj) is nn.Linear
    model = llama(layers=2)
    names = prepare(model, spec("hif8", w_bits=8, exclude="*self_attn*, *.1.mlp.up_proj"))
    assert [n.rpartition(".")[2] for n in names] == [
        *("gate_proj", "up_proj", "down_proj", "gate_proj", "down_proj")
    ]


def test_leaving_out_everything_is_refused():
    with pytest.raises(UsageError, match=r"\(skip_first=2\) leave out all 7 linear layers"):
        prepare(llama(), spec("hif8", w_bits=8, skip_first=2))
    with pytest.raises(UsageError, match="needs layers named k_proj"):
        prepare(llama(), spec("hif8", w_bits=8, kv_bits=8, only="*up_proj"))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("hif8", {"policy": "maximum"}, "policy='maximum' is not one of max"),
        ("hif8", {"window": "step"}, "window='step' is not one of steps.*mean steps"),
        ("hif8", {"history": 0}, "history=0 is no count; pass an integer from 1"),
        ("hif8", {"skip_last": -1}, "skip_last=-1 is no count"),
        ("hif8", {"target": 1e5}, "target=100000 is outside the range of HiF8.*32768"),
        ("hif8", {"g_bits": 4}, "g_bits=4 is not defined; pass 8 or 16"),
        ("fp8_e4m3", {"g_rounding": "stochastic"}, "not defined for FP8 E5M2"),
        ("fp8_e4m3", {"saturate": "none"}, "FP8 E4M3 saturates"),
        ("hif8", {"a_bits": 4}, "a_bits=4 is not defined by the quantizer 'hif8'.*pass 8, or 16"),
        ("hif8", {"polcy": "max"}, "no option 'polcy'; did you mean policy"),
    ],
)
def test_options_out_of_range_are_refused(name, options, words):
    with pytest.raises(UsageError, match=words):
        spec(name, w_bits=8, **options)


def test_options_are_read_from_text():
    found = parse_options("hif8", "policy=mean, history=32,target=7.5,only=*a,*b*")
    assert found == {"policy": "mean", "history": 32, "target": 7.5, "only": "*a,*b*"}
    for text, words in (
        ("history=many", "history='many' is not of type int"),
        ("policy", "assigns nothing in 'policy'"),
    ):
        with pytest.raises(UsageError, match=words):
            parse_options("hif8", text)
    with pytest.raises(UsageError, match="'hif' is not known; did you mean hif8"):
        parse_options("hif", "policy=mean")
