"""How graphs are held is chosen, told, taken up again, and changes no number beyond rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spectra.cli.main import main
from spectra.curvature import checks as curvature_checks
from spectra.curvature import hessian
from spectra.data import Batch
from spectra.errors import NumericalWarning, OutOfMemoryError, RecordError, UsageError
from spectra.estimation import checking, choice, estimate
from tests.estimation.models import VOCAB, random_llama, small_llama, token_file

SMALL = {"seq_len": 8, "batch_size": 4, "num_batches": 2, "lanczos_steps": 5, "dtype": "float64"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    return {
        "ckpt": str(random_llama(folder / "model")),
        "data": str(token_file(folder / "ids.npy")),
        **SMALL,
    }


def run(place, **more):
    return estimate(**(place | more), progress=False)


@pytest.mark.parametrize("reduce", ["per_batch", "mean"])
def test_all_ways_give_the_same_record(place, reduce):
    expected = run(place, reduce=reduce)
    assert expected.metadata["estimator"]["graph"] == "keep"
    for options in ({"graph": "blocks"}, {"graph": "recompute", "micro_batch": 1}):
        found = run(place, reduce=reduce, **options)
        np.testing.assert_allclose(found.alphas, expected.alphas, rtol=1e-9)
        estimator = found.metadata["estimator"]
        assert (estimator["graph"], estimator["micro_batch"]) == (
            options["graph"],
            options.get("micro_batch"),
        )
        # float64 against itself, by another way of adding up
        assert found.metadata["checks"]["product_error"] < 1e-13
        assert found.metadata["checks"]["difference_error"] < 1e-3
        key = "structural_zero_fraction"
        assert found.metadata["checks"][key] == expected.metadata["checks"][key]


def test_a_plan_that_does_not_fit_goes_by_blocks_and_a_resumed_run_does_too(
    place, tmp_path, monkeypatch
):
    whole = run(place, num_probes=2, graph="blocks")
    monkeypatch.setattr(choice, "available_bytes", lambda _: 0)
    out = str(tmp_path / "out")
    first = run(place, output=out)
    assert first.metadata["estimator"]["graph"] == "blocks"
    assert any("rebuilt block by block, at 4 gradients" in n for n in first.metadata["notes"])
    monkeypatch.undo()
    again = run(place, output=out, num_probes=2, resume=True)
    assert again.metadata["estimator"]["graph"] == "blocks"
    np.testing.assert_array_equal(again.alphas, whole.alphas)


def test_matmul_precision_is_set_in_products_alone_and_identifies_a_run(place, tmp_path):
    torch.set_float32_matmul_precision("highest")
    seen = []

    def loss(model, batch):
        seen.append(torch.get_float32_matmul_precision())
        return model(batch).pow(2).mean()

    H = hessian(torch.nn.Linear(3, 2), [torch.ones(1, 3)], loss=loss, params="all",
                matmul_precision="medium", graph="recompute")  # fmt: skip
    H.matvec(torch.ones(H.dim))
    assert set(seen) == {"medium"}
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(UsageError, match="matmul_precision='low'"):
        hessian(small_llama(), [torch.ones(1, 4, dtype=torch.long)], matmul_precision="low")
    out = str(tmp_path / "out")
    found = run(place, matmul_precision="high", output=out)
    assert found.metadata["estimator"]["matmul_precision"] == "high"
    with pytest.raises(RecordError, match="matmul_precision differs"):
        run(place, output=out, num_probes=2, resume=True)


def test_the_reference_product_does_not_feel_the_precision():
    ids = torch.randint(0, VOCAB, (2, 8), generator=torch.Generator().manual_seed(0))
    model = small_llama()
    one, two = (
        hessian(model, [Batch(ids, ids)], matmul_precision=name).mean.with_dtype(torch.float64)
        for name in ("highest", "medium")
    )
    v = torch.ones(one.dim, dtype=torch.float64)
    assert torch.equal(one.matvec(v), two.matvec(v))


def test_info_lists_every_way(place, capsys):
    flags = ["--batch_size", "4", "--seq_len", "8", "--micro_batch", "2", "--reduce", "mean"]
    assert main(["info", place["ckpt"], *flags, "--graph", "recompute"]) == 0
    told = capsys.readouterr().out
    assert "recompute: about" in told
    assert "2 sequences at a time" in told
    for word in ("keep ", "recompute ", "blocks ", "basis", "vectors", "weights"):
        assert word in told


@pytest.mark.parametrize("where", ["structural_zeros", "measure_product_error"])
def test_a_check_that_does_not_fit_costs_no_probe(place, monkeypatch, where):
    expected = run(place, num_batches=1)
    calls = iter([False, True])

    def full(*args):
        if where == "structural_zeros" or next(calls):
            raise OutOfMemoryError("it does not fit.")
        return measure(*args)

    measure = curvature_checks.measure_product_error
    module = checking if where == "structural_zeros" else curvature_checks
    monkeypatch.setattr(module, where, full)
    with pytest.warns(NumericalWarning, match="were not counted|on the start vector alone"):
        found = run(place, num_batches=1)
    np.testing.assert_array_equal(found.alphas, expected.alphas)
    assert len(found.metadata["warnings"]) == 1
