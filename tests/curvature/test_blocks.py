"""Products block by block: dense truth, bytes, flops, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from spectra.benchmarks.flops import flops
from spectra.benchmarks.live import peak_bytes
from spectra.curvature import ggn, hessian
from spectra.errors import UsageError
from spectra.quant import prepare, spec
from tests.curvature.models import (
    batch,
    dense,
    gpt2,
    llama,
    random_vectors,
    relative_error,
)

CASES = {
    "linear": (lambda: llama(layers=3), "linear"),
    "all": (lambda: llama(layers=2), "all"),
    "tied": (lambda: llama(layers=2, tied=True), "all"),
    "gpt2": (lambda: gpt2(layers=2), "all"),
    "late": (lambda: llama(layers=3), "model.layers.1.*"),
    "head": (lambda: llama(layers=2), "model.layers.1.mlp.*,lm_head.*"),
}


@pytest.mark.parametrize("case", list(CASES))
def test_products_are_those_of_the_dense_hessian(case):
    build, params = CASES[case]
    model, data = build(), [batch(2, 5, masked=0.3), batch(1, 4, seed=2)]
    H = hessian(model, data, params=params, dtype="float64", graph="blocks")
    _, gradient, exact = dense(model, H.selection.names, data)
    V = random_vectors(2, H.dim)
    assert relative_error(H.matvecs(V), V @ exact) <= 1e-10
    assert relative_error(H.matvec(V[0]), exact @ V[0]) <= 1e-10
    assert relative_error(H.mean.gradient, gradient) <= 1e-10
    assert H.metadata()["graph"] == "blocks"


@pytest.mark.parametrize("case", list(CASES))
def test_the_gauss_newton_matrix_is_that_of_kept_graphs(case):
    build, params = CASES[case]
    model, data = build(), [batch(2, 5, masked=0.3)]
    kept, blocks = (
        ggn(model, data, params=params, dtype="float64", graph=graph)
        for graph in ("keep", "blocks")
    )
    V = random_vectors(3, kept.dim)
    expected = torch.stack([kept.matvec(v) for v in V])
    assert relative_error(blocks.matvecs(V), expected) <= 1e-13
    assert relative_error(blocks.matvec(V[0]), expected[0]) <= 1e-13


@pytest.mark.parametrize("surface", ["ste", "quantized", "latent"])
def test_quantized_surfaces(surface):
    model = llama(layers=2, hidden=8, inner=8)
    prepare(model, spec("paretoq", w_bits=2, a_bits=8))
    data = [batch(2, 6)]
    kept, blocks = (
        hessian(model, data, surface=surface, dtype="float64", graph=graph)
        for graph in ("keep", "blocks")
    )
    v = random_vectors(1, kept.dim)[0]
    assert relative_error(blocks.matvec(v), kept.matvec(v)) <= 1e-12


def test_several_vectors_are_those_one_at_a_time_bit_for_bit():
    H = hessian(llama(layers=2), [batch(2, 6)], graph="blocks")
    V = random_vectors(3, H.dim, dtype=torch.float32)
    assert torch.equal(H.matvecs(V), torch.stack([H.matvec(v) for v in V]))


@pytest.fixture(scope="module")
def deep():
    return llama(layers=12, hidden=32, inner=64, heads=2), [batch(4, 32)]


def test_peak_bytes_are_those_of_one_block(deep):
    model, data = deep
    peaks = {}
    for graph in ("keep", "recompute", "blocks"):
        H = hessian(model, data, graph=graph)
        v = torch.ones(H.dim)
        peaks[graph] = peak_bytes(lambda H=H, v=v: H.matvec(v))
    vectors = 4 * 4 * H.dim
    assert peaks["recompute"] < peaks["keep"]
    assert peaks["blocks"] - vectors < (peaks["recompute"] - vectors) / 6


def test_flops_are_four_gradients(deep):
    model, data = deep
    H = hessian(model, data, graph="blocks").mean
    point, loss = H.point, H.loss_function
    leaves = point.leaves()

    def gradient():
        point.call(lambda m: torch.autograd.grad(loss(m, data[0])[0], leaves), leaves)

    V = torch.ones(4, H.dim)
    H.matvec(V[0])
    one = flops(gradient)
    assert flops(lambda: H.matvec(V[0])) / one == pytest.approx(4.0, rel=0.1)
    assert flops(lambda: H.matvecs(V)) / one / 4 == pytest.approx(8 / 3 + 1 / 3, rel=0.1)


def test_weights_changed_in_place_are_noticed():
    model = llama(layers=2)
    H = hessian(model, [batch(1, 5)], graph="blocks")
    v = torch.ones(H.dim)
    H.matvec(v)
    with torch.no_grad():
        model.model.norm.weight.add_(1)
    with pytest.raises(UsageError, match="changed in place"):
        H.matvec(v)


def test_a_model_that_is_no_chain_is_refused():
    model = llama(layers=2)
    base = model.model.forward

    def skipping(*args, **kwargs):
        out = base(*args, **kwargs)
        out.last_hidden_state = out.last_hidden_state + seen[-1]
        return out

    seen = []
    model.model.layers[0].register_forward_hook(lambda *a: seen.append(a[2]))
    model.model.forward = skipping
    with pytest.raises(UsageError, match="more than the last block's hidden state"):
        hessian(model, [batch(1, 5)], graph="blocks").prepare()


def test_other_modules_have_no_blocks():
    H = hessian(torch.nn.Linear(3, 1), [torch.ones(2, 3)], loss=lambda m, x: m(x).pow(2).mean(),
                params="all", graph="blocks")  # fmt: skip
    with pytest.raises(UsageError, match="no known transformer blocks; pass graph='recompute'"):
        H.matvec(torch.ones(H.dim))
