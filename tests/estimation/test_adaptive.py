"""Adaptive estimates: what is asked is reached and true, and nothing is said that was not."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

import spectra
from spectra.errors import NumericalWarning, UsageError
from spectra.estimation.planner import planned_probes, predict_steps, run_bands
from spectra.estimation.target import LADDER, Goal, Target, parse_tau
from spectra.linalg import Lanczos, probe
from spectra.quadrature import mass_band
from spectra.quadrature.estimates import probe_halfwidth
from spectra.quadrature.windows import window


def pile(n=600, seed=0):
    """Eigenvalues log-uniform in size, two fifths of them negative, with a few outliers."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-3, 0, n - 5)
    bulk = size * np.where(rng.random(n - 5) < 0.4, -1, 1)
    return np.concatenate([bulk, [-3.0, 4.0, 6.0, 9.0, 14.0]])


class Counted(spectra.SymmetricOperator):
    """diag(lam), counting its products."""

    def __init__(self, lam, dtype=torch.float64):
        self.values = torch.from_numpy(lam).to(dtype)
        self.dim, self.dtype, self.device = lam.size, dtype, torch.device("cpu")
        self.products = 0

    def matvec(self, v):
        self.products += 1
        return self.values * v


def within(lam, tau):
    return float((np.abs(lam) <= tau).mean())


def outcome(spectrum):
    return spectrum.metadata["adaptive"]


def adaptive(operator, **asked):
    return spectra.slq(operator, progress=False, **asked)


def test_every_asked_interval_is_narrow_enough_and_true():
    lam = pile()
    found = adaptive(Counted(lam), tol=0.1, tau=(0.05, 0.2), negative_mass=True, edge="sharp")
    told = outcome(found)
    assert told["stopped"] == "reached"
    truths = [within(lam, 0.05), within(lam, 0.2), float((lam < 0).mean())]
    for row, truth in zip(told["functionals"], truths, strict=True):
        assert row["reached"]
        assert row["width"] == pytest.approx(row["upper"] - row["lower"])
        assert row["width"] <= 0.2
        assert row["width"] <= row["resolution"] + row["probes"] + 1e-9
        assert row["lower"] <= truth <= row["upper"]
    interval = found.mass(-0.05, 0.05)
    assert (interval.lower, interval.upper) == (
        told["functionals"][0]["lower"],
        told["functionals"][0]["upper"],
    )
    rows = found.metadata["summary"]["near_zero"]
    assert {0.05, 0.2} <= {row["tau"] for row in rows if row["relative_tau"] is None}


def test_soft_intervals_are_narrow_enough_true_and_sooner():
    lam, spent = pile(), {}
    for edge in ("soft", "sharp"):
        found = adaptive(Counted(lam), tol=0.05, tau=(0.02, 0.2), edge=edge, max_hvps=6000)
        told = outcome(found)
        assert told["stopped"] == "reached"
        spent[edge] = told["products"] / found.steps.shape[1]
        for row in told["functionals"]:
            share = window(lam, row["tau"], 2).mean() if edge == "soft" else within(lam, row["tau"])
            assert row["reached"]
            assert row["width"] <= 0.1
            assert row["lower"] <= share <= row["upper"]
    assert spent["soft"] < spent["sharp"]
    found = adaptive(Counted(lam), tol=0.1)  # the finest of the ladder
    (row,) = outcome(found)["functionals"]
    assert row["name"] == "soft_share"
    assert row["lower"] <= window(lam, row["tau"], 2).mean() <= row["upper"]


