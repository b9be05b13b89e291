"""What an estimate says in words, what it refuses, and that its advice works."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import scipy.stats

from spectra.errors import UsageError
from spectra.quadrature import (
    Estimate,
    Measure,
    as_runs,
    cdf,
    density,
    extremes,
    log_density,
    mass,
    moment,
    quantile,
    summarize,
)
from spectra.quadrature.estimates import RESOLVED_WIDTH, probe_halfwidth
from spectra.quadrature.mass import effective_runs
from tests.quadrature.prescribed import eigenvalues, measure_of, run_lanczos

N = 6000
LEVELS = (np.arange(N) + 0.5) / N
CONTINUOUS = {
    "uniform": 2 * LEVELS - 1,
    "semicircle": scipy.stats.semicircular.ppf(LEVELS),
    "normal": scipy.stats.norm.ppf(LEVELS),
    "laplace": scipy.stats.laplace.ppf(LEVELS),
}


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_half_as_many_steps_again_as_advised_resolve_the_threshold(name: str, share: float) -> None:
    lam = CONTINUOUS[name]
    tau = float(np.quantile(np.abs(lam), share))
    few = mass(measure_of(lam, 12, 0, probes=2), -tau, tau)
    said = re.match(rf"mass within ±{tau:.3g}: between ([\d.]+) and ([\d.]+), not", few.note)
    assert said is not None
    low, high = (float(number) for number in said.groups())
    assert few.lower - 0.01 < low <= few.lower  # rounded outward, to two decimals
    assert few.upper <= high < few.upper + 0.01
    assert "not resolved with 12 steps" in few.note
    advised = int(re.search(r"about ([\d,]+) would", few.note)[1].replace(",", ""))
    assert 12 < advised < 1000
    enough = mass(measure_of(lam, 3 * advised // 2, 0, probes=2), -tau, tau)
    assert enough.width <= RESOLVED_WIDTH
    assert enough.note == ""


def test_where_probes_are_missing_steps_are_not_advised() -> None:
    lam = eigenvalues("clusters", 200, np.random.default_rng(0))
    one = mass(measure_of(lam, 30, 0), -2, 0)
    assert "more probes" in one.note
    assert "would" in one.note
    assert "about" not in one.note
    many = mass(measure_of(lam, 30, 0, probes=12), -2, 0)
    assert many.note == ""


def test_a_single_point_inside_a_spectrum_is_called_unresolvable() -> None:
    found = mass(measure_of(CONTINUOUS["normal"], 8, 0, probes=2), 0.0, 0.0)
    assert found.lower == 0
    assert found.upper > RESOLVED_WIDTH
    assert "no number of steps" in found.note
    assert mass(measure_of(CONTINUOUS["normal"], 8, 0, probes=2), 50.0, 50.0).upper < 0.1


def test_an_estimate_tells_all() -> None:
    measure = measure_of(eigenvalues("outliers", 500, np.random.default_rng(1)), 40, 1)
    found = mass(measure, -1, 1, confidence=0.9)
    assert [f.name for f in dataclasses.fields(found)] == [
        "value", "stderr", "lower", "upper", "scope", "confidence", "node_sum", "note",
    ]  # fmt: skip
    assert (found.scope, found.confidence) == ("batches", 0.9)
    assert found.lower <= found.value <= found.upper
    assert found.width == found.upper - found.lower
    assert found.stderr == pytest.approx(
        math.sqrt(2 * found.value * (1 - found.value) / 502), rel=0.2
    )
    assert str(Estimate(0.5, 0.1, 0.25, 0.75)) == "0.5 [0.25, 0.75]"
    assert str(Estimate(0.5, 0.1, 0.25, 0.75, note="so")) == "0.5 [0.25, 0.75] (so)"
    assert mass(measure, -1, 1, confidence=0.99).width > found.width
    assert mass(measure, -math.inf, math.inf).lower > 1 - 2 * probe_halfwidth(500, 1, 0.95)


def test_intervals_for_all_ends_at_once_count_the_jumps() -> None:
    """N eigenvalues in all have N(N + 1)/2 different intervals, and each is one more event."""
    n = 300
    measure = measure_of(eigenvalues("clusters", n, np.random.default_rng(2)), 30, 2)
    one, every = mass(measure, -2, 0), mass(measure, -2, 0, simultaneous=True)
    h_one = math.sqrt(math.log(2 / 0.05) / (n + 2))
    h_all = math.sqrt(math.log(n * (n + 1) / 0.05) / (n + 2))
    assert every.width - one.width == pytest.approx(2 * (h_all - h_one), abs=1e-12)
    assert probe_halfwidth(n, 1, 0.95, events=n) == pytest.approx(
        math.sqrt(math.log(2 * n / 0.05) / (n + 2))
    )


def test_unequal_numbers_of_probes_count_as_the_fewest() -> None:
    lam = eigenvalues("clusters", 200, np.random.default_rng(3))
    run = run_lanczos(lam, 10, 3)[0]
    measure = Measure(((run, run, run), (run,)), 200, 200)
    assert effective_runs(measure) == 2
    # Variance proxy of the mean of batch means: (1/3 + 1)/4 of one run's, at most 1/2.
    assert 1 / effective_runs(measure) >= (1 / 3 + 1) / 4
    assert measure.num_runs == 4


def test_padded_arrays_become_runs() -> None:
    alphas, betas = np.ones((2, 3, 4)), np.full((2, 3, 4), 0.5)
    runs = as_runs(alphas, betas, np.array([[4, 0, 2], [0, 0, 0]]))
    assert [[run.alphas.size for run in row] for row in runs] == [[4, 2]]


LAM = eigenvalues("indefinite", 100, np.random.default_rng(4))
PLAIN = measure_of(LAM, 10, 4)
REFUSED = {
    "no probe": (lambda: Measure((), 5, 5), "no finished probe"),
    "empty batch": (lambda: Measure(((),), 5, 5), "no finished probe"),
    "reversed": (lambda: mass(PLAIN, 1.0, -1.0), "[1, -1]"),
    "nan": (lambda: mass(PLAIN, math.nan, 1.0), "[nan, 1]"),
    "narrow": (
        lambda: mass(measure_of(LAM, 10, 4, product_error=0.01), -1e-3, 1e-3),
        "[-0.001, 0.001] is narrower than twice the product error δ=0.01",
    ),
    "scope": (lambda: mass(PLAIN, 0, 1, scope="world"), "'world'"),
    "few batches": (lambda: mass(PLAIN, 0, 1, scope="population"), "has 1"),
    "cdf scope": (lambda: cdf(PLAIN, 0, scope="population"), "at least 3 batches"),
    "confidence": (lambda: mass(PLAIN, 0, 1, confidence=95), "confidence=95"),
    "confidence 1": (lambda: extremes(PLAIN, confidence=1.0), "confidence=1.0"),
    "power 0": (lambda: moment(PLAIN, 0), "power=0"),
    "power 11": (lambda: moment(PLAIN, 11), "power=11 is out of range: 10 Lanczos steps"),
    "level 0": (lambda: quantile(PLAIN, 0.0), "p=0.0"),
    "level 1": (lambda: quantile(PLAIN, 1.0), "p=1.0"),
    "bandwidth": (lambda: density(PLAIN, LAM, bandwidth=0.0), "bandwidth=0.0"),
    "log bandwidth": (lambda: log_density(PLAIN, LAM, bandwidth=-1.0), "bandwidth=-1.0"),
    "rademacher": (
        lambda: mass(measure_of(LAM, 10, 4, spherical=False), 0, 1),
        "probe_kind='sphere'",
    ),
    "rademacher extremes": (
        lambda: extremes(measure_of(LAM, 10, 4, spherical=False)),
        "extreme eigenvalue",
    ),
    "rademacher quantile": (
        lambda: quantile(measure_of(LAM, 10, 4, spherical=False), 0.5),
        "a quantile",
    ),
    "every interval, all data": (
        lambda: mass(
            Measure(PLAIN.runs * 3, 100, 100), 0, 1, scope="population", simultaneous=True
        ),
        "simultaneous=True",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named(case: str) -> None:
    ask, words = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        ask()
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert message.endswith(".")
    assert caught.value.exit_code == 2


def test_a_summary_has_every_number_with_its_interval() -> None:
    run = PLAIN.runs[0][0]
    full = summarize(Measure(((run,),) * 3, 100, 100))
    for key in ("mean_eigenvalue", "mean_square_eigenvalue", "lambda_min", "lambda_max"):
        for scope in ("batches", "population"):
            entry = full[key][scope]
            assert entry["lower"] <= entry["value"] <= entry["upper"]
            assert entry["scope"] == scope
    assert full["negative_mass"]["batches"]["upper"] <= 1
    assert len(full["near_zero"]) == 6
    single = summarize(PLAIN)
    assert single["lambda_max"]["population"] is None
    coarse = summarize(measure_of(LAM, 10, 4, product_error=0.05))["near_zero"]
    assert [row["batches"] is None for row in coarse] == [row["tau"] < 0.05 for row in coarse]
    assert all("product error" in row["note"] for row in coarse if row["batches"] is None)
    traces = summarize(measure_of(LAM, 10, 4, spherical=False))
    assert set(traces) == {"mean_eigenvalue", "mean_square_eigenvalue"}
