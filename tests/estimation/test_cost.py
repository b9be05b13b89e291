"""What `info` foretells, against what a product does and keeps."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

import spectra
from spectra.data import Batch
from spectra.estimation.cost import ModelShape, count
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
