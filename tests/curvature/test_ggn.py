"""Gauss-Newton products against JᵀH_outJ assembled from dense Jacobians."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spectra.curvature import ggn, hessian
from spectra.errors import UsageError
from tests.curvature.models import (
    batch,
    gpt2,
    llama,
    operator_matrix,
    random_vectors,
    reference_copy,
    relative_error,
    token_loss,
)


def dense_ggn(model, selection, batches):
    """Σ JᵀH_outJ over all counted positions / their number, from the logits' dense Jacobian."""
    twin = reference_copy(model)
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    theta = torch.cat([parameters[n].detach().reshape(-1) for n in selection.names])
    theta.requires_grad_()
    pieces = theta.split(list(selection.sizes))
    values = {
        alias: piece.view(shape)
        for piece, shape, aliases in zip(pieces, selection.shapes, selection.aliases, strict=True)
        for alias in aliases
    }
    total, count = torch.zeros(len(theta), len(theta), dtype=torch.float64), 0
    for one in batches:
        with sdpa_kernel(SDPBackend.MATH):
            logits = torch.func.functional_call(
                twin, values, (one.input_ids,), tie_weights=False
            ).logits[:, :-1]
        for row in logits[one.labels[:, 1:] != -100]:
            eye = torch.eye(len(row), dtype=torch.float64)
            (J,) = torch.autograd.grad(row, theta, eye, is_grads_batched=True, retain_graph=True)
            P = row.detach().softmax(0)
            total += J.T @ (torch.diag(P) - torch.outer(P, P)) @ J
            count += 1
    return total / count


@pytest.mark.parametrize("params", ["linear", "embedding", "all", "lm_head.weight"])
@pytest.mark.parametrize(
    "build",
    [llama, gpt2, lambda: llama(tied=True), lambda: gpt2(tied=False)],
    ids=["llama", "gpt2 tied", "llama tied", "gpt2 untied"],
)
def test_products_equal_the_dense_gauss_newton_matrix(build, params):
    model = build()
    batches = [batch(2, 4), batch(1, 4, seed=1, masked=0.3)]
    G = ggn(model, batches, params=params, dtype="float64")
    exact = dense_ggn(model, G.selection, batches)
    V = random_vectors(3, G.dim)
    assert relative_error(G.matvecs(V), V @ exact) <= 1e-10
    H = hessian(model, batches, params=params, dtype="float64")
    assert abs(G.mean.loss - H.mean.loss) <= 1e-14
    assert relative_error(G.mean.gradient, H.mean.gradient) <= 1e-13


def test_policies_and_several_vectors_at_once_agree():
    model, batches = llama(layers=2), [batch(2, 5), batch(1, 4, seed=1)]
    keep = ggn(model, batches, params="all", dtype="float64")
    again = ggn(model, batches, params="all", dtype="float64", graph="recompute")
    V = random_vectors(3, keep.dim)
    expected = keep.matvecs(V)
    assert relative_error(again.matvecs(V), expected) <= 1e-14
    keep.mean.batched_products = True
    assert relative_error(keep.matvecs(V), expected) <= 1e-13
    assert keep.mean.batched_products


def test_gauss_newton_is_positive_and_the_hessian_s_negative_part_lies_beyond_it():
    model, batches = llama(layers=2), [batch(2, 6)]
    G = operator_matrix(ggn(model, batches, dtype="float64"))
    H = operator_matrix(hessian(model, batches, dtype="float64"))
    low, high = torch.linalg.eigvalsh(G)[[0, -1]]
    assert low >= -1e-12 * high
    assert torch.linalg.eigvalsh(H)[0] < -1e-6 * high
    assert torch.linalg.eigvalsh(H - G)[0] <= torch.linalg.eigvalsh(H)[0]


def test_hessian_equals_gauss_newton_for_the_head_alone():
    model, batches = llama(), [batch(2, 6, masked=0.3)]
    G = ggn(model, batches, params="lm_head.weight", dtype="float64")
    H = hessian(model, batches, params="lm_head.weight", dtype="float64")
    v = random_vectors(1, G.dim)[0]
    assert relative_error(G.matvec(v), H.matvec(v)) <= 1e-13


def test_any_module_split_by_the_caller():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    batches = [(torch.randn(n, 3), torch.randn(n, 2)) for n in (5, 2)]
    G = ggn(
        model,
        batches,
        params="all",
        dtype="float64",
        output=lambda module, data: module(data[0]),
        loss=lambda out, data: ((out - data[1]).pow(4).sum(), len(out)),
    )
    exact = torch.zeros(G.dim, G.dim, dtype=torch.float64)
    names = G.selection.names
    for x, y in batches:

        def output(theta, x=x):
            blocks = dict(zip(names, G.selection.split(theta), strict=True))
            hidden = torch.tanh(x.double() @ blocks["0.weight"].T + blocks["0.bias"])
            return (hidden @ blocks["2.weight"].T + blocks["2.bias"]).reshape(-1)

        theta = G.point.vector()
        J = torch.autograd.functional.jacobian(output, theta)
        curvature = 12 * (output(theta) - y.double().reshape(-1)).pow(2)
        exact += J.T @ torch.diag(curvature) @ J / 7
    assert relative_error(operator_matrix(G), exact) <= 1e-12
    G.mean.batched_products = True
    assert relative_error(operator_matrix(G), exact) <= 1e-12


def test_logits_taken_from_the_model_give_the_same_matrix():
    from dataclasses import replace

    model, batches = llama(), [batch(2, 5)]
    G = ggn(model, batches, params="all", dtype="float64")
    v = random_vectors(1, G.dim)[0]
    expected = G.matvec(v)
    whole = ggn(model, batches, params="all", dtype="float64")
    whole.mean.loss_function = replace(whole.loss_function, split=False)
    assert relative_error(whole.matvec(v), expected) <= 1e-13


def test_flops_of_a_product_are_four_thirds_of_a_gradient():
    model = llama(hidden=32, layers=4, heads=4, kv_heads=2, inner=64, vocab=64)
    data = [batch(2, 32, vocab=64)]
    G = ggn(model, data)
    G.prepare()
    parameters = dict(model.named_parameters())
    for name, p in parameters.items():
        p.requires_grad_(name in G.selection.names)
    with FlopCounterMode(display=False) as counter:
        loss = token_loss(model, parameters, data)
        torch.autograd.grad(loss, [parameters[name] for name in G.selection.names])
    gradient = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        G.matvec(torch.randn(G.dim))
    assert 1.0 < counter.get_total_flops() / gradient <= 1.4


def test_output_and_loss_come_together():
    with pytest.raises(UsageError, match="only loss was given"):
        ggn(llama(), [batch(1, 4)], loss=lambda out, _: out.sum())
