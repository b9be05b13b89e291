"""Shares of eigenvalues that the masses seen by probes do not refute, sharp near 0 and 1.

A probe v = g/|g| with g Gaussian gives an interval that holds the share F of n eigenvalues the mass
Ψ = |Πg|²/|g|². Since n(Ψ − y) is the mean of (1 − y)|Πg|² − y|g − Πg|² given v, Jensen bounds its
exponential moments by those of the latter, and Chernoff's bound for the mean over P probes is

    P(mean Ψ beyond y) ≤ exp(−(nP/2) KL(F‖y)),   KL(F‖y) = F ln(F/y) + (1 − F) ln((1 − F)/(1 − y)).

It is at most the sub-Gaussian bound of spectra.quadrature.estimates (Pinsker), and far less near 0
and 1: there it is relative to the share. With several operators F is their mean, as the moments
depend on the shares through their sum alone.

*Windows.* The same holds for the mean Ψ(f) of any f with values in [0, 1], such as the soft shares
of spectra.quadrature.windows: the cumulant of Ψ(f) is convex in the vector of values, so that among
all vectors with one mean it is largest where every value is 0 or 1, which is the case above. The
sub-Gaussian bound carries over in the same way.
"""

from __future__ import annotations

import math

import numpy as np

from spectra.quadrature.gauss import Floats

BISECTIONS = 50
EDGE = 1e-15  # a share nearer to 1 is taken for 1


def share_at_most(seen: Floats, count: float, exponent: float) -> Floats:
    """Return the largest shares F that masses `seen` at most do not refute; any shape.

    Args:
        seen: Upper bounds of the mean mass that the probes see.
        count: n P, coordinates times probes.
        exponent: x of the risk e^(−x).
    """
    y = np.clip(seen, 1e-300, 1 - EDGE)
    low, high = y.copy(), np.full_like(y, 1 - EDGE / 2)
    for _ in range(BISECTIONS):
        F = (low + high) / 2
        divergence = F * np.log(F / y) + (1 - F) * (np.log1p(-F) - np.log1p(-y))
        inside = count / 2 * divergence <= exponent
        low, high = np.where(inside, F, low), np.where(inside, high, F)
    return np.where(high >= 1 - EDGE, 1.0, high)


def share_at_least(seen: Floats, count: float, exponent: float) -> Floats:
    """Return the smallest shares F that masses `seen` at least do not refute; any shape."""
    return 1 - share_at_most(1 - seen, count, exponent)


def share_interval(
    low: Floats, high: Floats, dim: int, probes: float, confidence: float, *, events: float = 1.0
) -> tuple[Floats, Floats]:
    """Return ends of the shares F in [0, 1], given bounds of what the probes see; any shape.

    The narrower of the sub-Gaussian and the Chernoff interval on each side: both reject a share for
    masses beyond a threshold, so that the one with the nearer threshold rejects whenever the other
    does, at the same risk.

    Args:
        low: Lower bounds of the mean that the probes see.
        high: Upper bounds.
        dim: Dimension n of the space that probes live in.
        probes: Number of probes P of that mean, infinite where none was needed.
        confidence: Of the intervals.
        events: So many intervals are to hold at once.
    """
    if math.isinf(probes):
        return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
    exponent = math.log(2 * events / (1 - confidence))
    h = math.sqrt(exponent / ((dim + 2) * probes))
    count = float(dim) * probes
    lower = np.maximum(low - h, share_at_least(low, count, exponent))
    upper = np.minimum(high + h, share_at_most(high, count, exponent))
    return np.clip(lower, 0.0, 1.0), np.clip(upper, 0.0, 1.0)
