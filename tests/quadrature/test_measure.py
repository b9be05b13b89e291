"""Bounds of long runs, which come without an eigendecomposition at each point."""

from __future__ import annotations

import numpy as np
import pytest

from spectra.quadrature import measure as module
from spectra.quadrature.extremes import extremes
from spectra.quadrature.gauss import ends
from spectra.quadrature.mass import mass
from spectra.quadrature.measure import Measure, Run
from spectra.quadrature.soft import soft_mass
from spectra.quadrature.summary import summarize
from tests.quadrature.prescribed import measure_of


def test_long_runs_have_the_bounds_of_their_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(0)

    def masses() -> list[tuple[float, float]]:
        whole = Measure(((run,), (run,)), dim=10_000, dim_unmasked=9_000, product_error=1e-6)
        ends = [(-0.01, 0.01), (-np.inf, 0.0), (0.5, 2.0), (-1.2, -0.9), (1.0, np.inf)]
        found = [mass(whole, a, b) for a, b in ends]
        return [(one.lower, one.upper) for one in found]

    by_rules = masses()
    monkeypatch.setattr(module, "LONG", 100)
    monkeypatch.setattr(Measure, "radau", _only_at_infinity(Measure.radau))
    np.testing.assert_allclose(masses(), by_rules, atol=5e-7)


def test_long_runs_have_the_ends_of_their_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[float]:
        whole = Measure(((_run(0), _run(1)), (_run(2),)), dim=10_000, dim_unmasked=9_000)
        ends = [(one.value, one.lower, one.upper) for one in extremes(whole)]
        return [number for end in [*ends, whole.span] for number in end]

    by_rules = found()
    monkeypatch.setattr(module, "LONG", 100)
    monkeypatch.setattr(Run, "rule", property(_no_rule))
    np.testing.assert_allclose(found(), by_rules, rtol=1e-12)


def test_ends_are_those_of_the_dense_matrix() -> None:
    for run in (_run(3), Run(np.array([2.0]), np.array([0.5])), Run(np.zeros(3), np.zeros(3))):
        off = run.betas[:-1]
        dense = np.diag(run.alphas) + np.diag(off, 1) + np.diag(off, -1)
        values, vectors = np.linalg.eigh(dense)
        for end, place in zip(ends(run.alphas, run.betas), (0, -1), strict=True):
            assert end.node == pytest.approx(values[place], abs=1e-13)
            residual = run.betas[-1] * abs(vectors[-1, place])
            if run.alphas.any():  # of a zero matrix any vector is an eigenvector
                assert end.residual == pytest.approx(residual, abs=1e-12)


def _run(seed: int) -> Run:
    """Coefficients of a spectrum on [−1, 3] with a pile at zero, 400 steps."""
    draw = np.random.default_rng(seed)
    alphas = 1.0 + 0.05 * draw.standard_normal(400)
    return Run(alphas, 1.0 + 0.05 * draw.standard_normal(400))


def _no_rule(run: Run) -> None:
    raise AssertionError("an eigendecomposition of a long run")


def _only_at_infinity(whole):
    def radau(self, x):
        assert np.isinf(x)
        return whole(self, x)

    return radau


@pytest.mark.parametrize("scale", [1e-140, 1e-25, 1.0, 1e25, 1e140])
def test_scales_change_nothing_but_the_scale(scale: float) -> None:
    """Powers of two would be exact; decimal ones round once."""
    lam = np.linspace(-1, 2, 40)
    one, other = (measure_of(lam * c, 12, 0) for c in (1.0, scale))
    plain, scaled = mass(one, -0.5, 0.5), mass(other, -0.5 * scale, 0.5 * scale)
    assert (scaled.lower, scaled.upper) == pytest.approx((plain.lower, plain.upper), abs=1e-6)
    for a, b in zip(extremes(one), extremes(other), strict=True):
        assert b.lower / scale == pytest.approx(a.lower, rel=1e-6)
        assert b.upper / scale == pytest.approx(a.upper, rel=1e-6)
    share = soft_mass(other, 0.5 * scale)
    assert share.lower == pytest.approx(soft_mass(one, 0.5).lower, abs=1e-9)


def test_the_zero_operator_has_one_eigenvalue() -> None:
    found = measure_of(np.zeros(400), 4, 0)
    assert mass(found, -1.0, 1.0).lower > 0.9
    assert mass(found, 1e-3, 1.0).node_sum == 0
    low, high = extremes(found)
    assert low.lower <= 0 <= high.upper
    assert high.upper < 1e-12
    assert soft_mass(found, 1e-6).node_sum == pytest.approx(1.0)
    summary = summarize(found)
    assert summary["lambda_max"]["batches"]["upper"] < 1e-12
