"""The 95 % intervals hold the exact number in at least 95 % of 1,000 seeds, and are not vacuous."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import scipy.stats
import torch

from spectra.linalg import Lanczos, SymmetricOperator, probe
from spectra.quadrature import Measure, Run, extremes, mass, moment
from tests.quadrature.prescribed import KINDS, eigenvalues, share

TRIALS = pytest.mark.parametrize("trials", [300, pytest.param(1000, marks=pytest.mark.slow)])
N = 600
Product = Callable[[torch.Tensor], torch.Tensor]


@cache
def setting(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a spectrum and the ends of 25 intervals that cut it at moderate shares."""
    rng = np.random.default_rng(KINDS.index(kind))
    lam = eigenvalues(kind, N, rng)
    levels = np.sort(rng.uniform(0.02, 0.98, (25, 2)), axis=1)
    ends = np.quantile(lam, levels)
    nudge = 1e-3 * np.ptp(lam) * rng.uniform(0.2, 1, (25, 2)) * [-1, 1]
    return lam, ends + nudge


def probed(product: Product, seed: int, probes: int, steps: int) -> tuple[Run, ...]:
    operator = SymmetricOperator.from_matvec(product, N, dtype=torch.float64)
    starts = [probe(N, seed=seed, probe=p, dtype=torch.float64) for p in range(probes)]
    lanczos = Lanczos(operator, torch.stack(starts)).extend(steps)
    return tuple(
        Run(lanczos.alphas[p, :m], lanczos.betas[p, :m])
        for p, m in enumerate(lanczos.steps.tolist())
    )


def intervals(
    products: Callable[[np.ndarray, int], Product], seeds: range, probes: int, delta: float
) -> tuple[int, list[float]]:
    """Return how many of the seeds' intervals hold the exact mass, and all their widths."""
    hits, widths = 0, []
    for seed in seeds:
        lam, ends = setting(KINDS[seed % len(KINDS)])
        a, b = ends[seed % 25]
        b = max(b, a + 3 * delta)
        runs = probed(products(lam, seed), seed, probes, 50)
        measured = mass(Measure((runs,), N, N, product_error=delta), a, b)
        hits += measured.lower <= share(lam, a, b) <= measured.upper
        widths.append(measured.width)
    return hits, widths


def exact(lam: np.ndarray, seed: int) -> Product:
    values = torch.from_numpy(lam)
    return lambda v: values * v


@TRIALS
def test_mass_intervals_cover(trials: int) -> None:
    half = trials // 2
    one, wide = intervals(exact, range(half), 1, 0.0)
    two, narrow = intervals(exact, range(half, trials), 2, 0.0)
    print(f"P=1: {one} of {half}, median width {np.median(wide):.3f}")
    print(f"P=2: {two} of {half}, median width {np.median(narrow):.3f}")
    assert one + two >= 0.95 * trials
    assert np.median(wide) < 0.25
    assert np.median(narrow) < 0.2


DELTA = 1e-3


def shifted(lam: np.ndarray, seed: int) -> Product:
    """Products of diag(lam) + E, E symmetric and ‖E‖ = δ: a random reflection, cheap to apply."""
    values = torch.from_numpy(lam)
    u = probe(N, seed=seed, batch=7, dtype=torch.float64)
    return lambda v: values * v + DELTA * (v - 2 * (u @ v) * u)


def noisy(lam: np.ndarray, seed: int) -> Product:
    """Products with fresh noise of norm δ each: no symmetric operator stands behind them."""
    values, draw = torch.from_numpy(lam), np.random.default_rng([seed, 1])

    def product(v: torch.Tensor) -> torch.Tensor:
        e = torch.from_numpy(draw.standard_normal(N))
        return values * v + DELTA * float(v.norm() / e.norm()) * e

    return product


@TRIALS
def test_mass_intervals_cover_when_products_are_wrong_by_a_known_delta(trials: int) -> None:
    half = trials // 2
    fixed, wide = intervals(shifted, range(half), 1, DELTA)
    fresh, noise = intervals(noisy, range(half, trials), 1, DELTA)
    print(f"symmetric error {DELTA}: {fixed} of {half}, median width {np.median(wide):.3f}")
    print(f"fresh noise {DELTA}: {fresh} of {half}, median width {np.median(noise):.3f}")
    assert fixed + fresh >= 0.95 * trials
    assert np.median(wide + noise) < 0.3


