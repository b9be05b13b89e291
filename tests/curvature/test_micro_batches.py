"""A batch cut by rows is the same operator, and memory that ends is survived."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from spectra.curvature import ggn, hessian
from spectra.data import Batch
from spectra.errors import OutOfMemoryError, UsageError
from spectra.estimation import slq
from spectra.quant import prepare, spec
from tests.curvature.models import batch, gpt2, llama, random_vectors, relative_error

DATA = [batch(5, 6, masked=0.4), batch(2, 4, seed=3)]


@pytest.mark.parametrize("graph", ["keep", "recompute", "blocks"])
@pytest.mark.parametrize("build", [hessian, ggn])
@pytest.mark.parametrize("model", [llama, gpt2])
def test_micro_batches_are_the_whole_batch(graph, build, model):
    model = model(layers=2)
    whole = build(model, DATA, dtype="float64")
    cut = build(model, DATA, dtype="float64", graph=graph, micro_batch=2)
    assert [len(piece["labels"]) for piece in cut.mean.pieces[:3]] == [2, 2, 1]
    v = random_vectors(1, whole.dim)[0]
    assert relative_error(cut.matvec(v), whole.matvec(v)) <= 1e-13
    assert relative_error(cut.mean.gradient, whole.mean.gradient) <= 1e-13
    assert cut.mean.loss == pytest.approx(whole.mean.loss, rel=1e-14)
    assert (cut.mean.tokens, cut.metadata()["micro_batch"]) == (whole.mean.tokens, 2)
    one = cut.operator(1)
    assert relative_error(one.matvec(v), whole.operator(1).matvec(v)) <= 1e-13


def test_rows_without_labels_that_count_drop_out():
    one = batch(3, 5)
    one.labels[1] = -100
    model = llama()
    cut = hessian(model, [one], dtype="float64", micro_batch=1)
    whole = hessian(model, [one], dtype="float64")
    v = random_vectors(1, whole.dim)[0]
    assert len(cut.mean.pieces) == 2
    assert relative_error(cut.matvec(v), whole.matvec(v)) <= 1e-13


def test_attention_masks_are_cut_along():
    one = batch(2, 6)
    mask = torch.ones_like(one.input_ids)
    mask[1, 4:] = 0
    data = {"input_ids": one.input_ids, "attention_mask": mask}
    whole = hessian(llama(), data, dtype="float64")
    cut = hessian(llama(), data, dtype="float64", micro_batch=1)
    v = random_vectors(1, whole.dim)[0]
    assert relative_error(cut.matvec(v), whole.matvec(v)) <= 1e-13


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(UsageError, match="micro_batch=0 is too small"):
        hessian(llama(), DATA, micro_batch=0)
    layer = torch.nn.Linear(3, 1)
    with pytest.raises(UsageError, match="how a loss callable joins"):
        hessian(layer, [torch.ones(2, 3)], loss=lambda m, x: m(x).mean(), micro_batch=1)
    model = llama()
    model.model.layers[0].mlp.register_forward_hook(lambda *a: a[2] / a[2].abs().max())
    with pytest.raises(UsageError, match="sequences of a batch reach each other"):
        hessian(model, DATA, micro_batch=1)


class Fake:
    """A device of a few rows: building a graph of more, or the k-th product, runs out of memory."""

    def __init__(self, operator, *, rows=None, product=None, blocks=True):
        self.rows, self.product, self.made, self.shapes = rows, product, 0, []
        build = operator._build
        operator._build = lambda piece, second_order: self.limit(
            piece, build(piece, second_order=second_order), second_order
        )
        if not blocks:
            operator._build_blocks = lambda piece, _=None: self.limit(piece, None, True)

    def limit(self, piece, graph, second_order):
        rows = len(piece["labels"] if isinstance(piece, dict) else piece.labels)
        if second_order:
            self.shapes.append(rows)
            if self.rows is not None and rows > self.rows:
                raise torch.OutOfMemoryError("CUDA out of memory")
        if graph is not None:
            product = graph.product

            def counted(*args, **kwargs):
                self.made += 1
                if self.made == self.product:
                    raise MemoryError
                return product(*args, **kwargs)

            graph.product = counted
        return graph


def test_memory_that_ends_while_a_graph_is_built(caplog):
    family = hessian(llama(layers=2), DATA, dtype="float64")
    expected = hessian(llama(layers=2), DATA, dtype="float64")
    fake = Fake(family.mean, rows=2)
    v = random_vectors(1, family.dim)[0]
    with caplog.at_level(logging.WARNING, "spectra"):
        assert relative_error(family.matvec(v), expected.matvec(v)) <= 1e-13
    assert (family.mean.graph, family.mean.micro_batch) == ("recompute", 2)
    assert fake.shapes[:3] == [5, 5, 3]
    assert [note[:12] for note in family.mean.notes] == ["memory ended"] * 3
    assert "2 sequences a graph, at 3 gradients a product" in caplog.text


def test_one_sequence_falls_back_to_blocks_and_then_fails():
    one = [batch(1, 6)]
    family = hessian(llama(layers=2), one, dtype="float64")
    expected = hessian(llama(layers=2), one, dtype="float64")
    Fake(family.mean, rows=0)
    v = random_vectors(1, family.dim)[0]
    assert relative_error(family.matvec(v), expected.matvec(v)) <= 1e-13
    assert family.mean.graph == "blocks"
    assert family.mean.with_dtype(torch.float32).graph == "blocks"
    first = family.operator(0)
    Fake(first, rows=0)
    first.matvec(v)
    assert family.operator(0).graph == "blocks"  # later batches do not run into it again
    none = hessian(llama(layers=2), one)
    Fake(none.mean, rows=0, blocks=False)
    with pytest.raises(OutOfMemoryError, match="Hessian of batch 0"):
        none.matvec(v.float())


def test_several_vectors_at_once_that_do_not_fit_go_one_at_a_time():
    family = hessian(llama(layers=2), DATA, dtype="float64")
    V = random_vectors(3, family.dim)
    expected = torch.stack([family.matvec(v) for v in V])
    family.release()
    family.mean.batched_products = True
    Fake(family.mean, product=2)
    assert torch.equal(family.matvecs(V), expected)
    assert family.mean.batched_products is False
    assert family.mean.graph == "keep"


@pytest.mark.parametrize("limit", [{"rows": 1}, {"product": 9}])
def test_an_estimate_survives(limit, monkeypatch):
    """The product that failed is made again; what Lanczos has stays."""
    model, data = llama(layers=2), [batch(4, 6), batch(3, 5, seed=1)]
    settings = {"num_probes": 2, "lanczos_steps": 6, "progress": False, "check": False}
    expected = slq(hessian(model, data, dtype="float64"), **settings)
    family = hessian(model, data, dtype="float64")
    operator = type(family).operator

    def limited(self, index):
        made = operator(self, index)
        if index == 0 or "rows" in limit:
            Fake(made, **limit)
        return made

    monkeypatch.setattr(type(family), "operator", limited)
    found = slq(family, **settings)
    np.testing.assert_allclose(found.alphas, expected.alphas, rtol=1e-10)
    np.testing.assert_allclose(found.betas, expected.betas, rtol=1e-8)
    assert any("memory ended" in note for note in found.metadata["notes"])
    assert found.metadata["estimator"]["graph"] == "recompute"
    assert found.metadata["estimator"]["micro_batch"] == (1 if "rows" in limit else None)


def test_a_scale_over_the_whole_batch_is_not_cut_when_memory_ends():
    model = llama(layers=2, hidden=8, inner=8)
    prepare(model, spec("paretoq", w_bits=2))
    model.model.layers[0].mlp.register_forward_hook(lambda *a: a[2] / a[2].abs().max())
    family = hessian(model, [Batch(DATA[0].input_ids, DATA[0].labels)])
    Fake(family.mean, rows=2)
    v = random_vectors(1, family.dim, dtype=torch.float32)[0]
    expected = hessian(model, DATA[:1]).matvec(v)
    assert relative_error(family.matvec(v), expected) <= 1e-4
    assert (family.mean.graph, family.mean.micro_batch) == ("blocks", None)
