"""The sharp band of the distribution function: it holds, it is sharp, and it is a Radau rule."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest

from spectra.quadrature import Measure, Run, gauss_rule, radau_masses, radau_rule
from spectra.quadrature.gauss import moment
from spectra.quadrature.radau import CORNER_LIMIT, christoffel_number
from spectra.quadrature.stieltjes import sharp_bounds
from tests.quadrature.prescribed import KINDS, Seen, eigenvalues, run_lanczos

ROUNDING = 1e-11  # of masses that sum to 1, after some tens of float64 operations


def violation(run: Run, seen: Seen, points: np.ndarray, delta: float) -> float:
    """Return by how much Ψ_v leaves the band.

    L(x) ≤ Ψ((x + δ)−) is `cdf_lower` at x + δ, and U(x) ≥ Ψ(x − δ) is `cdf_upper` at x − δ.
    """
    masses = radau_masses(run.alphas, run.betas, points)
    low = masses.lower - seen.before(points + delta)
    high = seen.at(points - delta) - masses.upper
    return float(max(low.max(), high.max()))


def points_of(run: Run, lam: np.ndarray, delta: float, rng: np.random.Generator) -> np.ndarray:
    """Return 1,000 points: everywhere, at eigenvalues and Ritz values, and right beside them."""
    width = np.ptp(lam) or 1.0
    near = np.concatenate([rng.choice(lam, 120), rng.choice(run.rule.nodes, 80)])
    near = np.concatenate([near, near - delta, near + delta])
    near = np.concatenate([near, np.nextafter(near[:100], np.inf)])
    spread = rng.uniform(lam[0] - 0.1 * width, lam[-1] + 0.1 * width, 1000 - near.size)
    return np.concatenate([near, spread])


def test_the_band_holds_the_exact_distribution_of_300_random_operators() -> None:
    worst = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(60, 400))
        lam = eigenvalues(KINDS[seed % len(KINDS)], n, rng)
        lam = lam * 10.0 ** (0 if seed % 3 else rng.uniform(-100, 100))
        run, seen = run_lanczos(lam, int(rng.integers(1, 24)), seed)
        delta = Measure(((run,),), n, n).delta
        worst.append(violation(run, seen, points_of(run, lam, delta, rng), delta))
    assert max(worst) <= ROUNDING, np.argsort(worst)[-5:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_measure_widens_the_band_by_delta(kind: str) -> None:
    lam = eigenvalues(kind, 200, np.random.default_rng(5))
    run, seen = run_lanczos(lam, 20, 5)
    for error in (0.0, 1e-3):
        measure = Measure(((run,),), 200, 200, product_error=error)
        assert measure.delta >= max(error, 1e-15)
        for x in np.concatenate([lam[::20], run.rule.nodes[::4], [lam[0] - 1, lam[-1] + 1]]):
            low, high = measure.cdf_lower(x)[0][0], measure.cdf_upper(x)[0][0]
            masses = radau_masses(run.alphas, run.betas, [x - measure.delta, x + measure.delta])
            assert (low, high) == (masses.lower[0], masses.upper[1])
            assert low - ROUNDING <= seen.before(np.array(x)) <= seen.at(np.array(x))
            assert seen.at(np.array(x)) <= high + ROUNDING


def christoffel(run: Run, x: float) -> mpmath.mpf:
    """Return 1/Σ_{k=0..m} p_k(x)² by the three-term recurrence in 60 digits."""
    with mpmath.workdps(60):
        a, b = [mpmath.mpf(v) for v in run.alphas], [mpmath.mpf(v) for v in run.betas]
        before, p, total = mpmath.mpf(0), mpmath.mpf(1), mpmath.mpf(1)
        for k in range(len(a)):
            step = ((mpmath.mpf(x) - a[k]) * p - (b[k - 1] * before if k else 0)) / b[k]
            before, p = p, step
            total += p * p
        return 1 / total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 9, 30])
def test_the_width_is_the_christoffel_number(kind: str, steps: int) -> None:
    lam = eigenvalues(kind, 300, np.random.default_rng(1))
    run, _ = run_lanczos(lam, steps, 1)
    used_up = np.flatnonzero(run.betas <= 1e-6 * np.abs(lam).max())
    if used_up.size:
        run = Run(run.alphas[: used_up[0]], run.betas[: used_up[0]])
    theta = run.rule.nodes
    # At a converged Ritz value the width depends on digits that the value does not have.
    open_nodes = theta[run.rule.residuals > 1e-4 * np.abs(lam).max()]
    points = np.concatenate([np.linspace(lam[0] - 0.3, lam[-1] + 0.3, 41), open_nodes])
    widths = radau_masses(run.alphas, run.betas, points).at
    exact = np.array([float(christoffel(run, x)) for x in points])
    np.testing.assert_allclose(widths, exact, rtol=0, atol=1e-8)
    outside = [x for x in points if not theta[0] <= x <= theta[-1]]
    fast = [christoffel_number(run.alphas, run.betas, x) for x in outside]
    np.testing.assert_allclose(fast, [float(christoffel(run, x)) for x in outside], rtol=1e-9)


def jacobi_of(nodes: np.ndarray, weights: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Return α_1…α_m and β_1…β_m of a discrete measure: they are its moments 0…2m, conditioned."""
    Q = [np.sqrt(weights)]
    alphas, betas = [], []
    for _ in range(m):
        w = nodes * Q[-1]
        alphas.append(Q[-1] @ w)
        for _ in range(3):
            w = w - np.array(Q).T @ (np.array(Q) @ w)
        betas.append(np.linalg.norm(w))
        Q.append(w / betas[-1])
    return np.array(alphas), np.array(betas)


