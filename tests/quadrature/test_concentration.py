"""Shares that the masses seen by probes do not refute: sharp, and rarely wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spectra.quadrature.concentration import share_at_least, share_at_most
from spectra.quadrature.estimates import probe_halfwidth


def test_shares_that_masses_do_not_refute() -> None:
    seen = np.array([0.0, 1e-6, 0.01, 0.5, 0.99, 1.0])
    count, exponent = 2000.0, 5.0
    most, least = share_at_most(seen, count, exponent), share_at_least(seen, count, exponent)
    assert (least <= seen).all()
    assert (seen <= most).all()
    for y, *ends in list(zip(seen, most, least, strict=True))[2:-1]:
        for F in ends:
            divergence = F * np.log(F / y) + (1 - F) * np.log((1 - F) / (1 - y))
            assert count / 2 * divergence == pytest.approx(exponent, rel=1e-6)
    h = probe_halfwidth(1998, 1, 1 - 2 * math.exp(-exponent))
    assert (most - seen <= h * (1 + 1e-9)).all()
    assert (most - seen)[1] < h / 5


def test_shares_hold_for_spherical_probes() -> None:
    rng = np.random.default_rng(0)
    n, k, trials, exponent = 400, 6, 4000, 3.0
    seen = rng.beta(k / 2, (n - k) / 2, trials)
    missed = np.mean(share_at_most(seen, n, exponent) < k / n)
    assert missed <= math.exp(-exponent)
    assert np.mean(share_at_least(seen, n, exponent) > k / n) <= math.exp(-exponent)
    assert missed > 0  # the bound is not idle
