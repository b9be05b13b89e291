"""Differences of two spectra: intervals that hold the exact difference, and that mean something."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict

import numpy as np
import pytest
import scipy.stats

from spectra.errors import UsageError
from spectra.quadrature import Measure, Run, differences, mass
from spectra.quadrature.curves import Curves
from spectra.quadrature.difference import EQUAL, LADDER, RESOLVED, Difference, equal_operators
from spectra.quadrature.wasserstein import spectral_distance
from tests.quadrature.pairs import STRENGTHS, Turned, measured, moved, operators, truth, turned
from tests.quadrature.prescribed import KINDS, eigenvalues

N, STEPS = 8000, 20
TAUS = (0.2, 1.0)
QUANTITIES = 21


class Record:
    """What became of one quantity over many pairs."""

    def __init__(self) -> None:
        self.hits, self.widths, self.resolved = 0, [], []

    def add(self, found: Difference, exact: float, size: float) -> None:
        slack = 1e-9 * max(abs(exact), size)
        self.hits += found.lower - slack <= exact <= found.upper + slack
        self.widths.append(found.upper - found.lower)
        self.resolved.append(found.resolved)

    def words(self) -> str:
        middle = float(np.median(self.widths))
        return (
            f"covered {self.hits} of {len(self.widths)}, median width {middle:.3g}, "
            f"resolved {sum(self.resolved)}"
        )


def size(name: str, found: Difference) -> float:
    return abs(found.a.value) if found.a else 0.0


@pytest.mark.parametrize("pairs", [80, pytest.param(200, marks=pytest.mark.slow)])
def test_every_interval_covers_the_exact_difference(pairs: int) -> None:
    records: dict[str, Record] = defaultdict(Record)
    changed, unchanged = [], []
    for seed in range(pairs):
        a, b = operators(seed, 2, N)
        rows = differences(measured(a, seed, STEPS), measured(b, seed, STEPS), taus=TAUS)
        assert len(rows) == QUANTITIES
        for row in rows:
            if not math.isnan(row.lower):
                records[row.name].add(row, truth(a, b, row.name, row.tau), size(row.name, row))
        strength = STRENGTHS[seed // len(KINDS) % len(STRENGTHS)]
        (unchanged if strength == 0 else changed).append(sum(row.resolved for row in rows))
    for name, found in records.items():
        print(f"{name}: {found.words()}")
        assert found.hits >= 0.95 * len(found.widths), name
    assert len(records) == QUANTITIES
    assert sum(unchanged) == 0
    print(f"resolved in a pair that differs: median {np.median(changed):g} of {QUANTITIES}")
    for name in ("lambda_max", "lambda_min", "spectral_norm"):
        assert sum(records[name].resolved) > 0.6 * len(changed)
    for name in ("rms_eigenvalue", "wasserstein"):
        assert sum(records[name].resolved) > 0.4 * len(changed)
    assert np.median(records[RESOLVED].widths) < 0.2
    assert np.median(records["near_zero_0.2"].widths) < 0.3


def law(trials: int, batches: int, n: int) -> tuple[list[Turned], list[Turned], list[list[Turned]]]:
    """Return the law of A and of B as fine grids of operators, and `trials` samples of pairs.

    A batch scales both spectra by c, and B's by another few percent: so the error over batches of
    either is large, and that of the difference small. Both factors are Gaussian, as Student's t
    supposes.
    """
    rng = np.random.default_rng(5)
    lam = eigenvalues("outliers", n, rng)
    other = moved(lam, rng, 0.5)

    def pair(c: float, u: float, rng: np.random.Generator) -> tuple[Turned, Turned]:
        return turned(c * lam, rng), turned(c * (1 + u) * other, rng)

    cells = scipy.stats.norm.ppf((np.arange(60) + 0.5) / 60)
    grid = [pair(1 + 0.15 * x, 0.03 * y, rng) for x in cells for y in cells[::4]]
    samples = []
    for _ in range(trials):
        drawn = zip(rng.normal(1, 0.15, batches), rng.normal(0, 0.03, batches), strict=True)
        samples.append([pair(c, u, rng) for c, u in drawn])
    return [p[0] for p in grid], [p[1] for p in grid], samples


@pytest.mark.parametrize("trials", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_population_intervals_cover_the_law_of_the_batches(trials) -> None:
    batches = 5
    every_a, every_b, samples = law(trials, batches, 1200)
    records: dict[str, Record] = defaultdict(Record)
    narrower = []
    exact: dict[tuple[str, float | None], float] = {}
    for seed, pairs in enumerate(samples):
        a, b = (measured([p[side] for p in pairs], seed, 14) for side in (0, 1))
        for row in differences(a, b, scope="population", taus=TAUS):
            key = (row.name, row.tau)
            if math.isnan(row.lower):
                continue
            if key not in exact:
                exact[key] = truth(every_a, every_b, *key)
            records[row.name].add(row, exact[key], size(row.name, row))
            if row.name == "lambda_max":
                narrower.append((row.a.width + row.b.width) / (row.upper - row.lower))
    slack = 3 * math.sqrt(0.95 * 0.05 / trials)
    for name, found in records.items():
        print(f"{name}, population: {found.words()}")
        assert found.hits / len(found.widths) >= 0.95 - slack, name
    assert len(records) == QUANTITIES
    assert sum(records["lambda_max"].resolved) > 0.8 * trials
    print(f"pairing narrows the difference of λmax {np.median(narrower):.1f} times")
    assert np.median(narrower) > 2


def test_masked_coordinates_are_exact_zeros_on_either_side() -> None:
    masked = (300, 900)
    hits: dict[str, int] = defaultdict(int)
    seeds = range(2, 14)
    for seed in seeds:
        a, _ = operators(seed, 2, 2000 - masked[0])
        _, b = operators(seed, 2, 2000 - masked[1])
        rows = differences(
            measured(a, seed, 20, 2, masked[0]), measured(b, seed, 20, 2, masked[1]), taus=TAUS
        )
        for row in rows:
            exact = truth(a, b, row.name, row.tau, masked) if not math.isnan(row.lower) else 0.0
            unknown = math.isnan(row.lower)
            hits[row.name] += unknown or row.lower - 1e-9 <= exact <= row.upper + 1e-9
    assert all(count >= len(seeds) - 1 for count in hits.values()), dict(hits)
    only_zeros = dict(zip([row.name for row in rows], rows, strict=True))["near_zero_1"]
    assert only_zeros.a.lower >= 0.15
    assert only_zeros.b.lower >= 0.45


@pytest.fixture(scope="module")
def pair() -> tuple[Measure, Measure]:
    a, b = operators(8, 3, 600)
    return measured(a, 0, 20), measured(b, 0, 20)


def by_name(rows: list[Difference]) -> dict[str, Difference]:
    return {row.name: row for row in rows}


@pytest.mark.parametrize("scope", ["batches", "population"])
def test_exchanging_the_two_changes_the_sign(pair, scope) -> None:
    there, back = (by_name(differences(*p, scope=scope)) for p in (pair, pair[::-1]))
    for name, row in there.items():
        mirror = back[name]
        if name == "wasserstein":
            assert (row.lower, row.upper) == pytest.approx((mirror.lower, mirror.upper), abs=1e-12)
        elif not math.isnan(row.lower):
            scale = 1e-6 * max(abs(row.lower), abs(row.upper))
            assert row.lower == pytest.approx(-mirror.upper, abs=scale)
            assert row.upper == pytest.approx(-mirror.lower, abs=scale)
            assert row.lower <= row.value <= row.upper


def test_the_intervals_of_each_record_are_those_it_has_alone(pair) -> None:
    rows = by_name(differences(*pair, taus=[0.3]))
    row, alone = rows["near_zero_0.3"], mass(pair[1], -0.3, 0.3)
    assert (row.b.lower, row.b.upper) == pytest.approx((alone.lower, alone.upper), abs=1e-6)


def test_a_rescaled_loss_rescales_the_differences(pair) -> None:
    def scaled(measure: Measure) -> Measure:
        runs = tuple(
            tuple(dataclasses.replace(r, alphas=1e3 * r.alphas, betas=1e3 * r.betas) for r in row)
            for row in measure.runs
        )
        return dataclasses.replace(measure, runs=runs, _cache={})

    plain = by_name(differences(*pair, taus=[0.3, 1e8]))
    grown = by_name(differences(*(scaled(m) for m in pair), taus=[300.0]))
    everything = plain["near_zero_1e+08"]  # 1e8 spectral radii out nothing is lost
    assert everything.b.upper == 1.0
    assert everything.parts["resolution"] < 1e-6
    powers = {"negative_mass": 0, "effective_rank": 0}
    for name, row in plain.items():
        if name.startswith(("near_zero", "soft")):
            continue
        factor = 1e3 ** powers.get(name, 1)
        for end in ("lower", "upper"):
            found = getattr(grown[name], end) / factor
            assert found == pytest.approx(getattr(row, end), rel=1e-4, abs=1e-6)
    assert grown["soft_300"].lower == pytest.approx(plain["soft_0.3"].lower, abs=1e-6)
    assert grown["near_zero_300"].lower == pytest.approx(plain["near_zero_0.3"].lower, abs=1e-6)


def test_the_threshold_is_the_smallest_on_the_ladder_that_both_resolve(pair) -> None:
    rows = by_name(differences(*pair))
    tau = rows[RESOLVED].tau

    def width(t: float) -> float:
        return max(mass(m, -t, t).width for m in pair)

    assert width(tau) <= 0.1
    below = [t for t in LADDER if t < tau]
    assert all(width(t) > 0.1 for t in below[-3:])
    chosen, fixed = rows[RESOLVED], by_name(differences(*pair, taus=[tau]))[f"near_zero_{tau:g}"]
    assert chosen.upper - chosen.lower > fixed.upper - fixed.lower  # it was chosen after looking


def test_nothing_is_said_below_the_product_error(pair) -> None:
    coarse = dataclasses.replace(pair[0], product_error=0.05, _cache={})
    rows = by_name(differences(coarse, pair[1], taus=[0.01, 0.3]))
    assert math.isnan(rows["near_zero_0.01"].lower)
    assert "below the product error" in rows["near_zero_0.01"].note
    assert not rows["near_zero_0.01"].resolved
    assert rows["near_zero_0.3"].lower <= rows["near_zero_0.3"].upper
    assert rows[RESOLVED].tau is None or rows[RESOLVED].tau >= 0.05
    assert rows["rms_eigenvalue"].parts["product error"] == pytest.approx(0.1, rel=1e-6)


def test_what_limits_an_interval() -> None:
    a, b = operators(8, 3, 600)
    few = by_name(differences(measured(a, 0, 4), measured(b, 0, 4), taus=[0.02]))
    assert few["near_zero_0.02"].limited_by == "resolution"
    assert few["trace"].limited_by == "probes"
    both = measured(a, 0, 20), measured(b, 0, 20)
    over_data = by_name(differences(*both, scope="population"))
    assert over_data["trace"].limited_by == "batches"
    assert few[RESOLVED].limited_by == "" or few[RESOLVED].tau is not None


def test_bounds_of_the_distance_close_when_everything_is_resolved() -> None:
    """With as many steps as dimensions a probe's distribution function is known."""
    a, b = operators(4, 1, 40)
    both = measured(a, 0, 40), measured(b, 0, 40)
    reach = max(abs(end) for m in both for end in m.span) * 1.1
    edges = [(np.full(1, -reach), np.full(1, reach))] * 2
    low, high = spectral_distance(Curves(both, reach), edges, 0.0)
    rules = [m.runs[0][0].rule for m in both]
    exact = scipy.stats.wasserstein_distance(
        rules[0].nodes, rules[1].nodes, rules[0].weights, rules[1].weights
    )
    assert low[0] <= exact <= high[0]
    assert high[0] - low[0] < 0.1 * float(np.abs(rules[0].nodes) @ rules[0].weights)