def test_it_stops_as_soon_as_that_is_so():
    found = adaptive(Counted(pile()), tol=0.1, tau=0.05, edge="sharp")
    last = int(found.steps[0, -1])
    looked = next(m for m in range(last, 0, -1) if m + max(1, m // 16) <= last)
    for count, reached in ((looked, False), (last, True)):
        steps = found.steps.copy()
        steps[0, -1] = count
        part = dataclasses.replace(found, steps=steps)
        assert (part.mass(-0.05, 0.05).width <= 0.2) == reached


def test_runs_are_extended_never_made_twice():
    operator = Counted(pile())
    found = adaptive(operator, tol=0.05, tau=0.1)
    spent = int(found.steps.sum())
    assert found.steps.shape[1] > 1
    assert outcome(found)["products"] == found.metadata["cost"]["hvps"] == spent
    assert operator.products - spent <= 4  # of the checks
    same = spectra.slq(
        Counted(pile()), num_probes=found.steps.shape[1], lanczos_steps=int(found.steps.max())
    )
    for p, count in enumerate(found.steps[0]):
        assert np.array_equal(found.alphas[0, p, :count], same.alphas[0, p, :count])
        assert not found.alphas[0, p, count:].any()
    assert found.metadata["estimator"]["lanczos_steps"] == found.alphas.shape[2]


def test_a_budget_is_kept_and_what_was_not_reached_is_said():
    lam = pile()
    found = adaptive(Counted(lam), tol=0.05, tau=0.002, max_hvps=150)
    told = outcome(found)
    (row,) = told["functionals"]
    assert (told["stopped"], row["reached"]) == ("budget", False)
    assert told["products"] == 150
    assert row["width"] > 0.1
    assert row["lower"] <= within(lam, 0.002) <= row["upper"]
    assert row["products_needed"] > 150


def test_where_probes_are_what_is_missing_their_number_is_told():
    found = adaptive(Counted(pile()), tol=1e-4, tau=1.0, max_hvps=60)
    (row,) = outcome(found)["functionals"]
    assert row["probes"] > 2e-4
    n = 2 * row["probes_needed"]  # on each of one operator: half of the width is left for probes
    h = np.sqrt(np.log(2 / 0.05) / ((found.metadata["dim"] + 2) * n / 2))
    assert 2 * h == pytest.approx(1e-4, rel=0.01)
    assert row["products_needed"] >= row["probes_needed"]


def test_intervals_hold_although_the_number_of_steps_was_chosen_by_looking():
    lam, seeds = pile(300), 40
    held, widths = 0, []
    for seed in range(seeds):
        (row,) = outcome(adaptive(Counted(lam), tol=0.12, tau=0.05, seed=seed))["functionals"]
        held += row["lower"] <= within(lam, 0.05) <= row["upper"]
        widths.append(row["width"])
    print(f"\n{held} of {seeds} intervals hold, widths {min(widths):.3f} to {max(widths):.3f}")
    assert held >= 0.95 * seeds
    assert max(widths) <= 0.24


@pytest.mark.parametrize("dim", [600, 4000, 10**6])
@pytest.mark.parametrize("tol", [0.05, 0.02])
def test_the_number_of_probes_is_the_one_with_fewest_products(dim, tol):
    target = Target(tol, (0.1,), max_hvps=10**7)

    def products(count):
        band = 2 * tol - 2 * probe_halfwidth(dim, count, target.confidence)
        return count / band if band > 0 else math.inf

    assert planned_probes(target, dim, 1, 1.0) == min(range(1, 400), key=products)


@pytest.mark.parametrize("tau", [0.02, 0.05])
def test_the_steps_still_needed_are_predicted_to_a_factor_of_two(tau):
    lam = pile(3000)
    lanczos = Lanczos(Counted(lam), probe(lam.size, seed=1, dtype=torch.float64)).extend(320)
    alphas, betas = lanczos.alphas[0], lanczos.betas[0]
    history = []
    for m in range(16, 321, 8):
        low, high = run_bands(alphas[:m], betas[:m], [Goal("near_zero", -tau, tau, tau)], 1e-12)
        history.append((m, float(high[0] - low[0])))
    needed = next(m for m, band in history if band <= 0.08)
    for k, (m, band) in enumerate(history):
        predicted = predict_steps(history[: k + 1], 0.08, float(np.abs(lam).max()), tau)
        if 0.08 < band < 0.3:
            assert needed / 2 <= predicted <= 2 * needed, m
        elif band <= 0.08:
            assert predicted == m
    assert predict_steps(history, 0.0, 1.0, tau) == math.inf


def test_auto_finds_the_finest_threshold_and_holds_for_the_whole_ladder():
    lam = pile(800)
    few, many = (adaptive(Counted(lam), tol=0.1, max_hvps=n) for n in (150, 600))
    taus = []
    for found in (few, many):
        (row,) = outcome(found)["functionals"]
        assert row["reached"]
        assert row["tau"] in LADDER
        assert row["lower"] <= within(lam, row["tau"]) <= row["upper"]
        taus.append(row["tau"])
        confidence = outcome(found)["asked"]["confidence"]
        taken = np.array([tau for tau in LADDER if 1e-4 < tau < 100])
        band = mass_band(found.measure, taken, confidence=confidence, simultaneous=False)
        for tau, low, high in zip(taken, band.lower, band.upper, strict=True):
            assert low <= within(lam, tau) <= high
            assert tau >= row["tau"] or high - low > 0.2
        assert int(found.steps.sum()) <= outcome(found)["asked"]["max_hvps"]
    assert taus[1] < taus[0] < 14


def test_the_whole_spectrum_is_the_end_of_a_run():
    lam = np.repeat([-1.0, 0.0, 2.0], 20)  # three distinct eigenvalues: three steps
    with pytest.warns(NumericalWarning, match="breakdown"):
        told = outcome(adaptive(Counted(lam), tol=0.3, tau=0.5, max_hvps=1000))
    assert told["stopped"] == "reached"
    assert told["steps"][1] <= 3
    alone = outcome(adaptive(Counted(np.ones(1)), tol=0.4, tau=0.5))
    assert alone["steps"] == [1, 1]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"tol": 0.0}, "tol=0.0 is no half-width"),
        ({"tol": 0.6}, "tol=0.6 is no half-width"),
        ({"tol": 0.1, "tau": -1.0}, "tau=-1.0 is no threshold"),
        ({"tol": 0.1, "tau": "0.1;0.2"}, "is not 'auto', a number, or a list"),
        ({"tol": 0.1, "max_hvps": 1}, "max_hvps=1 is too small"),
        ({"tol": 0.1, "lanczos_steps": 50}, "contradict each other"),
        ({"tol": 0.1, "scope": "batch"}, "scope='batch'"),
        ({"tol": 0.1, "scope": "population"}, "needs at least 3 batches"),
        ({"tol": 0.1, "probe_kind": "rademacher"}, "probe_kind=sphere"),
        ({"tol": 0.1, "block_size": 2}, "block_size=1"),
        ({"tol": 0.01, "num_probes": 1}, "num_probes=1 cannot reach tol=0.01"),
        ({"tol": 0.01, "max_hvps": 10, "num_probes": 9}, "fewer than two products"),
        ({"tau": 0.1}, "tau belongs to an adaptive estimate"),
        ({"max_hvps": 100}, "max_hvps belongs to an adaptive estimate"),
        ({"negative_mass": True}, "negative_mass belongs to an adaptive estimate"),
        ({"scope": "population"}, "scope belongs to an adaptive estimate"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked, message):
    with pytest.raises(UsageError, match=message):
        adaptive(Counted(pile(100)), **asked)


def test_a_threshold_below_the_product_error_is_refused():
    operator = Counted(pile())
    operator.product_error = 1e-3
    with pytest.raises(UsageError, match="below the product error"):
        adaptive(operator, tol=0.1, tau=5e-4)
    (row,) = outcome(adaptive(operator, tol=0.1, tau=0.1))["functionals"]
    assert row["lower"] <= within(pile(), 0.1) <= row["upper"]


def test_thresholds_are_numbers_lists_or_auto():
    assert parse_tau("auto") is parse_tau(None) is None
    assert parse_tau("0.1,1e-2") == parse_tau([0.1, 0.01]) == (0.1, 0.01)
    assert parse_tau(0.5) == parse_tau("0.5") == (0.5,)
    assert all(b > a for a, b in itertools.pairwise(LADDER))
