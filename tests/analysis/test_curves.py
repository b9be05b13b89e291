"""The bands drawn in figures hold what they claim, against Radau rules and dense truth."""

import numpy as np
import pytest

from spectra import quadrature
from spectra.errors import UsageError
from spectra.quadrature.stieltjes import QUADRATURE_ERROR

POINTS = np.concatenate([-np.geomspace(5, 1e-6, 40), [0.0], np.geomspace(1e-6, 40, 60)])


@pytest.mark.parametrize("steps", [1, 2, 7, 60, 200])
def test_sharp_bounds_are_those_of_the_radau_rule(make, steps):
    run = make(steps=steps).measure.runs[0][0]
    exact = quadrature.radau_masses(run.alphas, run.betas, POINTS)
    lower, upper = quadrature.sharp_bounds(run.alphas, run.betas, POINTS)
    assert np.abs(lower - exact.lower).max() < 3 * QUADRATURE_ERROR
    assert np.abs(upper - exact.upper).max() < 3 * QUADRATURE_ERROR


def test_bounds_are_scale_invariant_bit_for_bit(one):
    run = one.measure.runs[0][0]
    base = quadrature.sharp_bounds(run.alphas, run.betas, POINTS)
    scaled = quadrature.sharp_bounds(run.alphas * 2.0**-90, run.betas * 2.0**-90, POINTS * 2.0**-90)
    np.testing.assert_array_equal(base, scaled)


def test_bounds_of_the_zero_operator_and_of_an_exhausted_one():
    zero = quadrature.sharp_bounds(np.zeros(1), np.zeros(1), np.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(zero, [[0, 0, 1], [0, 1, 1]], atol=2e-7)
    point = quadrature.sharp_bounds(np.array([2.0]), np.zeros(1), np.array([1.0, 3.0]))
    np.testing.assert_allclose(point, [[0, 1], [0, 1]], atol=2e-7)


@pytest.mark.parametrize("seed", range(6))
def test_bounds_hold_the_measure_that_made_them(seed):
    rng = np.random.default_rng(seed)
    values, start = np.sort(rng.standard_t(2, 80)), rng.normal(size=80)
    start /= np.linalg.norm(start)
    q, before, beta = start, np.zeros(80), 0.0
    alphas, betas, basis = [], [], []
    for _ in range(9):
        basis.append(q)
        w = values * q - beta * before
        alphas.append(q @ w)
        w = w - alphas[-1] * q
        w -= np.array(basis).T @ (np.array(basis) @ w)
        before, beta = q, float(np.linalg.norm(w))
        betas.append(beta)
        q = w / beta
    x = rng.uniform(values[0] - 1, values[-1] + 1, 300)
    truth = np.array([min((start[values <= point] ** 2).sum(), 1.0) for point in x])
    lower, upper = quadrature.sharp_bounds(np.array(alphas), np.array(betas), x)
    assert (lower <= truth).all()
    assert (truth <= upper).all()


@pytest.mark.parametrize("name", ["one", "several"])
@pytest.mark.parametrize("scope", ["batches", "population"])
def test_pointwise_bands_agree_with_the_interval_rule(request, name, scope):
    measure = request.getfixturevalue(name).measure
    if scope == "population" and measure.num_batches < 3:
        with pytest.raises(UsageError, match="at least 3 batches"):
            quadrature.cdf_band(measure, POINTS, scope=scope)
        return
    x, tau = np.array([-1.0, -0.05, 0.0, 0.02, 3.0]), np.array([0.004, 0.05, 2.0])
    cdf = quadrature.cdf_band(measure, x, scope=scope, simultaneous=False)
    masses = quadrature.mass_band(measure, tau, scope=scope, simultaneous=False)
    for place, point in enumerate(x):
        true = quadrature.cdf(measure, point, scope=scope)
        got = (cdf.lower[place], cdf.upper[place], cdf.node_sum[place])
        least = max(true.lower, measure.masked_fraction if point >= 0 else 0.0)
        np.testing.assert_allclose(got, (least, true.upper, true.node_sum), atol=1e-6)
    for place, threshold in enumerate(tau):
        true = quadrature.mass(measure, -threshold, threshold, scope=scope)
        got = (masses.lower[place], masses.upper[place], masses.node_sum[place])
        least = max(true.lower, measure.masked_fraction)  # the masked zeros are inside for certain
        np.testing.assert_allclose(got, (least, true.upper, true.node_sum), atol=1e-6)


def test_simultaneous_bands_hold_the_dense_truth(make, eigenvalues):
    measure, values = make(steps=100, masked=1000).measure, eigenvalues(5000)
    values = np.concatenate([values, np.zeros(1000)])
    tau = np.geomspace(1e-5, 40, 200)
    masses = quadrature.mass_band(measure, tau)
    truth = (np.abs(values)[:, None] <= tau).mean(axis=0)
    told = ~np.isnan(masses.lower)  # nothing is said below the product error, here an assumed one
    np.testing.assert_array_equal(told, tau >= measure.product_error)
    assert told.sum() > 150
    assert (masses.lower <= truth)[told].all()
    assert (truth <= masses.upper)[told].all()
    assert np.nanmin(masses.upper - masses.lower) < 0.1
    cdf = quadrature.cdf_band(measure, POINTS)
    truth = (values[:, None] <= POINTS).mean(axis=0)
    assert (cdf.lower <= truth).all()
    assert (truth <= cdf.upper).all()


def test_nothing_is_said_below_the_product_error(several):
    band = quadrature.mass_band(several.measure, np.array([1.9e-3, 2.1e-3]))
    assert np.isnan(band.lower[0])
    assert np.isnan(band.upper[0])
    assert 0 <= band.lower[1] <= band.upper[1] <= 1


def test_unequal_probe_counts_are_averaged_by_batch(make):
    measure = make(batches=2, probes=2, steps=30, unfinished=1).measure
    true = quadrature.cdf(measure, 0.1)
    band = quadrature.cdf_band(measure, np.array([0.1]), simultaneous=False)
    np.testing.assert_allclose((band.lower[0], band.upper[0]), (true.lower, true.upper), atol=1e-6)


def test_bad_requests_are_refused(make, one):
    with pytest.raises(UsageError, match="sphere"):
        quadrature.cdf_band(make(steps=5, kind="rademacher").measure, POINTS)
    with pytest.raises(UsageError, match="positive"):
        quadrature.mass_band(one.measure, np.array([0.0]))
    with pytest.raises(UsageError, match="confidence"):
        quadrature.cdf_band(one.measure, POINTS, confidence=95)