def cut(measure: Measure, steps: int) -> tuple[tuple[Run, ...], ...]:
    return tuple(
        tuple(Run(run.alphas[:steps], run.betas[:steps]) for run in row) for row in measure.runs
    )


def test_few_steps_are_no_false_certainty(pair) -> None:
    few = [dataclasses.replace(m, runs=cut(m, 2), _cache={}) for m in pair]
    for scope in ("batches", "population"):
        for row in differences(few[0], few[0], scope=scope):
            assert not row.resolved
            assert math.isnan(row.lower) or row.lower <= 0 <= row.upper


def test_what_cannot_be_paired_is_refused(pair) -> None:
    a, b = pair
    fewer = dataclasses.replace(b, runs=b.runs[:2], _cache={})
    with pytest.raises(UsageError, match="3 and 2 batches"):
        differences(a, fewer)
    with pytest.raises(UsageError, match="sphere"):
        differences(a, dataclasses.replace(b, spherical=False, _cache={}))
    with pytest.raises(UsageError, match="at least 3 batches"):
        differences(dataclasses.replace(a, runs=a.runs[:2]), fewer, scope="population")
    single = [dataclasses.replace(m, runs=cut(m, 1), _cache={}) for m in pair]
    with pytest.raises(UsageError, match="1 Lanczos step knows"):
        differences(*single)
    for tau in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="not a threshold"):
            differences(a, b, taus=[tau])
    with pytest.raises(UsageError, match="confidence"):
        differences(a, b, confidence=95)


