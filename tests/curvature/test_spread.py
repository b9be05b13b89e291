"""Operators whose data two processes share: those of one process, to rounding."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.curvature.in_two import CASES, SHARDED
from tests.parallel.two import launch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    folder: Path = tmp_path_factory.mktemp("spread")
    done = launch(2, "-m", "tests.curvature.in_two", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("case", [*CASES, "Gauss-Newton", "own loss"])
def test_products_loss_and_gradient_are_those_of_one_process(
    told: list[dict[str, Any]], case: str
) -> None:
    for found in told:
        *errors, terms = found["cases"][case]
        assert max(errors) < 1e-12
        assert terms == 0


def test_whole_batches_are_shared_where_they_divide_and_sequences_where_not(
    told: list[dict[str, Any]],
) -> None:
    held = [found["held"] for found in told]
    assert [one["whole batches"][0] for one in held] == [1, 1]
    assert [one["rows of one batch"][0] for one in held] == [1, 1]
    assert [one["uneven"][0] for one in held] == [1, 2]  # 2 and 3 of 5 sequences
    assert [one["one sequence"] for one in held] == [[0, 1], [1, 1]]  # and a note says so


def test_checks_are_made_over_all_ranks(told: list[dict[str, Any]]) -> None:
    one, shared = told[0]["checks one"], told[0]["checks shared"]
    assert told[0]["checks shared"] == told[1]["checks shared"]
    assert shared[0] < 1e-5
    assert shared[1] < 1e-4
    assert one[2] / 3 < shared[2] < 3 * one[2]  # δ: rounding, in another order


def test_an_estimate_over_ranks_is_that_of_one_process(told: list[dict[str, Any]]) -> None:
    for found in (rank["estimate"] for rank in told):
        assert found["apart"] < 1e-10
        assert found["resumed"] < 1e-10
        assert len(found["note"]) == 1
        assert (found["share"], found["ranks"]) == ("vectors", 2)
        assert found["zeros"][0] == found["zeros"][1]
        assert found["losses"][0] == pytest.approx(found["losses"][1], rel=1e-12)
        assert 0 < found["checks"]["product_error"] < 1e-10
        assert found["checks"]["orthogonality_loss"] < 1e-12


@pytest.mark.parametrize("case", SHARDED)
def test_a_hessian_of_sharded_weights_is_that_of_one_process_and_the_dense_one(
    told: list[dict[str, Any]], case: str
) -> None:
    for found in told:
        *errors, left, length = found["sharded"][case]
        assert max(errors) < 1e-11
        assert left < 1  # bytes a coordinate: the model has handed its weights over
        assert 0.5 <= length < 0.52


def test_an_estimate_with_sharded_weights_is_that_of_one_process(
    told: list[dict[str, Any]],
) -> None:
    for found in (rank["sharded estimate"] for rank in told):
        assert found["apart"] < 1e-10
        assert found["weight_norm"][0] == found["weight_norm"][1]
        assert 0 < found["checks"]["product_error"] < 1e-10
        assert found["checks"]["difference_error"] < 1e-4
        assert found["checks"]["symmetry_error"] < 1e-10


def test_what_cannot_be_sharded_is_refused_with_a_cure(told: list[dict[str, Any]]) -> None:
    for found in told:
        for name, word in [("quantized", "surface='ste'"), ("ggn", "GGN"), ("all", "--params")]:
            assert word in found["refused"][name]
            assert "--share vectors" in found["refused"][name]


def test_bytes_of_weights_and_vectors_halve_but_for_one_block(told: list[dict[str, Any]]) -> None:
    """One block is 1/12 of the weights; a product holds a few such tensors of it."""
    two, one = told[0]["bytes"]
    assert one[0] == pytest.approx(1, abs=0.03)
    assert two[0] == pytest.approx(0.5, abs=0.03)  # the weights
    assert two[1] == pytest.approx(1.5, abs=0.1)  # and gradient, and a vector: no whole weight
    assert two[2] < one[2] / 2 + 6 / 12
    assert two[2] < 2.5 + 8 / 12  # weights, gradient, vector, product on its way, and a block
