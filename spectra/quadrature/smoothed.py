"""The smoothed density as a curve with a proven band.

The density at x seen through a Lorentzian of half-width η is

    φ_η(x) = (1/n) Σ_i (η/π)/((x − λ_i)² + η²) = −(1/π) Im (1/n) tr (x + iη − H)⁻¹,

so the Weyl disc of a run at z = x + iη (spectra.quadrature.weyl) bounds what its probe sees of it:
(−Im c ± r)/π. Products wrong by δ move it by δ/(πη²) at most. πη·φ_η is the mean of weights in
[0, 1], so the probes' error is that of a share (spectra.quadrature.concentration), divided by πη;
for a whole curve the number of its points, or of all intervals where that is less, multiplies the
risk. Nothing is chosen by taste: the width is stated, and the band is proven for that width.

*The default width* is, at each x, the smallest of a geometric sequence at which the resolution
bounds are within `RELATIVE` of the value and the whole interval within `IN_ALL` of its middle:
narrow where Lanczos has resolved the spectrum and many eigenvalues lie, wide in the unresolved
interior and where a few eigenvalues stand alone, whose weight one probe hardly knows. All
candidates count in the risk.

Masked coordinates are exact zeros, a point mass that no density shows: the curve integrates to the
unmasked share.

Shapes: G points, B batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UsageError
from spectra.quadrature.concentration import share_interval
from spectra.quadrature.estimates import (
    CONFIDENCE,
    check_confidence,
    check_scope,
)
from spectra.quadrature.gauss import Floats
from spectra.quadrature.mass import effective_runs
from spectra.quadrature.measure import Measure, require_spherical
from spectra.quadrature.population import population_interval

RELATIVE = 0.1  # half-width of the bounds, in units of the value, at the default width
IN_ALL = 0.5  # half-width of the interval: its upper end is at most three times its lower one
FINEST = 24  # halvings of the span that the default width may go down to
PER_HALVING = 2


@dataclass(frozen=True)
class SmoothedDensity:
    """A density seen through Lorentzians, with its band.

    Attributes:
        x: Points, (G,), in units of λ.
        width: Half-width η of the Lorentzian at each point, (G,).
        value: Middle of the resolution bounds, (G,), per unit of λ.
        lower: Lower end of the band, (G,).
        upper: Upper end, (G,).
        scope: "batches" or "population".
        confidence: Of the whole band with scope "batches", of each point with "population".
    """

    x: Floats
    width: Floats
    value: Floats
    lower: Floats
    upper: Floats
    scope: str
    confidence: float


def smoothed_density(
    measure: Measure,
    grid: Floats,
    width: float | Floats | None = None,
    *,
    scope: str = "batches",
    confidence: float = CONFIDENCE,
) -> SmoothedDensity:
    """Return the density smoothed by a Lorentzian at every point of `grid`, (G,), with its band.

    Args:
        measure: What was measured.
        grid: Points x, (G,), in units of λ.
        width: Half-width η > 0, a number or (G,); by default what is resolved at each point.
        scope: "batches": of the operators used; "population": of data like them.
        confidence: Of the band.

    Raises:
        UsageError: If a width is not positive, the probes are not spherical, or the scope needs
            more batches.
    """
    require_spherical(measure, "the band of a density")
    check_confidence(confidence)
    check_scope(scope, measure.num_batches)
    x = np.atleast_1d(np.asarray(grid, dtype=np.float64))
    if not np.isfinite(x).all():
        raise UsageError("a point of the grid is not finite; pass finite eigenvalues.")
    candidates = 1 if width is not None else FINEST * PER_HALVING + 1
    jumps = float(measure.dim_unmasked * measure.num_batches)
    events = min(float(x.size * candidates), jumps * (jumps + 1) / 2)
    if width is None:
        eta = _resolved_width(measure, x, confidence, events)
    else:
        eta = np.broadcast_to(np.asarray(width, dtype=np.float64), x.shape)
        if not ((eta > 0) & np.isfinite(eta)).all():
            raise UsageError(f"width={width} is not the width of a Lorentzian; pass η > 0.")
    low, high = _bounds(measure, x, eta)
    alone = scope == "population"  # each point by itself
    lower, upper = _interval(measure, low, high, confidence, 1.0 if alone else events)
    if alone:
        lower, upper = population_interval(low, high, confidence, (lower, upper), shares=True)
    scale = (1 - measure.masked_fraction) / (math.pi * eta)
    ends = [scale * np.clip(end, 0.0, 1.0) for end in (lower, upper)]
    value = np.clip(scale * (low + high).mean(axis=0) / 2, *ends)
    return SmoothedDensity(x, eta.copy(), value, ends[0], ends[1], scope, confidence)


def _bounds(measure: Measure, x: Floats, eta: Floats) -> tuple[Floats, Floats]:
    """Return bounds of πη·φ_η as the probes of each batch see it, (B, G), in [0, 1]."""
    moved = measure.delta / eta
    lows, highs = [], []
    for row in measure.runs:
        pairs = [run.disc(x + np.complex128(1j) * eta) for run in row]
        centre = np.mean([-eta * c.imag for c, _ in pairs], axis=0)
        half = np.mean([eta * r for _, r in pairs], axis=0) + moved
        lows.append(np.clip(centre - half, 0.0, 1.0))
        highs.append(np.clip(centre + half, 0.0, 1.0))
    return np.array(lows), np.array(highs)


def _interval(
    measure: Measure, low: Floats, high: Floats, confidence: float, events: float
) -> tuple[Floats, Floats]:
    runs, n = effective_runs(measure), measure.dim_unmasked
    first, second = low.mean(axis=0), high.mean(axis=0)
    return share_interval(first, second, n, runs, confidence, events=events)


def _resolved_width(measure: Measure, x: Floats, confidence: float, events: float) -> Floats:
    """Return, for every point, the smallest candidate width that is resolved there, (G,)."""
    left, right = measure.span
    widest = max(right - left, measure.delta, float(np.finfo(float).tiny) * 1e20)
    first, last = np.zeros(x.size, dtype=int), np.full(x.size, FINEST * PER_HALVING)
    while (first < last).any():  # the index of the finest width that is resolved, by bisection
        middle = (first + last + 1) // 2
        low, high = _bounds(measure, x, _candidate(widest, middle))
        lower, upper = _interval(measure, low, high, confidence, events)
        known = _within(low.mean(axis=0), high.mean(axis=0), RELATIVE) & _within(
            lower, upper, IN_ALL
        )
        first, last = np.where(known, middle, first), np.where(known, last, middle - 1)
    return _candidate(widest, first)


def _within(low: Floats, high: Floats, part: float) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = high - low <= part * (high + low)
    return known


def _candidate(widest: float, index: NDArray[np.int64]) -> Floats:
    return np.asarray(widest * 2.0 ** (-index / PER_HALVING), dtype=np.float64)
