"""Products with the Hessian against explicit Hessians in true float64."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spectra.curvature import hessian
from tests.curvature.models import (
    VOCAB,
    batch,
    dense,
    gpt2,
    llama,
    operator_matrix,
    random_vectors,
    relative_error,
    token_loss,
)

MODELS = {
    "llama": lambda: llama(),
    "llama two layers tied": lambda: llama(layers=2, tied=True),
    "gpt2 tied": lambda: gpt2(),
    "gpt2 untied": lambda: gpt2(tied=False, layers=2),
}
DATA = {
    "plain": lambda: [batch(2, 5)],
    "masked": lambda: [batch(2, 6, masked=0.4)],
    "uneven": lambda: [batch(2, 5), batch(1, 3, seed=1, masked=0.3)],
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("params", ["linear", "embedding", "all"])
@pytest.mark.parametrize("case", MODELS)
def test_products_equal_the_dense_hessian(case, params, data):
    model, batches = MODELS[case](), DATA[data]()
    H = hessian(model, batches, params=params, dtype="float64")
    loss, gradient, exact = dense(model, H.selection.names, batches)
    V = random_vectors(4, H.dim)
    for v, product in zip(V, V @ exact, strict=True):
        assert relative_error(H.matvec(v), product) <= 1e-10
    assert math.isclose(H.mean.loss, float(loss), rel_tol=1e-13)
    assert relative_error(H.mean.gradient, gradient) <= 1e-11
    assert math.isclose(H.mean.grad_norm, float(gradient.norm()), rel_tol=1e-11)
    assert H.mean.tokens == sum(one.count for one in batches)


@pytest.mark.parametrize("case", MODELS)
def test_whole_matrix_equals_the_dense_hessian(case):
    model, batches = MODELS[case](), DATA["uneven"]()
    H = hessian(model, batches, params="linear", dtype="float64")
    _, _, exact = dense(model, H.selection.names, batches)
    assert relative_error(operator_matrix(H), exact) <= 1e-10


def test_float64_without_the_mode_would_not_reach_that_accuracy():
    model = llama(layers=2).double()
    H = hessian(model, [batch(2, 6)])
    ids = batch(2, 6).input_ids

    def plain(module, _):
        logits = module(ids).logits[:, :-1].flatten(0, 1)
        return nn.functional.cross_entropy(logits, ids[:, 1:].flatten())

    names = H.selection.names
    leaves = [dict(model.named_parameters())[name] for name in names]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        gradient = torch.autograd.grad(plain(model, None), leaves, create_graph=True)
    v = random_vectors(1, H.dim)[0]
    product = torch.autograd.grad(gradient, leaves, H.selection.split(v))
    cast = torch.cat([block.reshape(-1) for block in product])
    assert 1e-9 < relative_error(cast, H.matvec(v)) < 1e-4


@pytest.mark.parametrize("case", ["llama two layers tied", "gpt2 untied"])
def test_mean_is_the_token_weighted_mean_of_the_batches(case):
    model, batches = MODELS[case](), [batch(2, 5), batch(1, 4, seed=1, masked=0.5)]
    H = hessian(model, batches, params="all", dtype="float64")
    v = random_vectors(1, H.dim)[0]
    counts = [one.count for one in batches]
    assert counts[0] != counts[1]
    parts = [operator.matvec(v) for operator in H.per_batch()]
    mean = sum(c * part for c, part in zip(counts, parts, strict=True)) / sum(counts)
    assert relative_error(H.matvec(v), mean) <= 1e-13
    for index, part in enumerate(parts):
        _, _, exact = dense(model, H.selection.names, batches[index : index + 1])
        assert relative_error(part, exact @ v) <= 1e-10


def test_policies_and_several_vectors_at_once_agree():
    model, batches = llama(layers=2), DATA["uneven"]()
    keep = hessian(model, batches, params="all", dtype="float64", graph="keep")
    again = hessian(model, batches, params="all", dtype="float64", graph="recompute")
    V = random_vectors(3, keep.dim)
    expected = torch.stack([keep.matvec(v) for v in V])
    assert torch.equal(keep.matvecs(V), expected)
    assert relative_error(again.matvecs(V), expected) <= 1e-14
    assert again.mean.loss == keep.mean.loss
    assert relative_error(again.mean.gradient, keep.mean.gradient) <= 1e-13
    for family in (keep, again):
        family.mean.batched_products = True
        assert relative_error(family.matvecs(V), expected) <= 1e-13
        assert family.mean.batched_products
    keep.release()
    assert torch.equal(keep.matvecs(V[:1])[0], expected[0])


def test_auto_rebuilds_graphs_that_do_not_fit_together(monkeypatch):
    import spectra.curvature.holder as module

    model, batches = llama(), [batch(1, 5, seed=s) for s in range(3)]
    H = hessian(model, batches, dtype="float64")
    v = random_vectors(1, H.dim)[0]
    expected = H.matvec(v)
    assert H.metadata()["graph"] == "keep"
    counter = iter(range(0, 100 * 2**30, 2**30))
    monkeypatch.setattr(module, "used_bytes", lambda _: next(counter))
    monkeypatch.setattr(module, "free_bytes", lambda _: 2**30)
    small = hessian(model, batches, dtype="float64")
    assert relative_error(small.matvec(v), expected) <= 1e-14
    assert small.metadata()["graph"] == "recompute"
    assert any("do not fit together" in note for note in small.metadata()["notes"])


def test_scaling_the_loss_scales_every_product_exactly():
    model, one = llama(layers=2), batch(2, 6)

    def loss(scale):
        def scaled(module, data):
            logits = module(data["input_ids"]).logits[:, :-1].flatten(0, 1)
            labels = data["input_ids"][:, 1:].flatten()
            return nn.functional.cross_entropy(logits, labels) * scale

        return scaled

    data = [{"input_ids": one.input_ids}]
    H, small = (hessian(model, data, loss=loss(s)) for s in (1.0, 2.0**-27))
    v = random_vectors(1, H.dim, dtype=torch.float32)[0]
    assert torch.equal(small.matvec(v), H.matvec(v) * 2.0**-27)


def test_flops_of_a_product_are_two_gradients():
    model = llama(hidden=32, layers=4, heads=4, kv_heads=2, inner=64, vocab=64)
    data = [batch(2, 32, vocab=64)]
    H = hessian(model, data)
    H.prepare()
    v = torch.randn(H.dim)

    parameters = dict(model.named_parameters())
    leaves = [parameters[name] for name in H.selection.names]
    others = [p for name, p in parameters.items() if name not in H.selection.names]
    for p in others:
        p.requires_grad_(False)
    values = dict(model.named_parameters())
    with FlopCounterMode(display=False) as counter:
        loss = token_loss(model, values, data)
        torch.autograd.grad(loss, leaves)
    gradient = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        H.matvec(v)
    assert 1.5 < counter.get_total_flops() / gradient <= 2.1
    again = hessian(model, data, graph="recompute")
    again.prepare()
    with FlopCounterMode(display=False) as counter:
        again.matvec(v)
    assert 2.5 < counter.get_total_flops() / gradient <= 3.1


def test_agreement_with_hessian_eigenthings():
    pytest.importorskip("hessian_eigenthings")
    from hessian_eigenthings.operators import HessianOperator as Peer

    model, one = llama(layers=2), batch(2, 6)
    model.config._attn_implementation = "eager"
    data = {"input_ids": one.input_ids, "labels": one.labels}
    H = hessian(model, [data], params="all")
    peer = Peer(model.eval(), [data], lambda m, b: m(**b).loss)
    v = random_vectors(1, H.dim, dtype=torch.float32)[0]
    assert H.selection.names == tuple(name for name, _ in model.named_parameters())
    assert relative_error(H.matvec(v), peer.matvec(v)) <= 2e-5


@pytest.mark.parametrize("form", ["mean", "sum and count"])
def test_any_module_with_a_loss_callable(form):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    batches = [(torch.randn(n, 3), torch.randn(n, 2)) for n in (5, 2)]

    def loss(module, data):
        x, y = data
        residual = (module(x) - y).pow(2).sum()
        return (residual, len(x)) if form == "sum and count" else residual / len(x)

    H = hessian(model, batches, params="all", loss=loss, dtype="float64")
    names = H.selection.names
    weights = (5 / 7, 2 / 7) if form == "sum and count" else (1 / 2, 1 / 2)

    def total(theta):
        blocks = dict(zip(names, H.selection.split(theta), strict=True))
        parts = []
        for x, y in batches:
            hidden = torch.tanh(x.double() @ blocks["0.weight"].T + blocks["0.bias"])
            out = hidden @ blocks["2.weight"].T + blocks["2.bias"]
            parts.append((out - y.double()).pow(2).sum() / len(x))
        return sum(w * part for w, part in zip(weights, parts, strict=True))

    exact = torch.autograd.functional.hessian(total, H.point.vector())
    assert relative_error(operator_matrix(H), exact) <= 1e-12
    assert H.mean.tokens == (7 if form == "sum and count" else 2)


def test_unused_and_linear_parameters_have_zero_blocks():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Parameter(torch.tensor([1.0, 2.0]))
            self.straight = nn.Parameter(torch.tensor([3.0]))
            self.unused = nn.Parameter(torch.tensor([4.0]))

    def loss(module, x):
        return module.used.pow(3).sum() + x * module.straight.sum()

    H = hessian(Net(), [torch.tensor(2.0)], params="all", loss=loss)
    assert torch.equal(operator_matrix(H), torch.diag(torch.tensor([6.0, 12.0, 0.0, 0.0])))
    flat = hessian(Net(), [torch.tensor(2.0)], params="straight", loss=loss)
    assert flat.matvec(torch.ones(1)).tolist() == [0.0]
    absent = hessian(Net(), [torch.tensor(2.0)], params="unused", loss=loss)
    assert absent.matvec(torch.ones(1)).tolist() == [0.0]
    assert absent.mean.grad_norm == 0.0


def test_logits_that_are_not_the_head_of_the_states_take_the_general_path():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=4,
        intermediate_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=2,
        initializer_range=0.5,
        final_logit_softcapping=2.0,
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config)
    data = [batch(1, 5)]
    H = hessian(model, data, dtype="float64", params="*down_proj*")
    assert any("logits are not the head" in note for note in H.metadata()["notes"])
    name = H.selection.names[0]
    twin = model.double().eval()

    def loss(theta):
        values = {name: theta.view(H.selection.shapes[0])}
        out = torch.func.functional_call(twin, values, (data[0].input_ids,)).logits[0, :-1]
        return nn.functional.cross_entropy(out, data[0].labels[0, 1:])

    exact = torch.autograd.functional.hessian(loss, H.point.vector())
    # The reference keeps the model's own casts to float32.
    assert relative_error(operator_matrix(H), exact) <= 1e-4


def test_attention_masks_reach_the_model():
    model, one = llama(layers=2), batch(2, 6)
    mask = torch.ones_like(one.input_ids)
    mask[1, 4:] = 0
    short = [one.input_ids[0:1], one.input_ids[1:2, :4]]
    H = hessian(model, {"input_ids": one.input_ids, "attention_mask": mask}, dtype="float64")
    apart = hessian(model, short, dtype="float64")
    v = random_vectors(1, H.dim)[0]
    assert H.mean.tokens == 5 + 3
    assert relative_error(H.matvec(v), apart.matvec(v)) <= 1e-12


def test_a_bfloat16_model_runs_in_its_own_type_or_the_one_asked_for():
    model, data = llama(layers=2).bfloat16(), [batch(2, 6)]
    H = hessian(model, data)
    assert H.dtype == torch.bfloat16
    wide = hessian(model, data, dtype="float32")
    exact = hessian(model, data, dtype=torch.float64)
    v = random_vectors(1, H.dim)[0]
    truth = exact.matvec(v)
    assert relative_error(wide.matvec(v.float()), truth) <= 1e-5
    assert 1e-4 < relative_error(H.matvec(v.bfloat16()), exact.matvec(v.bfloat16())) <= 0.1
