"""Intervals of means over eigenvalues: the identity they rest on, exact coverage, and width."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from spectra.linalg import Lanczos, SymmetricOperator, probe
from spectra.quadrature import Measure, Run, moment
from spectra.quadrature.reading import Sums, rms, trace
from spectra.quadrature.tilting import Atoms, Tilting
from tests.coverage.families import spectrum
from tests.coverage.instances import batched_lanczos, measures

HARD = (
    "rank 1", "one outlier 1e8", "1/k", "1/k²", "Cauchy", "n = 2", "n = 3, rank 1", "n = 10",
    "outliers ±100 to ±70", "n = 10, two values",
)  # fmt: skip


@pytest.mark.parametrize("t", [-2.0, -0.3, 0.5, 3.0])
@pytest.mark.parametrize("f", [(0.0, 1.0), (0.0, 0.0, 1.0), (-1.0, 0.2, 0.4, 3.0)])
def test_the_identity_of_dirichlet_weights(f: tuple[float, ...], t: float) -> None:
    """E exp(n/2 (t Φ(f) − ln Ψ(e^{tf}))) = 1 for spherical weights, whatever f and t."""
    values = np.array(f)
    n, c = values.size, np.exp(t * (values - values.mean()))
    rng = np.random.default_rng(1)
    g = rng.standard_normal((400_000, n)) ** 2
    w = g / g.sum(axis=1, keepdims=True)
    seen = (w @ c) ** (-n / 2)
    error = seen.std() / math.sqrt(seen.size)
    assert seen.mean() == pytest.approx(1.0, abs=5 * error)


def bernoulli(seen: float, n: int) -> Atoms:
    """What a probe sees of k equal eigenvalues 1 and n − k zeros: their weight."""
    return Atoms(
        np.array([0.0, 1.0]),
        np.array([1 - seen, seen]),
        np.zeros(2),
        np.zeros(2, dtype=bool),
        float(n),
    )


@pytest.mark.parametrize("risk", [0.025, 0.0125, 0.005])
@pytest.mark.parametrize(("k", "n"), [(1, 2), (1, 3), (1, 600), (2, 600), (5, 10), (20, 600),
                                      (300, 600), (599, 600), (9, 10)])  # fmt: skip
def test_coverage_for_k_equal_eigenvalues_is_exact(k: int, n: int, risk: float) -> None:
    """The weight is Beta(k/2, (n − k)/2), so that no simulation is needed."""
    truth = k / n
    low, high = 0.0, 1.0  # the largest weight whose upper end misses k/n
    for _ in range(60):
        middle = (low + high) / 2
        f = np.array([0.0, 1.0])
        misses = bernoulli(min(max(middle, 1e-300), 1 - 1e-16), n).upper(f, risk) < truth
        low, high = (middle, high) if misses else (low, middle)
    missed = float(scipy.special.betainc(k / 2, (n - k) / 2, low))
    print(f"k={k}, n={n}: missed {missed:.4f} of {risk}")
    assert missed <= risk
    assert missed >= risk * (0.1 if min(k, n - k) <= 2 else 0.4)


@pytest.mark.parametrize("family", HARD)
def test_moments_hold_where_the_normal_approximation_held_half(family: str) -> None:
    lam = spectrum(family)
    powers = (1, 2) if np.unique(lam).size > 1 else (1,)
    hits = dict.fromkeys(powers, 0)
    seen = measures(family, "float64, 50 steps", 100)
    for measure in seen:
        for power in powers:
            found = moment(measure, power)
            exact = float(np.mean(lam**power))
            slack = 1e-13 * abs(exact)
            hits[power] += found.lower - slack <= exact <= found.upper + slack
    assert all(count >= 94 for count in hits.values()), hits


@pytest.mark.parametrize("family", ["gaussian", "indefinite", "exponential"])
def test_benign_spectra_pay_little(family: str) -> None:
    """At most a fifth more than the normal interval with the variance known."""
    lam = spectrum(family)
    for power in (1, 2):
        known = 2 * 1.96 * math.sqrt(2 * np.var(lam**power) / (lam.size + 2))
        widths = [moment(m, power).width for m in measures(family, "float64, 50 steps", 20)]
        assert known < np.median(widths) < 1.2 * known


def test_all_eigenvalues_known_is_the_mean_known() -> None:
    lam = np.array([-1.0, 0.3, 0.5, 2.0, 7.0])
    (run,) = batched_lanczos(lam, 5, 1, seed=3)
    found = moment(Measure(((run,),), 5, 5), 1)
    assert found.lower <= lam.mean() <= found.upper
    assert 0 < found.width < 1e-12
    part = moment(Measure(((Run(run.alphas[:4], run.betas[:4]),),), 5, 5), 1)
    assert part.width > 0.1


def test_a_certain_eigenvalue_bounds_the_moment_from_below() -> None:
    """However little a probe saw of an outlier, it is one eigenvalue at least."""
    lam = np.append(np.random.default_rng(0).uniform(-1, 1, 999), 50.0)
    runs = batched_lanczos(lam, 30, 300, seed=1)
    weights = np.array([run.rule.weights[-1] * 1000 for run in runs])
    assert weights.min() < 1e-3
    blind = Measure(((runs[int(np.argmin(weights))],),), 1000, 1000)
    found = moment(blind, 2)
    assert 2.5 < found.lower <= np.mean(lam**2) <= found.upper
    assert found.value >= found.lower
    assert moment(blind, 1).upper > lam.mean()


def test_probes_and_batches_narrow() -> None:
    lam = spectrum("one outlier 30")
    runs = tuple(batched_lanczos(lam, 30, 16, seed=2))
    n = lam.size
    one, many = Measure((runs[:1],), n, n), Measure((runs,), n, n)
    rows = Measure(tuple((run,) for run in runs), n, n)
    assert moment(many, 2).width < 0.5 * moment(one, 2).width
    assert moment(rows, 2).width == pytest.approx(moment(many, 2).width, rel=0.3)
    uneven = Measure((runs[:3], runs[3:4]), n, n)  # as good as one probe on each
    assert moment(uneven, 1).width > moment(Measure((runs[:4],), n, n), 1).width


@pytest.mark.parametrize("scale", [1e-200, 2.0**-60, 1e5, 1e70])
def test_moments_scale(scale: float) -> None:
    lam = spectrum("outliers")
    (run,) = batched_lanczos(lam, 20, 1, seed=4)
    n = lam.size
    plain = moment(Measure(((run,),), n, n), 1)
    grown = moment(Measure(((Run(scale * run.alphas, scale * run.betas),),), n, n), 1)
    for end in ("lower", "value", "upper"):
        assert getattr(grown, end) / scale == pytest.approx(getattr(plain, end), rel=1e-9)


def test_a_fourth_power_beyond_floats_is_no_crash() -> None:
    (run,) = batched_lanczos(spectrum("gaussian"), 20, 1, seed=5)
    for scale in (1e100, 1e-100):
        found = moment(Measure(((Run(scale * run.alphas, scale * run.betas),),), 600, 600), 2)
        assert found.lower <= scale**2 * np.mean(spectrum("gaussian") ** 2) <= found.upper


def test_readings_have_the_intervals_of_moments() -> None:
    (measure,) = measures("1/k", "float64, 50 steps", 1)
    sums, one, two = Sums(measure), moment(measure, 1), moment(measure, 2)
    found = trace(sums, 0.05).estimate("batches", 0.05)
    assert (found.lower / 600, found.upper / 600) == pytest.approx((one.lower, one.upper))
    root = rms(sums, 0.05).estimate("batches", 0.05)
    assert (root.lower**2, root.upper**2) == pytest.approx((two.lower, two.upper), rel=1e-9)


def rademacher(A: torch.Tensor, probes: int, seed: int) -> Measure:
    n = A.shape[0]
    starts = [
        probe(n, seed=seed, probe=p, kind="rademacher", dtype=torch.float64) for p in range(probes)
    ]
    run = Lanczos(SymmetricOperator.from_matrix(A), torch.stack(starts)).extend(6)
    rows = tuple(Run(run.alphas[p, :m], run.betas[p, :m]) for p, m in enumerate(run.steps.tolist()))
    return Measure((rows,), n, n, spherical=False)


def test_rademacher_probes_have_an_interval_from_six_on() -> None:
    A = torch.diag(torch.linspace(0, 0.01, 40, dtype=torch.float64))
    A[0, 1] = A[1, 0] = A[0, 0] = A[1, 1] = 1.0  # every second probe misses this eigenvalue 2
    few = moment(rademacher(A, 5, 0), 1)
    assert (few.lower, few.upper) == (-math.inf, math.inf)
    assert "Rademacher" in few.note
    truth = float(A.trace()) / 40
    found = [moment(rademacher(A, 6, seed), 1) for seed in range(60)]
    assert sum(e.lower <= truth <= e.upper for e in found) >= 57


def test_functions_of_one_value_have_no_spread() -> None:
    (measure,) = measures("outliers", "float64, 50 steps", 1)
    assert Tilting(measure, 0.05).interval(np.ones_like) == (1.0, 1.0)
