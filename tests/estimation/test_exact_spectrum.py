"""SLQ of a trained small model against all of its eigenvalues; -s prints the README's table."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

import spectra
from spectra.data import Batch
from tests.estimation.models import small_llama


@pytest.fixture(scope="module")
def trained():
    """A Llama of 2,592 linear parameters, trained until its Hessian has outliers and a bulk."""
    generator = torch.Generator().manual_seed(0)
    model = small_llama(hidden=12, intermediate=20, seed=1).double()
    step = torch.randint(1, 5, (8, 1), generator=generator)
    ids = (torch.randint(0, 32, (8, 1), generator=generator) + step * torch.arange(24)) % 32
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    family = spectra.hessian(model, [Batch(ids, ids)], dtype="float64")
    operator = family.operator(0)
    eye = torch.eye(family.dim, dtype=torch.float64)
    dense = torch.stack([operator.matvec(row) for row in eye])
    assert (dense - dense.T).abs().max() < 1e-10 * dense.abs().max()
    return family, torch.linalg.eigvalsh(dense).numpy()


def distances(spectrum, exact):
    """Wasserstein-1 over the range, and Kolmogorov–Smirnov, both of the mean over probes."""
    runs = spectrum.measure.nodes_and_weights()
    nodes = np.concatenate([x for x, _ in runs])
    weights = np.concatenate([w for _, w in runs]) / len(runs)
    w1 = scipy.stats.wasserstein_distance(exact, nodes, u_weights=None, v_weights=weights)
    order = np.argsort(nodes)
    grid = np.concatenate([nodes, exact])
    cdf = np.concatenate([[0], np.cumsum(weights[order])])[
        np.searchsorted(nodes[order], grid, side="right")
    ]
    true = np.searchsorted(exact, grid, side="right") / exact.size
    return w1 / (exact[-1] - exact[0]), np.abs(cdf - true).max()


@pytest.mark.parametrize(("probes", "steps"), [(1, 60), (1, 200), (10, 60), (10, 200)])
def test_distance_to_the_exact_spectrum(trained, probes, steps):
    family, exact = trained
    found = spectra.slq(family, num_probes=probes, lanczos_steps=steps, progress=False)
    w1, ks = distances(found, exact)
    print(f"\nn={exact.size} probes={probes} steps={steps}: W1/range {w1:.1e}, KS {ks:.3f}")
    # W1 ≤ t·range for m = 12/t + 1/2 steps and P = 4 ln(2n/η)/((n + 2)t²) probes
    # (Chen, Trogdon & Ubaru, arXiv 2105.06595, Theorem 1), η = 0.01.
    by_steps = 12 / (steps - 0.5)
    by_probes = math.sqrt(4 * math.log(2 * exact.size / 0.01) / ((exact.size + 2) * probes))
    assert w1 <= max(by_steps, by_probes)
    assert w1 <= 2e-3


def test_every_bound_holds_on_the_trained_model(trained):
    family, exact = trained
    found = spectra.slq(family, lanczos_steps=150, progress=False)
    low, high = found.extremes()
    assert low.lower <= exact[0] <= low.upper
    assert high.lower <= exact[-1] <= high.upper
    taus = np.geomspace(1e-4, 10, 25) * np.abs(exact).max() / 10
    intervals = [found.mass(-tau, tau, simultaneous=True) for tau in taus]
    shares = [(np.abs(exact) <= tau).mean() for tau in taus]
    for tau, interval, share in zip(taus, intervals, shares, strict=True):
        assert interval.lower <= share <= interval.upper, tau
    assert min(interval.width for interval in intervals) < 0.25
    assert found.moment(2).lower <= (exact**2).mean() <= found.moment(2).upper
    for level in (0.1, 0.5, 0.9):
        interval = found.quantile(level, magnitude=True)
        assert interval.lower <= np.quantile(np.abs(exact), level) <= interval.upper


def test_scaling_the_loss_scales_every_node(trained):
    family, _ = trained
    model, batches = family.point.model, family.batches

    def loss_of(factor):
        def loss(model, batch):
            return model(input_ids=batch.input_ids, labels=batch.labels).loss * factor

        return spectra.hessian(model, list(batches), loss=loss, dtype="float64")

    plain = spectra.slq(loss_of(1.0), lanczos_steps=40, progress=False)
    for factor, tolerance in ((2.0**-27, 1e-13), (1e-8, 1e-9), (1e-10, 1e-9)):
        scaled = spectra.slq(loss_of(factor), lanczos_steps=40, progress=False)
        largest = np.abs(plain.nodes).max()
        assert np.allclose(scaled.nodes / factor, plain.nodes, rtol=0, atol=tolerance * largest)
        assert np.allclose(scaled.weights, plain.weights, atol=tolerance)
