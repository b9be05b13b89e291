"""Captured products: used only where they are faster and the same; and several vectors at once."""

from __future__ import annotations

import pytest
import torch

from spectra.curvature import captured, hessian, several
from tests.curvature.models import batch, llama, random_vectors, relative_error

DATA = [batch(2, 6), batch(1, 5, seed=1)]


class Scaled:
    def __init__(self, graph, factor):
        self.graph, self.factor = graph, factor
        self.loss, self.count, self.gradient = graph.loss, graph.count, graph.gradient

    def product(self, *args, **kwargs):
        return [b * self.factor for b in self.graph.product(*args, **kwargs)]


@pytest.fixture
def prepared():
    operator = hessian(llama(layers=2), DATA, graph="keep").mean
    operator.prepare()
    return operator, random_vectors(1, operator.dim, dtype=torch.float32)[0]


def fake(monkeypatch, factor, times):
    monkeypatch.setattr(
        captured, "capture", lambda op: [Scaled(graph, factor) for graph in op._graphs]
    )
    clock = iter(times)
    monkeypatch.setattr(captured, "seconds", lambda *_: next(clock))


def test_faster_and_the_same_is_used(prepared, monkeypatch):
    operator, v = prepared
    expected, eager = operator.matvec(v), list(operator._graphs)
    fake(monkeypatch, 1.0, (0.02, 0.01))
    found = captured.faster_captured(operator, v)
    assert operator._graphs == eager
    operator._graphs = found
    assert torch.equal(operator.matvec(v), expected)
    assert operator.notes == ["products are replayed CUDA graphs"]


@pytest.mark.parametrize(
    ("factor", "times", "note"),
    [
        (1.0, (0.02, 0.03), None),
        (1.001, (0.02, 0.01), "which differs by 0.001: not used"),
    ],
)
def test_slower_or_different_is_not(prepared, monkeypatch, factor, times, note):
    operator, v = prepared
    eager = list(operator._graphs)
    fake(monkeypatch, factor, times)
    assert captured.faster_captured(operator, v) is None
    assert operator._graphs == eager
    assert [n.partition("CUDA graph, ")[2] for n in operator.notes] == ([note] if note else [])


def test_a_long_product_is_not_tried(prepared, monkeypatch):
    operator, v = prepared
    fake(monkeypatch, 1.0, (captured.LONG * 2,))
    assert captured.faster_captured(operator, v) is None
    assert operator.notes == []


def test_a_capture_that_fails_leaves_products_as_they_were(prepared, monkeypatch):
    operator, v = prepared
    expected = operator.matvec(v)

    def failing(_):
        operator._graphs = []
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(captured, "capture", failing)
    assert captured.faster_captured(operator, v) is None
    assert operator.notes == [
        "no CUDA graph of a product: operation not permitted when stream is capturing"
    ]
    assert torch.equal(operator.matvec(v), expected)


@pytest.mark.parametrize(("times", "at_once"), [((1.0, 2.0), True), ((2.0, 1.0), False)])
def test_the_faster_way_with_several_vectors_is_taken(monkeypatch, times, at_once):
    operator = hessian(llama(layers=2), DATA, dtype="float64").mean
    V = random_vectors(3, operator.dim)
    expected = torch.stack([operator.matvec(v) for v in V])
    assert operator.batched_products is False  # on the CPU nothing is decided by the clock
    operator.batched_products = None
    clock = iter(times)
    monkeypatch.setattr(several, "seconds", lambda work, _: (work(), next(clock))[1])
    found = operator.matvecs(V)
    assert operator.batched_products is at_once
    assert relative_error(found, expected) <= (1e-13 if at_once else 0)
    assert ("at once" if at_once else "one at a time") in operator.notes[0].split(": ")[-1]


@pytest.mark.gpu
@pytest.mark.parametrize("build", ["hessian", "ggn"])
def test_on_a_gpu(build):
    import spectra

    model = llama(layers=2, hidden=32, inner=64).cuda()
    operator = getattr(spectra, build)(model, DATA, graph="keep").mean
    operator.captured_products = False
    v = random_vectors(1, operator.dim, dtype=torch.float32)[0].cuda()
    w = random_vectors(2, operator.dim, dtype=torch.float32)[1].cuda()
    expected = [operator.matvec(x) for x in (v, w)]
    operator._graphs = captured.capture(operator)
    for x, truth in zip((v, w), expected, strict=True):
        assert relative_error(operator.matvec(x), truth) <= 1e-6
    chosen = getattr(spectra, build)(model, DATA, graph="keep").mean
    assert relative_error(chosen.matvec(v), expected[0]) <= 1e-6
    assert any("CUDA graph" in note for note in chosen.notes)
