"""Residuals of Ritz values without eigenvectors, against LAPACK's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from spectra.quadrature.gauss import gauss_rule
from spectra.quadrature.measure import EXACT, LONG, Run
from spectra.quadrature.twisted import TOGETHER, ritz_residuals


def lanczos(lam: np.ndarray, steps: int, seed: int, *, keep: bool) -> Run:
    """Return a run on a diagonal operator, with or without reorthogonalization."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=lam.size)
    basis = [v / np.linalg.norm(v)]
    alphas, betas = [], []
    for m in range(steps):
        w = lam * basis[-1]
        alphas.append(float(w @ basis[-1]))
        for _ in range(2 if keep else 1):
            for u in basis if keep else basis[-2:]:
                w = w - (u @ w) * u
        betas.append(float(np.linalg.norm(w)))
        if m + 1 < steps:
            basis.append(w / betas[-1])
    return Run(np.array(alphas), np.array(betas))


@pytest.mark.parametrize("size", [1, 2, 3, 40, TOGETHER + 7])
def test_they_are_those_of_the_eigenvectors(size: int) -> None:
    rng = np.random.default_rng(size)
    alphas, betas = rng.normal(size=size), np.abs(rng.normal(size=size))
    rule = gauss_rule(alphas, betas)
    found, defect = ritz_residuals(alphas, betas, rule.nodes)
    np.testing.assert_allclose(found, rule.residuals, rtol=0, atol=1e-12)
    assert defect < 100


@pytest.mark.parametrize("exponent", [-310, -300, -160, 160, 300, 307])
def test_any_scale(exponent: int) -> None:
    rng = np.random.default_rng(2)
    alphas, betas = rng.normal(size=(2, 60)) / 4
    scaled = (np.ldexp(x, round(exponent * np.log2(10))) for x in (alphas, np.abs(betas)))
    a, b = scaled
    rule = gauss_rule(a, b)
    found, _ = ritz_residuals(a, b, rule.nodes)
    size = max(np.abs(a).max(), b.max())
    np.testing.assert_allclose(found / size, rule.residuals / size, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("alphas", "betas"),
    [
        ([-5e-324, -1e-16, 5e-324], [0.946, 0.318, 1.395]),  # pivots that are nearly zero
        ([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 2.0]),
        ([3.0, 3.0, 1.5, 1.5], [1.0, 0.0, 1.0, 1.0]),  # in two pieces
        ([0.0, 0.0], [0.0, 0.0]),
        (np.abs(np.arange(-2, 3.0)), np.ones(5)),
        (10.0 ** -np.arange(30), 10.0 ** -np.arange(1, 31)),
    ],
)
def test_matrices_on_which_pivots_vanish(alphas: list[float], betas: list[float]) -> None:
    a, b = np.array(alphas), np.array(betas)
    rule = gauss_rule(a, b)
    found, defect = ritz_residuals(a, b, rule.nodes)
    np.testing.assert_allclose(found, rule.residuals, rtol=0, atol=1e-7)
    assert defect < 100


def test_what_is_no_eigenvalue_is_found_out() -> None:
    run = lanczos(np.random.default_rng(0).normal(size=2000), LONG + 100, 0, keep=False)
    nodes, weights = run.points
    for place, change in ((0, -60.0), (500, 1e-9)):
        wrong = nodes.copy()
        wrong[place] += change
        assert ritz_residuals(run.alphas, run.betas, np.sort(wrong))[1] > EXACT
    wrong = nodes.copy()
    wrong[[0, -1]] = -60, 60
    mistaken = Run(run.alphas, run.betas, kept=(wrong, weights))
    np.testing.assert_array_equal(mistaken.rule.nodes, nodes)
    assert ritz_residuals(run.alphas, run.betas, nodes)[1] < 100


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_converged_values_ghosts_and_the_pile_at_zero(keep: bool, scale: float) -> None:
    rng = np.random.default_rng(5)
    lam = np.concatenate([rng.normal(size=1500) * 1e-2, [-8, -5, 9, 20, 21, 60]]) * scale
    run = lanczos(lam, 400, 1, keep=keep)
    rule = gauss_rule(run.alphas, run.betas)
    assert (np.diff(rule.nodes) < 1e-10 * scale).any() is np.bool_(not keep)  # ghosts
    found, _ = ritz_residuals(run.alphas, run.betas, rule.nodes)
    np.testing.assert_allclose(found, rule.residuals, rtol=0, atol=1e-5 * scale)  # √ε‖T‖
    assert found.min() < 1e-12 * scale < 1e-4 * scale < found.max()


def test_a_vector_that_is_large_in_the_middle() -> None:
    """From either end alone its components drown in rounding."""
    size = 101
    alphas = np.concatenate([np.full(50, 0.0), [4.0], np.full(50, 0.0)])
    betas = np.full(size, 0.1)
    values, vectors = scipy.linalg.eigh_tridiagonal(alphas, betas[:-1])
    found, _ = ritz_residuals(alphas, betas, values)
    # far from the middle row i of the recurrence β z_{i−1} − θ z_i + β z_{i+1} = 0 decays by
    decay = (values[-1] - np.sqrt(values[-1] ** 2 - 4 * 0.01)) / 0.2
    assert found[-1] == pytest.approx(0.1 * decay**50 * vectors[50, -1], rel=1e-9)
    assert 1e-82 < found[-1] < 1e-78


def test_a_long_rule_is_the_same_in_memory_and_from_a_record() -> None:
    run = lanczos(np.random.default_rng(0).normal(size=2000), LONG + 50, 0, keep=False)
    again = Run(run.alphas, run.betas, kept=run.points)
    for name in ("nodes", "weights", "residuals"):
        np.testing.assert_array_equal(getattr(again.rule, name), getattr(run.rule, name))
    exact = gauss_rule(run.alphas, run.betas)
    np.testing.assert_allclose(run.rule.residuals, exact.residuals, atol=1e-5)
    assert run.rule.residuals.max() > 0.01