@pytest.mark.parametrize("kind", KINDS)
def test_the_radau_rule_reproduces_the_moments_to_2m(kind: str) -> None:
    lam = eigenvalues(kind, 300, np.random.default_rng(2))
    run, _ = run_lanczos(lam, 8, 2)
    m, scale, compared = run.alphas.size, np.abs(run.rule.nodes).max(), 0
    for x in np.linspace(1.1 * lam[0] - 0.05, 1.1 * lam[-1] + 0.05, 23):
        nodes, weights, index = radau_rule(run.alphas, run.betas, x)
        assert nodes.size == m + 1
        assert nodes[index] == pytest.approx(x, abs=1e-9 * scale)
        assert weights.sum() == pytest.approx(1, abs=1e-13)
        if np.abs(nodes).max() > 3 * scale:
            continue  # beside a Ritz value the corner node is remote, its weight below all digits
        compared += 1
        for k in range(2 * m + 1):
            size = float(weights @ np.abs(nodes / scale) ** k)
            exact = moment(run.alphas / scale, run.betas / scale, k)
            error = 1e-12 * (k + 1) * size
            assert float(weights @ (nodes / scale) ** k) == pytest.approx(exact, abs=error)
        alphas, betas = jacobi_of(nodes, weights, m)
        np.testing.assert_allclose(alphas, run.alphas, rtol=0, atol=1e-8 * scale)
        np.testing.assert_allclose(betas, run.betas, rtol=0, atol=1e-8 * scale)
    assert compared >= 12


def test_the_band_at_a_ritz_value_is_the_gauss_rule() -> None:
    lam = eigenvalues("indefinite", 300, np.random.default_rng(3))
    run, _ = run_lanczos(lam, 15, 3)
    rule = run.rule
    masses = radau_masses(run.alphas, run.betas, rule.nodes)
    sums = np.concatenate([[0.0], np.cumsum(rule.weights)])
    np.testing.assert_allclose(masses.below, sums[:-1], atol=1e-9)
    np.testing.assert_allclose(masses.upper, sums[1:], atol=1e-9)


def test_the_band_is_continuous_through_the_switch_of_rules_and_monotone() -> None:
    lam = eigenvalues("indefinite", 300, np.random.default_rng(3))
    run, _ = run_lanczos(lam, 15, 3)
    beta2 = run.betas[-1] ** 2
    for theta in run.rule.nodes:
        reach = 40 * beta2 / CORNER_LIMIT
        x = np.concatenate([theta - np.geomspace(reach, 1e-12, 60), [theta]])
        x = np.concatenate([x, theta + np.geomspace(1e-12, reach, 60)])
        masses = radau_masses(run.alphas, run.betas, x)
        for bound in (masses.lower, masses.upper):
            assert np.diff(bound).min() >= -1e-9
            assert np.abs(np.diff(bound)).max() <= 1e-4


