"""Quantiles, extremes, moments, outliers, densities and exact zeros, against known spectra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from spectra.linalg import BasisPolicy, Lanczos, probe
from spectra.quadrature import (
    Measure,
    Run,
    cdf,
    density,
    extremes,
    find_outliers,
    gauss_rule,
    log_density,
    mass,
    moment,
    node_sum,
    pooled_outliers,
    quantile,
)
from spectra.quadrature.gauss import moment as run_moment
from spectra.quadrature.outliers import corrected_weights
from tests.quadrature.prescribed import KINDS, diagonal, eigenvalues, measure_of, run_lanczos, share


@pytest.mark.parametrize("kind", KINDS)
def test_gauss_rule_against_the_dense_measure(kind: str) -> None:
    lam = eigenvalues(kind, 300, np.random.default_rng(0))
    run, seen = run_lanczos(lam, 10, 0)
    rule, m = run.rule, run.alphas.size
    scale = np.abs(lam).max()
    assert rule.weights.sum() == pytest.approx(1, abs=1e-13)
    assert (rule.weights >= 0).all()
    assert (np.diff(rule.nodes) > 0).all()
    assert lam[0] - 1e-12 * scale <= rule.nodes[0]
    assert rule.nodes[-1] <= lam[-1] + 1e-12 * scale
    for k in range(2 * m + 1):
        exact = float(seen.masses @ (lam / scale) ** k)
        size = float(seen.masses @ np.abs(lam / scale) ** k)
        assert run_moment(run.alphas / scale, run.betas / scale, k) == pytest.approx(
            exact, abs=1e-11 * size
        )
        if k < 2 * m:
            gauss = float(rule.weights @ (rule.nodes / scale) ** k)
            assert gauss == pytest.approx(exact, abs=1e-11 * size)
    for node, residual in zip(rule.nodes, rule.residuals, strict=True):
        assert np.abs(lam - node).min() <= residual + 1e-12 * scale


@pytest.mark.parametrize("exponent", [-60, -27, 40])
def test_a_power_of_two_scales_every_number_exactly(exponent: int) -> None:
    lam, c = eigenvalues("outliers", 200, np.random.default_rng(1)), 2.0**exponent
    plain, scaled = run_lanczos(lam, 25, 1)[0], run_lanczos(c * lam, 25, 1)[0]
    np.testing.assert_array_equal(scaled.rule.nodes, c * plain.rule.nodes)
    np.testing.assert_array_equal(scaled.rule.weights, plain.rule.weights)
    a = mass(Measure(((plain,),), 200, 200), -0.03, 0.03)
    b = mass(Measure(((scaled,),), 200, 200), -0.03 * c, 0.03 * c)
    assert (a.lower, a.value, a.upper) == (b.lower, b.value, b.upper)


@pytest.mark.parametrize(("slope", "shift"), [(1e-8, 0.0), (-3.7, 0.0), (0.5, 11.0), (-1e5, 4e4)])
def test_affine_maps_of_the_spectrum_map_the_nodes(slope: float, shift: float) -> None:
    lam = eigenvalues("indefinite", 200, np.random.default_rng(2))
    plain, mapped = run_lanczos(lam, 12, 2)[0], run_lanczos(slope * lam + shift, 12, 2)[0]
    order = slice(None) if slope > 0 else slice(None, None, -1)
    size = abs(slope) + abs(shift)
    np.testing.assert_allclose(
        mapped.rule.nodes[order], slope * plain.rule.nodes + shift, rtol=0, atol=1e-10 * size
    )
    np.testing.assert_allclose(mapped.rule.weights[order], plain.rule.weights, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("magnitude", [False, True])
def test_quantiles_hold_the_exact_ones(kind: str, magnitude: bool) -> None:
    lam = eigenvalues(kind, 800, np.random.default_rng(3))
    measure = measure_of(lam, 60, 3)
    ranked = np.sort(np.abs(lam)) if magnitude else lam
    for p in (0.005, 0.3, 0.9, 0.995):
        exact = ranked[math.ceil(p * 800) - 1]
        found = quantile(measure, p, magnitude=magnitude)
        assert found.lower <= exact <= found.upper, p
        assert found.lower <= found.value <= found.upper
        edge = found.upper if np.isfinite(found.upper) else lam[-1]
        held = cdf(measure, edge) if not magnitude else mass(measure, -edge, edge)
        assert held.upper >= p


def test_the_quantile_of_an_atom_is_inside_its_interval() -> None:
    for place in (0.0, 1.0, -3.0):
        lam = np.sort(np.concatenate([np.full(500, place), np.linspace(-5, 5, 300)]))
        found = quantile(measure_of(lam, 50, 4), 0.5)
        assert found.lower <= place <= found.upper
        assert found.width < 1.0


def test_quantiles_of_operators_with_different_ranges() -> None:
    """The mean of λmax is no bound: the widest operator reaches beyond it."""
    small = np.linspace(-1, 1, 300)
    large = np.concatenate([small[:100], np.full(200, 100.0)])
    rows = tuple((run_lanczos(lam, 30, 5)[0],) for lam in (small, large))
    measure = Measure(rows, 300, 300)
    found = quantile(measure, 0.85)
    assert found.lower <= 100.0 <= found.upper


def test_masked_coordinates_are_exact_zeros() -> None:
    lam = eigenvalues("indefinite", 300, np.random.default_rng(6))
    run, _ = run_lanczos(lam, 40, 6)
    part, whole = Measure(((run,),), 300, 300), Measure(((run,),), 1000, 300)
    assert whole.masked_fraction == pytest.approx(0.7)
    inner, outer = mass(part, -0.5, 0.5), mass(whole, -0.5, 0.5)
    assert outer.lower == pytest.approx(0.7 + 0.3 * inner.lower)
    assert outer.upper == pytest.approx(0.7 + 0.3 * inner.upper)
    assert outer.stderr == pytest.approx(0.3 * inner.stderr)
    assert outer.node_sum == pytest.approx(0.7 + 0.3 * inner.node_sum)
    # An end at zero counts the zeros when it is closed, and does not when it is open.
    assert mass(whole, 0.0, 0.5).lower >= 0.7 > mass(whole, 0.0, 0.5, closed=False).upper
    negative = mass(whole, -math.inf, 0.0, closed=False)
    assert negative.lower <= 0.3 * share(lam, -9, -1e-12) <= negative.upper
    assert cdf(whole, 0.0).lower >= 0.7
    assert (quantile(whole, 0.5).lower, quantile(whole, 0.5, magnitude=True).value) == (
        pytest.approx(0, abs=1e-9),
        pytest.approx(0, abs=1e-9),
    )
    assert quantile(whole, 0.5).lower <= 0 <= quantile(whole, 0.5).upper
    assert moment(whole, 1).value == pytest.approx(0.3 * moment(part, 1).value)
    positive = Measure(((Run(run.alphas + 9, run.betas),),), 1000, 300)
    assert extremes(positive)[0].value == 0
    assert extremes(positive)[0].upper >= 0 >= extremes(positive)[0].lower
    grid = np.linspace(-3, 3, 4001)
    assert scipy.integrate.trapezoid(density(whole, grid), grid) == pytest.approx(0.3, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_densities_integrate_to_the_share_they_show(kind: str) -> None:
    lam = eigenvalues(kind, 400, np.random.default_rng(7))
    measure = measure_of(lam, 30, 7)
    low, high = measure.span
    reach = high - low
    for options in ({}, {"bandwidth": 0.05}, {"correct_outliers": False}):
        pieces = [np.linspace(low - reach, high + reach, 200_001)]
        pieces += [node + 1e-3 * reach * np.linspace(-8, 8, 400) for node, _ in nodes(measure)]
        grid = np.unique(np.concatenate(pieces))
        values = density(measure, grid, **options)
        assert (values >= 0).all()
        assert scipy.integrate.trapezoid(values, grid) == pytest.approx(1, abs=2e-3)
    grid = np.linspace(-20, 3, 100_001)
    drawn = sum(w for node, w in nodes(measure) if abs(node) > measure.delta)
    logs = log_density(measure, grid, correct_outliers=False)
    assert scipy.integrate.trapezoid(logs, grid) == pytest.approx(drawn, abs=2e-3)


def nodes(measure: Measure) -> list[tuple[float, float]]:
    ((theta, weights),) = measure.nodes_and_weights()
    return list(zip(theta.tolist(), weights.tolist(), strict=True))


def test_bandwidths_say_what_was_resolved() -> None:
    lam = np.sort(np.append(0.1 * np.random.default_rng(8).standard_normal(499), 5.0))
    measure = measure_of(lam, 25, 8)
    at_outlier = density(measure, np.array([5.0]))[0]
    assert at_outlier > 0.5 / 500 / (math.sqrt(2 * math.pi) * np.ptp(lam) / 1000)  # one pixel wide
    fixed = density(measure, np.array([5.0]), bandwidth=0.5)[0]
    assert fixed == pytest.approx(1 / 500 / (0.5 * math.sqrt(2 * math.pi)), rel=1e-6)
    twice = density(measure, np.array([5.0]), bandwidth=0.25)[0]
    assert twice == pytest.approx(2 * fixed, rel=1e-6)


def test_outliers_are_found_and_weigh_their_multiplicity() -> None:
    n, tops = 1000, np.array([3.0, 5.0, 8.0])
    rng = np.random.default_rng(9)
    lam = np.sort(np.concatenate([0.1 * rng.standard_normal(n - 3), tops]))
    measure = measure_of(lam, 40, 9)
    found = pooled_outliers(measure)
    np.testing.assert_allclose([value for value, _ in found], tops, rtol=1e-6)
    assert [k for _, k in found] == [1, 1, 1]
    run = measure.runs[0][0]
    weights = corrected_weights(run, n, measure.delta)
    assert weights.sum() == pytest.approx(1, abs=1e-13)
    np.testing.assert_allclose(weights[-3:], 1 / n, rtol=1e-12)
    assert np.abs(run.rule.weights[-3:] * n - 1).max() > 0.1  # what one probe sees


def test_a_cluster_of_many_equal_eigenvalues_is_not_taken_for_one() -> None:
    lam = np.sort(
        np.concatenate([0.1 * np.random.default_rng(10).standard_normal(800), [4.0] * 200])
    )
    measure = measure_of(lam, 30, 10)
    value, multiplicity = pooled_outliers(measure)[-1]
    assert value == pytest.approx(4)
    assert abs(multiplicity - 200) < 4 * math.sqrt(2 * 200)


def test_ghosts_are_one_outlier() -> None:
    n = 3000
    lam = np.sort(np.append(0.05 * np.random.default_rng(11).standard_normal(n - 1), 20.0))
    start = probe(n, seed=11, dtype=torch.float64)
    lanczos = Lanczos(diagonal(lam), start, basis=BasisPolicy("none")).extend(120)
    run = Run(lanczos.alphas[0], lanczos.betas[0])
    assert (run.rule.nodes > 10).sum() > 1
    (outlier,) = [o for o in find_outliers(run, n, 1e-9) if o.value > 10]
    assert (outlier.multiplicity, len(outlier.nodes)) == (1, int((run.rule.nodes > 10).sum()))
    weights = corrected_weights(run, n, 1e-9)
    assert weights[run.rule.nodes > 10].sum() == pytest.approx(1 / n)


def test_node_sums_and_middles_are_kept_apart() -> None:
    lam = eigenvalues("outliers", 500, np.random.default_rng(12))
    measure = measure_of(lam, 12, 12)
    found = mass(measure, -0.01, 0.01)
    rule = gauss_rule(measure.runs[0][0].alphas, measure.runs[0][0].betas)
    inside = np.abs(rule.nodes) <= 0.01
    assert found.node_sum == node_sum(measure, -0.01, 0.01) == rule.weights[inside].sum()
    assert found.value != found.node_sum


def wasserstein(measure: Measure, lam: np.ndarray) -> float:
    theta, weights = (np.concatenate(x) for x in zip(*measure.nodes_and_weights(), strict=True))
    return scipy.stats.wasserstein_distance(theta, lam, weights) / np.ptp(lam)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "probes"), [(20, 1), (60, 4)])
def test_slq_against_the_exact_spectrum(kind: str, steps: int, probes: int) -> None:
    """W1/range ≤ t with m ≥ 12/t + 1/2 and P ≥ 4 ln(2n/η)/((n + 2)t²) (arXiv 2105.06595)."""
    n, risk = 1000, 1e-3
    lam = eigenvalues(kind, n, np.random.default_rng(13))
    measure = measure_of(lam, steps, 13, probes)
    t = max(12 / (steps - 0.5), math.sqrt(4 * math.log(2 * n / risk) / ((n + 2) * probes)))
    assert wasserstein(measure, lam) <= t / 4  # the theorem's constants are not sharp
    # Kolmogorov–Smirnov: the node sums lie in the band, whose width and h are the bound.
    h = math.sqrt(math.log(2 * n / risk) / ((n + 2) * probes))
    for x in np.quantile(lam, np.linspace(0.01, 0.99, 33)):
        runs = [r for row in measure.runs for r in row]
        band = np.mean(
            [measure.cdf_upper(x)[0][i] - measure.cdf_lower(x)[0][i] for i in range(len(runs))]
        )
        distance = abs(node_sum(measure, -math.inf, x) - float(np.mean(lam <= x)))
        assert distance <= band + h
