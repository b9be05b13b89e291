"""Residuals of Ritz values without eigenvectors, against LAPACK's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from spectra.quadrature.gauss import gauss_rule
from spectra.quadrature.measure import Run
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
    np.testing.assert_allclose(
        ritz_residuals(alphas, betas, rule.nodes), rule.residuals, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_converged_values_ghosts_and_the_pile_at_zero(keep: bool, scale: float) -> None:
    rng = np.random.default_rng(5)
    lam = np.concatenate([rng.normal(size=1500) * 1e-2, [-8, -5, 9, 20, 21, 60]]) * scale
    run = lanczos(lam, 400, 1, keep=keep)
    rule = gauss_rule(run.alphas, run.betas)
    assert (np.diff(rule.nodes) < 1e-10 * scale).any() is np.bool_(not keep)  # ghosts
    found = ritz_residuals(run.alphas, run.betas, rule.nodes)
    np.testing.assert_allclose(found, rule.residuals, rtol=0, atol=1e-5 * scale)  # √ε‖T‖
    assert found.min() < 1e-12 * scale < 1e-4 * scale < found.max()


def test_a_vector_that_is_large_in_the_middle() -> None:
    """From either end alone its components drown in rounding."""
    size = 101
    alphas = np.concatenate([np.full(50, 0.0), [4.0], np.full(50, 0.0)])
    betas = np.full(size, 0.1)
    values, vectors = scipy.linalg.eigh_tridiagonal(alphas, betas[:-1])
    found = ritz_residuals(alphas, betas, values)
    # far from the middle row i of the recurrence β z_{i−1} − θ z_i + β z_{i+1} = 0 decays by
    decay = (values[-1] - np.sqrt(values[-1] ** 2 - 4 * 0.01)) / 0.2
    assert found[-1] == pytest.approx(0.1 * decay**50 * vectors[50, -1], rel=1e-9)
    assert 1e-82 < found[-1] < 1e-78


def test_a_rule_with_kept_nodes_is_the_rule() -> None:
    run = lanczos(np.random.default_rng(0).normal(size=900), 60, 0, keep=True)
    again = Run(run.alphas, run.betas, kept=run.points)
    np.testing.assert_array_equal(again.rule.weights, run.rule.weights)
    np.testing.assert_allclose(again.rule.residuals, run.rule.residuals, atol=1e-12)
    assert again.rule.residuals.max() > 0.1
