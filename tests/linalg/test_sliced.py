"""Lanczos vectors in slices over two processes: what one process finds, to rounding."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from spectra.linalg import SlicedSpace
from spectra.parallel import Group
from spectra.parallel.launched import Place
from tests.linalg.in_two import M, N
from tests.parallel.two import launch


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    folder = tmp_path_factory.mktemp("sliced")
    done = launch(2, "-m", "tests.linalg.in_two", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("rank", [0, 1])
def test_coefficients_are_those_of_one_process(told: list[dict[str, Any]], rank: int) -> None:
    found = told[rank]
    for how in ("repeated", "parts"):
        same, alphas, betas = found[f"{how} float64"]
        assert same
        assert max(alphas, betas) < 1e-10
    for how in ("early", "parts"):
        same, alphas, betas = found[f"{how} float32"]
        assert same
        assert max(alphas, betas) < 1e-5 * 40  # the largest eigenvalue is 40


def test_every_process_has_the_same_bits(told: list[dict[str, Any]]) -> None:
    assert [found[f"bits {name}"] for found in told for name in ("float64", "float32")] == [1] * 4


def test_the_basis_is_shared_and_orthogonal(told: list[dict[str, Any]]) -> None:
    assert [found["held float64"] for found in told] == [151 * M, 150 * M]
    assert all(found["orthogonality float64"] < 1e-13 for found in told)
    assert all(found["orthogonality float32"] < 2e-6 for found in told)
    assert all(found["ritz"] < 1e-10 for found in told)


@pytest.mark.parametrize("policy", ["host None", "none None", "device torch.float16"])
def test_every_basis_policy_works_on_slices(told: list[dict[str, Any]], policy: str) -> None:
    for found in told:
        same, alphas, betas = found[f"policy {policy}"]
        assert same
        assert max(alphas, betas) < 1e-10


def test_a_condensed_basis_and_a_saved_state_go_on_in_slices(told: list[dict[str, Any]]) -> None:
    for found in told:
        (one, two), same, alphas, betas, error = found["condensed"]
        assert one == two > 0
        assert same
        assert max(alphas, betas) < 1e-10
        assert error < 1e-4
        assert found["resumed"]


def test_a_breakdown_is_seen_by_all(told: list[dict[str, Any]]) -> None:
    for found in told:
        for case in ("breakdown", "tiny"):
            same, alphas, betas = found[case]
            assert same, case
            assert max(alphas, betas) < 1e-10
        assert found["one"] == [[7.0]]


def test_eigenpairs_come_whole(told: list[dict[str, Any]]) -> None:
    for found in told:
        values, shape, residuals = found["pairs"]
        assert shape == [4, N]
        assert np.abs(np.array(values) - found["lam"]).max() < 1e-10
        assert max(residuals) < 1e-6


def test_an_error_in_one_process_is_the_same_error_in_both(told: list[dict[str, Any]]) -> None:
    for found in told:
        assert found["failing"] == ["rank 1: the third product is not finite.", 2.0]


def test_slices_cover_a_vector_once() -> None:
    for dim in (1, 2, 7, 12):
        for size in (1, 2, 3, 5):
            spaces = [
                SlicedSpace(Group(Place(rank, size, rank, size)), dim) for rank in range(size)
            ]
            pieces = [space.take(torch.arange(dim)) for space in spaces]
            assert torch.equal(torch.cat(pieces), torch.arange(dim))
            assert [len(piece) for piece in pieces] == [space.length(dim) for space in spaces]
