"""Leading eigenpairs against dense truth, with residuals that mean what they say."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from spectra.errors import NumericalWarning, UsageError
from spectra.linalg import BasisPolicy, SymmetricOperator, eigenpairs
from tests.linalg.dense import F64, diagonal, outliers_and_bulk, rotated

N = 300
LAM = np.sort(np.concatenate([np.random.default_rng(0).standard_normal(N - 6) * 0.1,
                              [-3.0, -2.0, -1.5, 4.0, 5.0, 8.0]]))  # fmt: skip
A = rotated(LAM)
EXPECTED = {
    "both": np.concatenate([LAM[:3], LAM[-3:]]),
    "largest": LAM[-3:],
    "smallest": LAM[:3],
}


@pytest.mark.parametrize("which", EXPECTED)
@pytest.mark.parametrize("basis", [None, BasisPolicy("host"), BasisPolicy("device", torch.float32)])
def test_pairs_at_the_ends(which: str, basis: BasisPolicy | None) -> None:
    found = eigenpairs(SymmetricOperator.from_matrix(A), k=3, which=which, basis=basis)
    np.testing.assert_allclose(found.values, EXPECTED[which], atol=1e-9)
    assert found.converged.all()
    assert (found.residuals <= 1e-6 * 8).all()
    assert found.vectors.shape == (found.values.size, N)
    torch.testing.assert_close(
        found.vectors @ found.vectors.T, torch.eye(found.values.size, dtype=F64), atol=1e-5, rtol=0
    )
    for value, vector, residual in zip(found.values, found.vectors, found.residuals, strict=True):
        assert float((A @ vector - value * vector).norm()) == pytest.approx(residual, abs=1e-13)
    assert found.steps < N / 2


@pytest.mark.parametrize("tol", [1e-3, 1e-10])
def test_the_tolerance_is_kept_and_tighter_costs_more(tol: float) -> None:
    found = eigenpairs(SymmetricOperator.from_matrix(A), k=2, tol=tol)
    assert (found.residuals <= tol * 8.0).all()
    for value in found.values:  # a residual places an eigenvalue
        assert np.abs(LAM - value).min() <= found.residuals.max() + 1e-13
    assert eigenpairs(SymmetricOperator.from_matrix(A), k=2, tol=1e-2).steps <= found.steps


@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e12])
def test_the_tolerance_is_relative_to_the_spectrum(factor: float) -> None:
    found = eigenpairs(diagonal(factor * LAM), k=1)
    np.testing.assert_allclose(found.values / factor, LAM[[0, -1]], rtol=1e-9)


def test_what_has_not_converged_is_said_and_returned() -> None:
    lam = np.linspace(0, 1, 2000)
    with pytest.warns(NumericalWarning, match=r"after 20 steps: raise max_steps"):
        found = eigenpairs(diagonal(lam), k=2, which="largest", max_steps=20)
    assert not found.converged.all()
    assert found.steps == 20
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert np.abs(lam - value).min() <= residual
    np.testing.assert_array_equal(found.converged, found.residuals <= 1e-6 * found.values.max())


def test_products_too_coarse_for_the_tolerance_end_the_run() -> None:
    coarse = rotated(LAM).bfloat16()
    op = SymmetricOperator.from_matrix((coarse + coarse.T) / 2)
    with pytest.warns(NumericalWarning, match="higher precision"):
        found = eigenpairs(op, k=1, which="largest", tol=1e-6)
    assert found.steps < 150
    assert found.values[0] == pytest.approx(8, abs=0.1)


def test_a_multiple_eigenvalue_shows_once() -> None:
    lam = np.concatenate([np.linspace(-1, 1, 100), [5.0] * 4, [7.0]])
    found = eigenpairs(diagonal(np.sort(lam)), k=2, which="largest")
    np.testing.assert_allclose(found.values, [5, 7], atol=1e-9)


def test_an_invariant_subspace_that_is_too_small_is_said() -> None:
    with pytest.warns(NumericalWarning, match="only 1 of 2"):
        found = eigenpairs(diagonal(np.ones(20)), k=1)
    assert found.values.tolist() == [pytest.approx(1)]
    with pytest.warns(NumericalWarning, match="only 2 of 6"):
        found = eigenpairs(diagonal(np.repeat([-1.0, 2.0], 10)), k=3)
    np.testing.assert_allclose(found.values, [-1, 2], atol=1e-14)
    assert found.converged.all()


def test_all_pairs_of_a_small_matrix() -> None:
    lam = np.array([-2.0, -1.0, 0.5, 3.0])
    small = rotated(lam)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = eigenpairs(SymmetricOperator.from_matrix(small), k=2)
    np.testing.assert_allclose(found.values, lam, atol=1e-13)
    torch.testing.assert_close(
        found.vectors.T @ torch.diag(torch.from_numpy(found.values)) @ found.vectors,
        small, atol=1e-12, rtol=0,
    )  # fmt: skip


def test_float32_at_a_larger_size() -> None:
    lam = outliers_and_bulk(3000, 6)
    found = eigenpairs(diagonal(lam, torch.float32), k=6, which="largest", tol=1e-5)
    assert found.vectors.dtype == torch.float32
    np.testing.assert_allclose(found.values, lam[-6:], rtol=1e-5)


REFUSED = {
    "which='top'": {"which": "top"},
    "k=0": {"k": 0},
    "k=151 at 2": {"k": 151},
    "tol=0": {"tol": 0.0},
    "max_steps=3": {"k": 2, "max_steps": 3},
    "basis='none'": {"basis": BasisPolicy("none")},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_refused_is_named(words: str) -> None:
    with pytest.raises(UsageError, match=words):
        eigenpairs(diagonal(LAM), **REFUSED[words])
