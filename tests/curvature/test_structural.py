"""The recorded bound is never above the exact zero fraction, and not far below it."""

import pytest
import torch
from torch import nn

from spectra.curvature import ggn, hessian, structural_zeros
from tests.curvature.models import VOCAB, batch, dense, gpt2, llama, operator_matrix


def exact_zeros(matrix):
    values = torch.linalg.eigvalsh(matrix).abs()
    return int((values <= 1e-11 * values.max()).sum())


@pytest.mark.parametrize("masked", [0.0, 0.6])
@pytest.mark.parametrize("shape", [(1, 3), (2, 4), (1, 10)])
@pytest.mark.parametrize("params", ["linear", "embedding", "all"])
@pytest.mark.parametrize("build", [llama, gpt2], ids=["llama", "gpt2"])
def test_bound_is_never_above_the_exact_zeros(build, params, shape, masked):
    model = build(tied=False, **({"positions": 16} if build is gpt2 else {"inner": 8}))
    data = [batch(*shape, masked=masked)]
    H = hessian(model, data, params=params, dtype="float64")
    found = structural_zeros(H)
    _, _, matrix = dense(model, H.selection.names, data)
    assert found.zeros <= exact_zeros(matrix)
    assert found.fraction == found.zeros / H.dim
    assert found.tokens == data[0].count
    if params == "embedding":
        assert found.zeros > 0


@pytest.mark.parametrize("length", [4, 7, 10, 17])
def test_bound_tells_most_of_the_zeros_of_few_tokens(length):
    model = llama(hidden=8, inner=12, layers=1)
    data = [batch(1, length)]
    H = hessian(model, data, dtype="float64")
    found = structural_zeros(H)
    exact = exact_zeros(operator_matrix(H))
    assert found.zeros <= exact
    if length == 4:
        assert found.zeros >= 0.7 * exact > 0
        assert found.few_tokens
    if length == 17:
        assert found.zeros == 0
        assert not found.few_tokens


def test_several_batches_leave_fewer_zeros_than_each():
    model, data = llama(hidden=8, inner=12), [batch(1, 4), batch(1, 4, seed=1)]
    H = hessian(model, data, dtype="float64")
    together = structural_zeros(H)
    assert together.zeros <= exact_zeros(operator_matrix(H))
    for operator in H.per_batch():
        assert structural_zeros(operator).zeros > together.zeros


def test_masked_positions_before_the_last_label_count_and_those_behind_it_do_not():
    from spectra.data import Batch

    model, one = llama(hidden=8, inner=12), batch(1, 12)
    behind, before = one.labels.clone(), one.labels.clone()
    behind[:, 4:] = -100
    before[:, 1:9] = -100
    short = hessian(model, [Batch(one.input_ids[:, :4], one.labels[:, :4])], dtype="float64")
    tail = hessian(model, [Batch(one.input_ids, behind)], dtype="float64")
    head = hessian(model, [Batch(one.input_ids, before)], dtype="float64")
    assert structural_zeros(tail).zeros == structural_zeros(short).zeros > 0
    assert structural_zeros(head).zeros < structural_zeros(tail).zeros
    for H in (tail, head):
        assert structural_zeros(H).zeros <= exact_zeros(operator_matrix(H))


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("params", ["embedding", "all"])
def test_a_tied_table_has_no_unseen_rows(build, params):
    model, data = build(tied=True), [batch(1, 4)]
    H = hessian(model, data, params=params, dtype="float64")
    found = structural_zeros(H)
    _, _, matrix = dense(model, H.selection.names, data)
    assert found.zeros <= exact_zeros(matrix)
    table = model.get_input_embeddings().weight
    assert all(layer.size != table.numel() or not layer.zeros for layer in found.layers)


def test_unseen_rows_and_positions_are_counted_exactly():
    model, data = gpt2(tied=False, positions=12), [batch(1, 5)]
    H = hessian(model, data, params="transformer.wte.weight,transformer.wpe.weight")
    seen = len(data[0].input_ids[:, :4].unique())
    assert structural_zeros(H).zeros == (VOCAB - seen) * 4 + (12 - 4) * 4


def test_gauss_newton_matrices_have_more_zeros():
    model, data = llama(hidden=8, inner=12), [batch(1, 5)]
    G, H = ggn(model, data, dtype="float64"), hessian(model, data, dtype="float64")
    assert structural_zeros(G).zeros > structural_zeros(H).zeros
    assert structural_zeros(G).zeros <= exact_zeros(operator_matrix(G))


def test_weights_used_in_several_places_are_bounded_too():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.again = nn.Linear(5, 5, bias=False)
            self.aside = nn.Linear(5, 5, bias=False)

        def forward(self, x):
            y = torch.tanh(self.again(torch.tanh(self.again(x))))
            return torch.tanh(self.aside(y)) + nn.functional.linear(x, self.aside.weight)

    data = [torch.randn(1, 5, generator=torch.Generator().manual_seed(0))]
    H = hessian(Twice(), data, loss=lambda m, x: m(x).pow(2).sum(), dtype="float64")
    found = structural_zeros(H)
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["again.weight"].zeros == 3 * 3
    assert by_name["again.weight"].ranks == (2, 2)
    assert by_name["aside.weight"].zeros == 0
    assert found.zeros <= exact_zeros(operator_matrix(H))


def test_a_table_used_elsewhere_has_no_unseen_rows():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(6, 3)

        def forward(self, ids):
            return nn.functional.linear(torch.tanh(self.table(ids)), self.table.weight)

    H = hessian(Tied(), [torch.tensor([1, 4])], params="all", loss=lambda m, x: m(x).pow(2).sum())
    assert structural_zeros(H).zeros == 0


def test_hooks_do_not_stay():
    model = llama()
    structural_zeros(hessian(model, [batch(1, 4)]))
    assert not any(module._forward_hooks for module in model.modules())


def test_float32_gives_the_same_bound():
    model, data = llama(hidden=8, inner=12, layers=2), [batch(1, 5), batch(1, 4, seed=2)]
    for index in range(2):
        narrow = structural_zeros(hessian(model, data).operator(index))
        wide = structural_zeros(hessian(model, data, dtype="float64").operator(index))
        assert narrow.zeros == wide.zeros > 0