def test_many_points_are_the_points_one_by_one_and_infinities_are_the_ends() -> None:
    lam = eigenvalues("atom", 200, np.random.default_rng(4))
    run, _ = run_lanczos(lam, 12, 4)
    x = np.concatenate([[-np.inf], np.linspace(-3, 3, 50), run.rule.nodes, [0.0, np.inf]])
    together = radau_masses(run.alphas, run.betas, x)
    for place, point in enumerate(x):
        alone = radau_masses(run.alphas, run.betas, point)
        assert (alone.below[0], alone.at[0], alone.above[0]) == (
            together.below[place],
            together.at[place],
            together.above[place],
        )
    np.testing.assert_allclose(together.below + together.at + together.above, 1, atol=1e-13)
    assert (together.lower[0], together.upper[0]) == (0, 0)
    assert (together.lower[-1], together.upper[-1]) == (1, 1)


def test_with_one_step_the_band_is_cantellis_inequality() -> None:
    run = Run(np.array([0.5]), np.array([2.0]))
    for x in (-3.0, 0.49, 0.51, 1.0, 7.0):
        masses = radau_masses(run.alphas, run.betas, x)
        assert masses.at[0] == pytest.approx(1 / (1 + ((x - 0.5) / 2) ** 2))
        assert masses.below[0] == pytest.approx(0 if x < 0.5 else 1 - masses.at[0], abs=1e-15)


@pytest.mark.parametrize("last", [0.0, 5e-324, 1e-300, 1e-30, 1e-17])
def test_a_used_up_measure_has_a_band_without_width(last: float) -> None:
    run = Run(np.array([1.0, 2.0, 0.5]), np.array([0.7, 0.3, last]))
    theta, sums = run.rule.nodes, np.cumsum(run.rule.weights)
    between = np.array([theta[0] - 1, *(theta[:-1] + theta[1:]) / 2, theta[-1] + 1])
    masses = radau_masses(run.alphas, run.betas, between)
    np.testing.assert_allclose(masses.lower, [0, *sums], atol=1e-14)
    np.testing.assert_allclose(masses.upper, [0, *sums], atol=1e-14)
    assert christoffel_number(run.alphas, run.betas, theta[-1] + 1) <= 1e-30


def test_at_the_full_dimension_the_band_is_the_distribution_itself() -> None:
    lam = np.sort(np.random.default_rng(6).standard_normal(20))
    run, seen = run_lanczos(lam, 20, 6)
    between = (lam[:-1] + lam[1:]) / 2
    masses = radau_masses(run.alphas, run.betas, between)
    np.testing.assert_allclose(masses.lower, seen.at(between), atol=1e-10)
    np.testing.assert_allclose(masses.upper, seen.at(between), atol=1e-10)


def test_more_steps_only_narrow_the_band() -> None:
    lam = eigenvalues("outliers", 300, np.random.default_rng(7))
    run, _ = run_lanczos(lam, 40, 7)
    x = np.linspace(-0.2, 0.2, 101)
    bands = [radau_masses(run.alphas[:m], run.betas[:m], x) for m in (5, 10, 20, 40)]
    for wide, narrow in itertools.pairwise(bands):
        assert (narrow.lower >= wide.lower - 1e-10).all()
        assert (narrow.upper <= wide.upper + 1e-10).all()
    assert bands[-1].at.mean() < bands[0].at.mean() / 3


def test_the_zero_operator() -> None:
    rule = gauss_rule(np.zeros(1), np.zeros(1))
    assert (rule.nodes[0], rule.weights[0], rule.residuals[0]) == (0, 1, 0)
    masses = radau_masses(np.zeros(1), np.zeros(1), np.array([-1.0, 1.0]))
    np.testing.assert_array_equal(masses.lower, [0, 1])
    np.testing.assert_array_equal(masses.upper, [0, 1])


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 60])
def test_bounds_hold_and_close_far_outside_the_spectrum(steps):
    rng = np.random.default_rng(steps)
    alphas, betas = rng.normal(size=steps), np.abs(rng.normal(size=steps)) + 0.1
    scale = max(np.abs(alphas).max(), betas.max())
    for distance in (1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e9, 1e15):
        far = distance * scale
        lower, upper = sharp_bounds(alphas, betas, np.array([-far, 0.0, far]))
        # A node forced at distance d weighs at most about (‖T‖/d)², and all else lies on one side.
        room = 20 / min(distance, 1e6) ** 2 + 2e-7
        assert lower[0] == 0
        assert upper[0] <= room
        assert upper[2] == pytest.approx(1, abs=2e-7)
        assert lower[2] >= 1 - room
        near = sharp_bounds(alphas, betas, np.array([0.0]))
        assert (lower[1], upper[1]) == pytest.approx((near[0][0], near[1][0]), abs=1e-12)
