"""Soft shares: discs against high precision, bands against exact shares, intervals by coverage."""

from __future__ import annotations

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest

from spectra.errors import UsageError
from spectra.quadrature import (
    Measure,
    effective_dimension,
    log_determinant,
    mean_magnitude,
    resolution,
    resolved_histogram,
    smoothed_density,
    soft_band,
    soft_mass,
    weyl_disc,
)
from spectra.quadrature.logarithmic import determinant_bounds, magnitude_bounds
from spectra.quadrature.soft import LADDER, ladder
from spectra.quadrature.windows import ORDERS, roots, window, window_bounds, window_widths
from tests.quadrature.prescribed import KINDS, eigenvalues, measure_of, run_lanczos

N = 400
TAUS = np.array([1e-3, 1e-2, 0.1, 0.4, 1.0, 3.0])


def exact_share(lam: np.ndarray, tau: float, order: int) -> float:
    return float(window(lam, tau, order).mean())


def mp_disc(alphas: np.ndarray, betas: np.ndarray, z: complex) -> tuple[complex, float]:
    """Centre and radius of the image of |g + i/(2y)| ≤ 1/(2y), from three of its points."""
    with mpmath.workdps(80):
        point, y = mpmath.mpc(z), mpmath.mpf(z.imag)

        def transform(g: mpmath.mpc) -> mpmath.mpc:
            value = g
            for alpha, beta in zip(alphas[::-1], betas[::-1], strict=True):
                value = 1 / (point - mpmath.mpf(alpha) - mpmath.mpf(beta) ** 2 * value)
            return value

        angles = [0, 2 * mpmath.pi / 3, 4 * mpmath.pi / 3]
        a, b, c = (transform((-1j + mpmath.exp(1j * t)) / (2 * y)) for t in angles)
        w = (c - a) / (b - a)
        centre = a + (b - a) * (w - abs(w) ** 2) / (2j * w.imag)
        return complex(centre), float(abs(a - centre))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("y", [1e-9, 1e-3, 1.0])
def test_a_disc_is_that_of_eighty_digits(kind: str, y: float) -> None:
    lam = eigenvalues(kind, N, np.random.default_rng(0))
    run, _ = run_lanczos(lam, 14, 0)
    points = np.array([0.0, 0.3, float(lam[-1])]) + 1j * y
    rounding = 1e-12 + 8 * np.finfo(float).eps * float(np.abs(lam).max()) / y
    centre, radius = weyl_disc(run.alphas, run.betas, points)
    for place, z in enumerate(points.tolist()):
        c, r = mp_disc(run.alphas, run.betas, z)
        assert abs(centre[place] - c) <= rounding * abs(c)
        assert radius[place] == pytest.approx(r, rel=max(1e-8, rounding))


