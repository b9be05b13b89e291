"""Blocks as nodes that rebuild themselves, on one process: derivatives and what they cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from spectra.curvature import hessian
from spectra.curvature.fingerprint import changed
from spectra.curvature.sharded import ShardedCurvature
from spectra.errors import NumericalError, SpectraError
from spectra.parallel.group import Group
from spectra.parallel.launched import Place
from tests.curvature.models import batch, dense, gpt2, llama, random_vectors, relative_error

CPU = torch.device("cpu")
DATA = [batch(2, 5), batch(1, 4, seed=1, masked=0.3)]


class Flops(TorchDispatchMode):
    """Counts those of matrix products; unlike torch's counter it does not look at modules."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def flops(work: Any) -> int:
    with Flops() as counted:
        work()
    return counted.total


def sharded(model: nn.Module, data: Any, **options: Any) -> ShardedCurvature:
    return ShardedCurvature(hessian(model, data, **options), Group(Place()), CPU)


@pytest.mark.parametrize("build", [lambda: llama(layers=2), lambda: gpt2(layers=2, tied=False)])
@pytest.mark.parametrize("params", ["linear", "*.1.mlp.*weight"])
def test_products_equal_the_dense_hessian(build: Any, params: str) -> None:
    model = build()
    names = hessian(model, DATA, params=params).selection.names
    loss, gradient, exact = dense(model, names, DATA)
    family = sharded(model, DATA, params=params, dtype="float64")
    space, op = family.space, family.mean
    V = random_vectors(2, family.dim)
    found = space.whole(op.matvecs(space.take(V)))
    assert relative_error(found, V @ exact) < 1e-11
    assert relative_error(space.whole(op.gradient[None])[0], gradient) < 1e-11
    assert op.loss == pytest.approx(float(loss), rel=1e-13)
    assert op.tokens == sum(one.count for one in DATA)


def test_what_changes_is_named_wherever_it_is_held() -> None:
    model = llama(layers=2)
    family = sharded(model, DATA, params="linear", dtype="float64")
    before = family.mean.fingerprint()
    assert changed(before, family.operator(1).fingerprint()) == []
    with torch.no_grad():
        family.mean.parts[1][3] += 1
        family.mean.point.model.get_parameter("model.norm.weight")[0] += 1
    names = changed(before, family.mean.fingerprint())
    assert names == ["model.norm.weight", "weights of block 1"]


def test_a_product_costs_four_gradients() -> None:
    model = llama(layers=8, hidden=64, inner=128, heads=4, kv_heads=4)
    plain = hessian(model, [batch(2, 16)], dtype="float32")
    gradient = flops(lambda: plain.mean._build(plain.batches[0], second_order=False))
    op = sharded(model, [batch(2, 16)], dtype="float32").mean
    op.prepare()
    v = torch.ones(op.space.length(op.dim))
    assert 3.6 < flops(lambda: op.matvec(v)) / gradient < 4.1


def test_what_has_no_second_derivative_or_no_loss_is_told() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
            return slope

    class Truncated(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Once.apply(torch.nn.functional.silu(x))

    model = llama(layers=2)
    model.model.layers[1].mlp.act_fn = Truncated()
    op = sharded(model, DATA).mean
    with pytest.raises(SpectraError, match="once_differentiable"):
        op.matvec(torch.ones(op.space.length(op.dim)))
    model = llama(layers=2)
    model.model.embed_tokens.weight.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match="the loss is nan"):
        sharded(model, DATA).mean.prepare()
