"""Bounds of long runs, which come without an eigendecomposition at each point."""

from __future__ import annotations

import numpy as np
import pytest

from spectra.quadrature import measure as module
from spectra.quadrature.mass import mass
from spectra.quadrature.measure import Measure, Run


def test_long_runs_have_the_bounds_of_their_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coefficients of a spectrum on [−1, 3] with a pile at zero, 400 steps."""
    draw = np.random.default_rng(0)
    alphas = 1.0 + 0.05 * draw.standard_normal(400)
    betas = 1.0 + 0.05 * draw.standard_normal(400)
    run = Run(alphas, betas)

    def masses() -> list[tuple[float, float]]:
        whole = Measure(((run,), (run,)), dim=10_000, dim_unmasked=9_000, product_error=1e-6)
        ends = [(-0.01, 0.01), (-np.inf, 0.0), (0.5, 2.0), (-1.2, -0.9), (1.0, np.inf)]
        found = [mass(whole, a, b) for a, b in ends]
        return [(one.lower, one.upper) for one in found]

    by_rules = masses()
    monkeypatch.setattr(module, "LONG", 100)
    monkeypatch.setattr(Measure, "radau", _only_at_infinity(Measure.radau))
    np.testing.assert_allclose(masses(), by_rules, atol=5e-7)


def _only_at_infinity(whole):
    def radau(self, x):
        assert np.isinf(x)
        return whole(self, x)

    return radau