def test_a_disc_contains_the_transform_and_is_empty_at_an_end() -> None:
    lam = eigenvalues("outliers", N, np.random.default_rng(1))
    z = np.array([1e-3j, 0.2 + 0.05j, -1 + 1e-6j])
    for steps in (1, 2, 10, 40):
        run, seen = run_lanczos(lam, steps, 1)
        true = (seen.masses / (z[:, None] - seen.lam)).sum(axis=1)
        centre, radius = weyl_disc(run.alphas, run.betas, z)
        assert (np.abs(true - centre) <= radius * (1 + 1e-9) + 1e-12 * np.abs(true)).all()
    few, seen = run_lanczos(np.array([-1.0, 0.5, 2.0]), 3, 1)
    ended = replace(few, betas=np.append(few.betas[:-1], 0.0))
    centre, radius = weyl_disc(ended.alphas, ended.betas, z)
    assert (radius == 0).all()
    np.testing.assert_allclose(centre, (seen.masses / (z[:, None] - seen.lam)).sum(axis=1))


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("order", ORDERS)
def test_bounds_hold_for_what_one_probe_sees(order: int, scale: float) -> None:
    rng, seen_some = np.random.default_rng(order), 0
    for kind in KINDS:
        lam = scale * eigenvalues(kind, N, rng)
        for steps in (5, 25, 70):
            run, seen = run_lanczos(lam, steps, steps)
            low, high = window_bounds(run.alphas, run.betas, scale * TAUS, order)
            true = np.array([seen.masses @ window(seen.lam, scale * tau, order) for tau in TAUS])
            assert (low - 1e-11 <= true).all()
            assert (true <= high + 1e-11).all()
            seen_some += int((high - low < 0.01).sum())
            widths = window_widths(run.alphas, run.betas, scale * TAUS, order, [steps // 2, steps])
            assert (widths[1] <= widths[0]).all()
            assert (high - low <= widths[1] * (1 + 1e-6) + 1e-12).all()
    assert seen_some > 40


def test_order_one_is_sharp() -> None:
    """A measure with the same coefficients reaches the lower end, another the upper one."""
    run, _ = run_lanczos(eigenvalues("indefinite", N, np.random.default_rng(2)), 8, 2)
    tau = 0.3
    low, high = window_bounds(run.alphas, run.betas, np.array([tau]), 1)
    shares = []
    for angle in np.linspace(0, 2 * np.pi, 721):
        g = (-1j + np.exp(1j * angle)) / (2 * tau)
        for alpha, beta in zip(run.alphas[::-1], run.betas[::-1], strict=True):
            g = 1 / (1j * tau - alpha - beta**2 * g)
        shares.append((1j * tau * g).real)
    assert min(shares) == pytest.approx(low[0], abs=1e-5)
    assert max(shares) == pytest.approx(high[0], abs=1e-5)


def test_roots_are_those_of_the_window() -> None:
    for order in ORDERS:
        z = roots(np.array([0.7]), order)[0]
        np.testing.assert_allclose((z / 0.7) ** (2 * order), -1)
        assert (z.imag > 0).all()
        x = np.linspace(-3, 3, 7)
        parts = (z[:, None] / (z[:, None] - x)).sum(axis=0).real / order
        np.testing.assert_allclose(parts, window(x, 0.7, order), atol=1e-14)


def test_ends_follow_their_formulas() -> None:
    """Halving or doubling a risk, an order or an error moves the ends, so they are compared."""
    lam = eigenvalues("clusters", N, np.random.default_rng(3))
    measure = measure_of(lam, 12, 3, probes=2, product_error=1e-3)
    for order in ORDERS:
        seen = [window_bounds(r.alphas, r.betas, np.array([2.0]), order) for r in measure.runs[0]]
        low = float(np.mean([pair[0] for pair in seen])) - order * 1e-3 / 2.0
        high = float(np.mean([pair[1] for pair in seen])) + order * 1e-3 / 2.0
        for together in (False, True):
            events = N if together else 1
            risk = math.log(2 * events / 0.05)
            h = math.sqrt(risk / ((N + 2) * 2))
            found = soft_mass(measure, 2.0, order, simultaneous=together)
            assert found.lower >= low - h - 1e-12
            assert found.upper <= high + h + 1e-12
            for seen_mass, end in ((low, found.lower), (high, found.upper)):
                kl = end * math.log(end / seen_mass) + (1 - end) * math.log(
                    (1 - end) / (1 - seen_mass)
                )
                by_chernoff = N * 2 / 2 * kl == pytest.approx(risk, rel=1e-6)
                by_variance = abs(end - seen_mass) == pytest.approx(h, rel=1e-6)
                assert by_chernoff or by_variance


def test_masked_and_structural_zeros_are_counted_as_proven() -> None:
    lam = np.concatenate([np.zeros(100), np.linspace(0.5, 1, 300)])
    run, _ = run_lanczos(lam, 2, 4)
    plain = Measure(((run,),), 500, 400)
    told = replace(plain, zero_fractions=(0.25,))
    for tau, order in ((1e-3, 1), (1e-3, 4), (0.1, 2)):
        true = 0.2 + 0.8 * exact_share(lam, tau, order)
        before, after = soft_mass(plain, tau, order), soft_mass(told, tau, order)
        assert before.lower <= true <= before.upper
        assert after.lower <= true <= after.upper
        assert after.lower >= 0.2 + 0.8 * 0.25 - 1e-12
        assert after.upper == pytest.approx(before.upper)
    assert soft_mass(plain, 1e-3, 4).lower < 0.3


def test_effective_dimension_is_the_complement() -> None:
    lam = eigenvalues("outliers", N, np.random.default_rng(5))
    measure = measure_of(lam, 60, 5)
    found, share = effective_dimension(measure, 0.5), soft_mass(measure, 0.5, 1)
    true = float((lam**2 / (lam**2 + 0.25)).sum())
    assert found.lower <= true <= found.upper
    assert found.value == pytest.approx(N * (1 - share.value))
    ends = N * (1 - share.upper), N * (1 - share.lower)
    assert (found.lower, found.upper) == pytest.approx(ends)


@pytest.mark.parametrize("kind", KINDS)
def test_mean_magnitude_and_log_determinant_are_bounded(kind: str) -> None:
    lam = eigenvalues(kind, N, np.random.default_rng(6))
    for steps in (3, 20, 60):
        run, seen = run_lanczos(lam, steps, 6)
        low, high = magnitude_bounds(run, 0.0)
        true = float(seen.masses @ np.abs(seen.lam))
        assert low <= true * (1 + 1e-9)
        assert true <= high * (1 + 1e-9)
        for tau in (0.01, 0.5):
            low, high = determinant_bounds(run, tau, 0.0)
            true = float(seen.masses @ np.log1p((seen.lam / tau) ** 2))
            assert low <= true * (1 + 1e-9)
            assert true <= high * (1 + 1e-9)
    measure = measure_of(lam, 60, 6, probes=3)
    found = mean_magnitude(measure)
    assert found.lower <= np.abs(lam).mean() <= found.upper
    found = log_determinant(measure, 0.5)
    assert found.lower <= np.log1p((lam / 0.5) ** 2).mean() <= found.upper
    assert found.upper - found.lower < 2 * found.value


def test_the_smoothed_density_is_held_by_its_band() -> None:
    for kind in KINDS:
        lam = eigenvalues(kind, N, np.random.default_rng(7))
        measure = measure_of(lam, 60, 7, probes=2)
        x = np.linspace(lam[0] - 1, lam[-1] + 1, 101)
        for width in (None, 0.1):
            band = smoothed_density(measure, x, width)
            eta = band.width[:, None]
            true = (eta / math.pi / ((x[:, None] - lam) ** 2 + eta**2)).mean(axis=1)
            assert (band.lower <= true).all()
            assert (true <= band.upper).all()
            assert (band.lower <= band.value).all()
            assert (band.value <= band.upper).all()
            if width is None:
                assert (band.upper <= 3 * band.lower * (1 + 1e-9)).mean() > 0.9
                assert np.unique(band.width).size > 5
            else:
                assert (band.width == width).all()


def test_the_resolution_is_the_smallest_threshold_that_is_known() -> None:
    lam = eigenvalues("outliers", 4000, np.random.default_rng(8))
    measure = measure_of(lam, 80, 8, probes=3)
    tau, order = resolution(measure, 0.1)
    assert tau in LADDER
    taus = ladder(measure)
    assert (np.diff(taus) < 0).all()
    events = 3 * len(LADDER)
    widths = {
        o: (lambda b: b.upper - b.lower)(soft_band(measure, taus, o, events=events)) for o in ORDERS
    }
    place = int(np.flatnonzero(taus == tau)[0])
    assert widths[order][place] <= 0.1
    assert all(widths[o][place] > 0.1 for o in ORDERS if o > order)
    assert all(widths[o][place + 1] > 0.1 for o in ORDERS)
    finer = resolution(measure_of(lam, 160, 8, probes=3), 0.1)
    assert finer[0] < tau
    assert resolution(measure_of(lam, 1, 8), 0.001) is None
    blind = resolution(measure_of(lam, 80, 8, probes=3, product_error=0.3), 0.1)
    assert blind[0] > 0.3


REFUSED = {
    "tau": (lambda m: soft_mass(m, 0.0), "tau=0"),
    "nan": (lambda m: soft_mass(m, math.nan), "tau=nan"),
    "order": (lambda m: soft_mass(m, 1.0, 3), "order=3"),
    "scope": (lambda m: soft_mass(m, 1.0, scope="population"), "at least 3 batches"),
    "kind": (lambda m: soft_mass(replace(m, spherical=False), 1.0), "Rademacher"),
    "width": (lambda m: resolution(m, 5.0), "width=5"),
    "lorentzian": (lambda m: smoothed_density(m, np.zeros(1), -1.0), "width=-1"),
    "grid": (lambda m: smoothed_density(m, np.array([np.inf])), "finite"),
    "determinant": (lambda m: log_determinant(m, -1.0), "tau=-1"),
    "everything": (
        lambda m: soft_mass(
            replace(m, runs=m.runs * 3), 1.0, scope="population", simultaneous=True
        ),
        "simultaneous=True",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named(case: str) -> None:
    ask, words = REFUSED[case]
    measure = measure_of(eigenvalues("flat", 50, np.random.default_rng(9)), 5, 9)
    with pytest.raises(UsageError) as caught:
        ask(measure)
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_histogram_holds_the_shares_of_its_bins(kind: str) -> None:
    lam = eigenvalues(kind, 3000, np.random.default_rng(10))
    measure = measure_of(lam, 80, 10, probes=2)
    grid = np.linspace(lam[0] - 0.5, lam[-1] + 0.5, 90)
    found = resolved_histogram(measure, grid)
    true = np.histogram(lam, found.edges)[0] / lam.size
    assert (found.lower <= true).all()
    assert (true <= found.upper).all()
    assert found.lower.sum() <= 1 <= found.upper.sum()
    assert (found.upper[found.told] <= 3 * found.lower[found.told] * (1 + 1e-12)).all()
    assert found.told.sum() >= 1
    assert set(found.edges) <= set(grid)
    low, high = found.density
    assert low @ np.diff(found.edges) == pytest.approx(found.lower.sum())
    assert (high >= low).all()
