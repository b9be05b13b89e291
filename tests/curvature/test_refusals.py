"""What a Hessian operator refuses, each in one clear sentence."""

import pytest
import torch
from torch import nn

from spectra.curvature import hessian
from spectra.errors import DataError, NumericalError, SpectraError, UsageError
from tests.curvature.models import (
    VOCAB,
    batch,
    gpt2,
    llama,
)


def test_a_loss_that_is_not_finite_names_its_batch():
    model = llama()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = torch.nan
    H = hessian(model, [batch(1, 5), batch(1, 5, seed=1)])
    with pytest.raises(NumericalError, match="loss of batch 1 is nan"):
        H.operator(1).prepare()


def test_an_operation_without_second_derivative_is_named():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.pow(3)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return g * 3 * ctx.saved_tensors[0].pow(2)

    model = nn.Linear(2, 2)
    H = hessian(model, [torch.ones(1, 2)], loss=lambda m, x: Once.apply(m(x)).pow(2).sum())
    with pytest.raises(SpectraError, match="once_differentiable has no second derivative"):
        H.matvec(torch.ones(4))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"surface": "ste"}, UsageError, "no quantizer"),
        ({"surface": "flat"}, UsageError, "not known"),
        ({"reduce": "median"}, UsageError, "reduce='median'"),
        ({"graph": "lazy"}, UsageError, "graph='lazy'"),
        ({"dtype": "int8"}, UsageError, "dtype='int8'"),
        ({"data": []}, UsageError, "0 batches"),
        ({"data": [torch.full((1, 4), VOCAB)]}, DataError, "token id 11"),
        ({"data": [torch.ones(1, 1, dtype=torch.long)]}, DataError, "no label that counts"),
        ({"data": [torch.ones(3)]}, DataError, "shape"),
    ],
)
def test_wrong_arguments_are_one_clear_sentence(change, error, words):
    data = change.pop("data", [batch(1, 4)])
    with pytest.raises(error, match=words) as caught:
        hessian(llama(), data, **change)
    assert "\n" not in str(caught.value)


def test_sequences_beyond_the_position_table_are_refused():
    H = hessian(gpt2(positions=8), [batch(1, 9)])
    with pytest.raises(DataError, match="9 positions"):
        H.prepare()


def test_vectors_of_the_wrong_length_and_foreign_objects_are_refused():
    H = hessian(llama(), [batch(1, 4)])
    with pytest.raises(UsageError, match="does not fit this operator"):
        H.matvec(torch.ones(3))
    with pytest.raises(UsageError, match="batch 1 does not exist"):
        H.operator(1)
    with pytest.raises(UsageError, match=r"torch\.nn\.Module"):
        hessian("gpt2", [batch(1, 4)])
    with pytest.raises(UsageError, match="no causal language model"):
        hessian(nn.Linear(2, 2), [torch.ones(1, 2)])


def test_a_checkpoint_is_anything_with_a_model():
    class Holder:
        model = llama()

    H = hessian(Holder(), [batch(1, 4)], reduce="mean")
    assert H.num_operators() == 1
    assert H.num_operators("per_batch") == 1
    assert H.metadata()["surface"] == "latent"
    assert H.to_scipy().shape == (H.dim, H.dim)