def test_an_undeclared_error_of_products_breaks_the_interval() -> None:
    """The widening by δ is needed: without it, a threshold at an atom is missed."""
    lam = np.concatenate([np.linspace(-1, -0.5, N // 2), np.zeros(N // 2)])
    values = torch.from_numpy(lam)
    runs = probed(lambda v: (values + DELTA) * v, 0, 1, 30)
    a, b = -DELTA / 2, DELTA / 2
    blind = mass(Measure((runs,), N, N), a, b)
    assert not blind.lower <= share(lam, a, b) <= blind.upper
    a, b = -2.5 * DELTA, 2.5 * DELTA
    told = mass(Measure((runs,), N, N, product_error=DELTA), a, b)
    assert told.lower <= 0.5 <= told.upper
    assert told.width < 0.2


def test_population_intervals_cover_the_law_of_the_batches() -> None:
    """B = 5 operators of one law: half a Gaussian bulk, and an atom whose share is random."""
    trials, batches, a, b = 200, 5, -0.5, 0.5
    # Share of the law in [a, b]: the atom has mean 0.4, the bulk is standard normal.
    law = 0.4 + 0.6 * (scipy.stats.norm.cdf(b) - scipy.stats.norm.cdf(a))
    hits, widths = 0, []
    for trial in range(trials):
        rows = []
        for batch in range(batches):
            rng = np.random.default_rng([trial, batch])
            zeros = int(rng.integers(int(0.3 * N), int(0.5 * N) + 1))
            lam = np.concatenate([np.zeros(zeros), rng.standard_normal(N - zeros)])
            rows.append(probed(exact(lam, trial), 1000 * trial + batch, 1, 30))
        measured = mass(Measure(tuple(rows), N, N), a, b, scope="population")
        hits += measured.lower <= law <= measured.upper
        widths.append(measured.width)
    print(f"population: covered {hits} of {trials}, median width {np.median(widths):.3f}")
    slack = 3 * np.sqrt(0.95 * 0.05 / trials)
    assert hits / trials >= 0.95 - slack
    assert np.median(widths) < 0.35


def test_the_outer_bound_covers_the_extreme_eigenvalues() -> None:
    hits, excess = 0, []
    for seed in range(500):
        lam, _ = setting(KINDS[seed % len(KINDS)])
        measure = Measure((probed(exact(lam, seed), seed, 1, 20),), N, N)
        low, high = extremes(measure)
        hits += low.lower <= lam[0] <= low.upper and high.lower <= lam[-1] <= high.upper
        excess.append((high.upper - lam[-1]) / np.ptp(lam))
    print(f"extremes: covered {hits} of 500, median excess {np.median(excess):.3f} of range")
    assert hits >= 475
    assert np.median(excess) < 0.2


def test_bounds_of_several_operators_hold_jointly() -> None:
    """The mean of B bounds needs all of them: an error spread over B takes η/B each."""
    runs = probed(exact(setting("indefinite")[0], 0), 0, 1, 10)
    single = extremes(Measure((runs,), N, N))[1].upper
    joint = extremes(Measure((runs,) * 8, N, N))[1].upper
    assert joint > single
    assert joint == pytest.approx(
        extremes(Measure((runs,), N, N), confidence=1 - 0.05 / 8)[1].upper, rel=1e-3
    )


@pytest.mark.parametrize("power", [1, 2, 3])
def test_moment_intervals_cover_where_many_eigenvalues_carry_them(power: int) -> None:
    lam = eigenvalues("indefinite", N, np.random.default_rng(0))
    truth, hits = float(np.mean(lam**power)), 0
    for seed in range(300):
        measured = moment(Measure((probed(exact(lam, seed), seed, 1, 4),), N, N), power)
        hits += measured.lower <= truth <= measured.upper
    assert 300 * 0.95 - 3 * np.sqrt(300 * 0.95 * 0.05) <= hits < 300