def test_what_is_asked_by_name_is_what_all_would_be(pair) -> None:
    every = by_name(differences(*pair))
    names = ("wasserstein", "spectral_norm", "abs_quantile_0.5", "near_zero_0.1")
    some = differences(*pair, names=names)
    assert {one.name for one in some} == set(names)
    for one in some:
        assert (one.value, one.lower, one.upper) == (
            every[one.name].value,
            every[one.name].lower,
            every[one.name].upper,
        )
    with pytest.raises(UsageError, match="'mode' is no quantity; pass names of rms_eigenvalue"):
        differences(*pair, names=["mode"])


def test_equal_operators_compare_as_equal(pair) -> None:
    """A reset with frozen scales leaves the operator as it is, whatever the steps resolve."""
    one = pair[0]
    for scope in ("batches",):
        for row in differences(one, dataclasses.replace(one, _cache={}), scope=scope):
            if not math.isnan(row.lower):
                assert (row.value, row.lower, row.upper) == (0.0, 0.0, 0.0)
                assert row.note == EQUAL
                assert row.limited_by == ""
    first = one.runs[0][0]
    other = dataclasses.replace(first, alphas=first.alphas * (1 + 1e-9))
    moved_a_little = dataclasses.replace(one, runs=((other, *one.runs[0][1:]), *one.runs[1:]))
    assert not equal_operators(one, moved_a_little)
    shorter = one.first(one.steps - 3)
    assert equal_operators(one, shorter)
    assert not equal_operators(*pair)


def test_shares_differ_by_one_at_most() -> None:
    lam = eigenvalues("indefinite", 60, np.random.default_rng(0))
    a, b = (measured([turned(lam, np.random.default_rng(s))], s, 2) for s in (0, 1))
    for row in differences(a, b):
        if row.name.startswith(("near_zero", "negative", "soft")) and not math.isnan(row.lower):
            assert -1 <= row.lower <= row.value <= row.upper <= 1
