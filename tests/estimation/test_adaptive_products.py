"""An adaptive run against the reference's 20 probes × 60 steps × 10 batches; -s prints figures.

One operator of 1,000 dimensions with known eigenvalues: a pile at zero, log-uniform in size with
both signs, and outliers, at a threshold that holds about half of them. The reference spends its
12,000 products as 200 probes of 60 steps, here in float64 (bfloat16 in the reference).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import spectra
from spectra.quadrature import sharp_bounds
from spectra.quadrature.estimates import CONFIDENCE, fraction_stderr, probe_halfwidth

DIM, TAU, SEEDS = 1000, 0.03, 30
PROBES, STEPS = 200, 60


@pytest.fixture(scope="module")
def lam():
    rng = np.random.default_rng(0)
    size = 10.0 ** rng.uniform(-3, 0, DIM - 20)
    bulk = size * np.where(rng.random(size.size) < 0.4, -1, 1)
    return np.sort(np.concatenate([bulk, np.linspace(2, 20, 20)]))


def share(lam):
    return float((np.abs(lam) <= TAU).mean())


def plain_lanczos(lam, seed):
    """Return coefficients (P, m) of 200 runs on diag(lam), side by side, not reorthogonalized."""
    Q = np.random.default_rng(seed).standard_normal((PROBES, lam.size))
    Q /= np.linalg.norm(Q, axis=1, keepdims=True)
    alphas, betas = np.zeros((PROBES, STEPS)), np.zeros((PROBES, STEPS))
    before, beta = np.zeros_like(Q), np.zeros(PROBES)
    for k in range(STEPS):
        W = Q * lam - beta[:, None] * before
        alphas[:, k] = np.einsum("pn,pn->p", Q, W)
        W -= alphas[:, k, None] * Q
        beta = np.sqrt(np.einsum("pn,pn->p", W, W))
        betas[:, k] = beta
        before, Q = Q, W / beta[:, None]
    return alphas, betas


def interval_width(alphas, betas):
    """Return the width of the interval that the reference's runs give."""
    ends = [sharp_bounds(a, b, np.array([-TAU, TAU])) for a, b in zip(alphas, betas, strict=True)]
    low = np.mean([max(0.0, L[1] - U[0]) for L, U in ends])
    high = np.mean([min(1.0, U[1] - L[0]) for L, U in ends])
    h = probe_halfwidth(DIM, PROBES, CONFIDENCE)
    return float(min(1.0, high + h) - max(0.0, low - h))


def node_sum(alphas, betas):
    """Return the node weights within ±τ, mean over the reference's runs."""
    T = np.zeros((PROBES, STEPS, STEPS))
    inner = np.arange(STEPS)
    T[:, inner, inner] = alphas
    T[:, inner[1:], inner[:-1]] = betas[:, :-1]
    nodes, vectors = np.linalg.eigh(T)
    return float((vectors[:, 0] ** 2 * (np.abs(nodes) <= TAU)).sum(axis=1).mean())


def adaptive(lam, seed, **asked):
    values = torch.from_numpy(lam)
    operator = spectra.SymmetricOperator.from_matvec(
        lambda v: values * v, lam.size, dtype=torch.float64
    )
    found = spectra.slq(operator, tau=TAU, seed=seed, progress=False, **asked)
    (row,) = found.metadata["adaptive"]["functionals"]
    assert row["lower"] <= share(lam) <= row["upper"]
    return found.metadata["adaptive"]["products"], row


def fraction(true, probes):
    return fraction_stderr(true, DIM, probes)


def rms(errors):
    return float(np.sqrt(np.mean(np.square(errors))))


@pytest.fixture(scope="module")
def reference(lam):
    """Return the reference's widths and node sums, of few seeds: 200 probes hardly differ."""
    runs = [plain_lanczos(lam, seed) for seed in range(10)]
    widths = [interval_width(*pair) for pair in runs[:4]]
    assert max(widths) - min(widths) < 0.02
    return np.array(widths), np.array([node_sum(*pair) for pair in runs])


def test_the_same_width_with_a_tenth_of_the_products(lam, reference):
    true = share(lam)
    assert 0.2 < true < 0.8
    widths, sums = reference
    runs = [adaptive(lam, seed, tol=widths.min() / 2) for seed in range(SEEDS)]
    products = float(np.median([count for count, _ in runs]))
    print(
        f"\nn={DIM}, true mass within ±{TAU}: {true:.3f}, {SEEDS} seeds\n"
        f"  20 × 60 × 10:    {PROBES * STEPS} products, width {np.median(widths):.3f}, "
        f"node sums off by {rms(sums - true):.4f} "
        f"(rms; probes alone {fraction(true, PROBES):.4f})\n"
        f"  the same width:  {products:.0f} products, width "
        f"{np.median([row['width'] for _, row in runs]):.3f}, node sums off by "
        f"{rms([row['node_sum'] - true for _, row in runs]):.4f} ({fraction(true, 1):.4f})"
    )
    assert all(row["width"] <= widths.min() for _, row in runs)
    assert products <= PROBES * STEPS / 10


def test_a_tenth_of_the_products_resolves_what_the_reference_does_not(lam, reference):
    true, seeds = share(lam), 8
    widths, _ = reference
    runs = [adaptive(lam, seed, tol=0.08) for seed in range(seeds)]
    products = [count for count, _ in runs]
    print(
        f"\n  a tenth or less: {np.median(products):.0f} products, width "
        f"{np.median([row['width'] for _, row in runs]):.3f}, node sums off by "
        f"{rms([row['node_sum'] - true for _, row in runs]):.4f} ({seeds} seeds)"
    )
    assert max(products) <= PROBES * STEPS / 10
    assert all(row["width"] <= 0.16 < widths.min() / 3 for _, row in runs)
