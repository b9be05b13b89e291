"""What `info` foretells, against what a product does and keeps."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

import spectra
from spectra.benchmarks.flops import flops
from spectra.benchmarks.live import peak_bytes
from spectra.curvature import select_parameters
from spectra.curvature.graphs import COSTS
from spectra.data import Batch
from spectra.estimation import choice
from spectra.estimation.choice import choose_graph
from spectra.estimation.cost import ModelShape, count, shape_of
from spectra.quant import prepare, spec
from tests.estimation.models import small_llama

TOKENS = 96


@pytest.fixture(scope="module", params=[(64, 160, 4), (96, 192, 3)])
def operator_and_shape(request):
    hidden, intermediate, heads = request.param
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    ids = torch.randint(0, 128, (1, TOKENS))
    operator = spectra.hessian(model, [Batch(ids, ids)]).operator(0)
    shape = ModelShape(
        linear=operator.dim,
        head=hidden * 128,
        layers=3,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        vocab=128,
        parameters=sum(p.numel() for p in model.parameters()),
    )
    return operator, shape


def test_flops_of_a_product(operator_and_shape):
    operator, shape = operator_and_shape
    told = count(shape, tokens=TOKENS, seq_len=TOKENS, itemsize=4).flops
    operator.prepare()
    with FlopCounterMode(display=False) as counter:
        operator.matvec(torch.ones(operator.dim))
    assert counter.get_total_flops() == pytest.approx(told, rel=0.1)


def test_bytes_the_graph_keeps(operator_and_shape):
    operator, shape = operator_and_shape
    told = count(shape, tokens=TOKENS, seq_len=TOKENS, itemsize=4).graph_bytes
    own = {p.untyped_storage().data_ptr() for p in operator.point.model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so no address comes twice
        return tensor

    operator.release()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        operator.prepare()
    gradients = 2 * 4 * operator.dim
    assert sum(size for size, _ in kept.values()) + gradients == pytest.approx(told, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bytes_of_the_quantized_weights(operator_and_shape, dtype):
    model = small_llama().to(dtype)
    prepare(model, spec("paretoq", w_bits=1))
    ids = torch.randint(0, 32, (1, 8))
    family = spectra.hessian(model, [Batch(ids, ids)])
    family.prepare()
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for layer in (m for m in model.modules() if hasattr(m, "quantized_weight"))
        for tensor in (
            family.point.surface.value(layer.weight),
            family.point.value(layer.weight),
        )
    }
    held[family.keep.data_ptr()] = family.keep.nbytes
    sizes = {"tokens": 8, "seq_len": 8, "itemsize": dtype.itemsize}
    shape = operator_and_shape[1]
    told = count(shape, **sizes, quantized=family.dim).weight_bytes
    assert sum(held.values()) == told - count(shape, **sizes).weight_bytes


@pytest.mark.parametrize("micro_batch", [None, 1])
@pytest.mark.parametrize("graph", ["keep", "recompute", "blocks"])
def test_peak_bytes_of_a_product(graph, micro_batch):
    """Temporaries and vectors beside the counted graph stay within what SHARE leaves."""
    length, rows, layers = 96, 2, 8
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=192, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = torch.randint(0, 64, (rows, length))
    operator = spectra.hessian(model, [Batch(ids, ids)], graph=graph, micro_batch=micro_batch).mean
    linear = select_parameters(model, "linear")
    shape = shape_of(
        config,
        dict(zip(linear.names, linear.shapes, strict=True)),
        sum(p.numel() for p in model.parameters()),
    )
    told = count(
        shape,
        tokens=rows * length,
        seq_len=length,
        itemsize=4,
        graph=graph,
        piece=length * (micro_batch or rows),
    )
    v = torch.ones(operator.dim)
    assert 0.7 < peak_bytes(lambda: operator.matvec(v)) / told.graph_bytes < 1.6
    kept = spectra.hessian(model, [Batch(ids, ids)]).mean
    kept.prepare()
    times = COSTS["Hessian"][graph] / 2
    assert flops(lambda: operator.matvec(v)) / flops(lambda: kept.matvec(v)) == pytest.approx(
        times, rel=0.08
    )


def test_hidden_states_kept_between_blocks():
    model = small_llama(layers=3)
    ids = torch.randint(0, 32, (2, 8))
    operator = spectra.hessian(model, [Batch(ids, ids)], graph="blocks").mean
    operator.matvec(torch.ones(operator.dim))
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for stage in operator._graphs[0].stages
        for tensor in (stage.x, stage.out, stage.slope)
    }
    assert sum(held.values()) == 4 * 16 * 8 * (2 * 3 + 1)


def test_the_first_way_that_fits_is_taken(monkeypatch):
    shape = ModelShape(10**6, 10**5, 10, 64, 256, 4, 1000, 2 * 10**6)
    sizes = {
        "tokens": 4096, "seq_len": 512, "piece": 512,
        "dtype": torch.float32, "device": torch.device("cpu"),
    }  # fmt: skip
    plan = choose_graph("auto", shape, **sizes)
    need = [plan.costs[way].graph_bytes for way in ("keep", "recompute", "blocks")]
    assert need == sorted(need, reverse=True)
    for way, size in zip(("keep", "recompute", "blocks"), need, strict=True):
        monkeypatch.setattr(choice, "available_bytes", lambda _, size=size: int(size / 0.7) + 9)
        chosen = choose_graph("auto", shape, **sizes)
        assert chosen.graph == way
        assert bool(chosen.note) == (way != "keep")
    monkeypatch.setattr(choice, "available_bytes", lambda _: 0)
    assert choose_graph("auto", shape, **sizes).graph == "blocks"
    assert choose_graph("keep", shape, **sizes).graph == "keep"
    # One piece: what is rebuilt whole is as large as what is kept, so it is passed over.
    monkeypatch.setattr(choice, "available_bytes", lambda _: int(need[1] / 0.7))
    assert choose_graph("auto", shape, **(sizes | {"piece": 4096})).graph == "blocks"
