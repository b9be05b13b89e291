"""The distribution function and the mass curve as bands, at many points at once.

The intervals are those of spectra.quadrature.estimates: mean over runs of the sharp bounds, the
probe term h, the product error δ on either side of x, masked coordinates added exactly. With
`simultaneous` the probe term holds for the whole curve: the mean of B distribution functions of n
eigenvalues has nB jumps, and so has the share with |λ| ≤ τ. For the population over data a curve
has no known simultaneous error, and the band holds point by point.

Shapes: X points, B batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UsageError
from spectra.quadrature.estimates import (
    CONFIDENCE,
    check_confidence,
    check_scope,
    probe_halfwidth,
)
from spectra.quadrature.gauss import Floats
from spectra.quadrature.mass import effective_runs, with_zeros
from spectra.quadrature.measure import Measure, require_spherical
from spectra.quadrature.population import population_interval


@dataclass(frozen=True)
class Band:
    """A curve known between two others.

    Attributes:
        x: Where, (X,): λ for a distribution function, τ for a mass curve.
        lower: Lower ends, (X,); NaN where nothing can be said.
        upper: Upper ends, (X,).
        node_sum: The plain sum of node weights, (X,), whose error is not known.
        scope: "batches" or "population".
        confidence: That the whole true curve lies inside (of each point, if not simultaneous).
        simultaneous: Whether `confidence` is for all points at once.
    """

    x: Floats
    lower: Floats
    upper: Floats
    node_sum: Floats
    scope: str
    confidence: float
    simultaneous: bool


def cdf_band(
    measure: Measure,
    x: NDArray[np.float64],
    *,
    scope: str = "batches",
    confidence: float = CONFIDENCE,
    simultaneous: bool | None = None,
) -> Band:
    """Return the share of eigenvalues ≤ x at every point of `x`, (X,), as a band.

    Args:
        measure: What was measured.
        x: Points.
        scope: "batches" or "population".
        confidence: Of the band.
        simultaneous: Whether it is for all points at once; by default where that is possible, for
            scope "batches".
    """
    simultaneous = _check(measure, scope, confidence, simultaneous)
    points = np.asarray(x, dtype=np.float64)
    low = _batch_bounds(measure, points - measure.delta)[0]
    high = _batch_bounds(measure, points + measure.delta)[1]
    inside = points >= 0
    bounds = with_zeros(measure, low, high, inside=inside)
    sums = _node_sums(measure, np.full_like(points, -np.inf), points)
    return _band(measure, points, bounds, inside, sums, scope, confidence, simultaneous)


def mass_band(
    measure: Measure,
    tau: NDArray[np.float64],
    *,
    scope: str = "batches",
    confidence: float = CONFIDENCE,
    simultaneous: bool | None = None,
) -> Band:
    """Return the share of eigenvalues with |λ| ≤ τ at every positive `tau`, (X,), as a band.

    Thresholds below the product error δ have NaN: nothing can be said there.
    """
    simultaneous = _check(measure, scope, confidence, simultaneous)
    taus = np.asarray(tau, dtype=np.float64)
    if not (taus > 0).all():
        raise UsageError("a threshold τ is not positive; pass τ > 0.")
    d = measure.delta
    points = np.concatenate([taus - d, taus + d, -taus - d, -taus + d])
    L, U = _batch_bounds(measure, points, per_run=True)
    X = taus.size
    low = np.maximum(L[:, :, :X] - U[:, :, 3 * X :], 0.0)
    high = np.minimum(U[:, :, X : 2 * X] - L[:, :, 2 * X : 3 * X], 1.0)
    inside = np.full(X, True)
    means = with_zeros(measure, np.nanmean(low, axis=1), np.nanmean(high, axis=1), inside=inside)
    sums = _node_sums(measure, -taus, taus)
    band = _band(measure, taus, means, inside, sums, scope, confidence, simultaneous)
    blind = taus < measure.product_error
    return Band(
        taus,
        np.where(blind, np.nan, band.lower),
        np.where(blind, np.nan, band.upper),
        sums,
        scope,
        confidence,
        simultaneous,
    )


def _check(measure: Measure, scope: str, confidence: float, simultaneous: bool | None) -> bool:
    """Check the arguments and return whether the band is simultaneous."""
    require_spherical(measure, "the band of a distribution function")
    check_confidence(confidence)
    check_scope(scope, measure.num_batches)
    if simultaneous and scope == "population":
        raise UsageError(
            "simultaneous=True with scope='population' has no known error: spectra of other data "
            "may jump anywhere; use scope='batches', or a band that holds point by point."
        )
    return scope == "batches" if simultaneous is None else simultaneous


def _batch_bounds(
    measure: Measure, points: Floats, *, per_run: bool = False
) -> tuple[Floats, Floats]:
    """Return bounds by batch, (B, X), or by run, (B, P, X) with NaN where a probe has not run."""
    most = max(len(row) for row in measure.runs)
    lower = np.full((measure.num_batches, most, points.size), np.nan)
    upper = lower.copy()
    for b, row in enumerate(measure.runs):
        for p, run in enumerate(row):
            lower[b, p], upper[b, p] = run.bounds(points)
    if per_run:
        return lower, upper
    return np.nanmean(lower, axis=1), np.nanmean(upper, axis=1)


def _band(
    measure: Measure,
    x: Floats,
    bounds: tuple[Floats, Floats],
    inside: NDArray[np.bool_],
    sums: Floats,
    scope: str,
    confidence: float,
    simultaneous: bool,
) -> Band:
    low, high = bounds  # (B, X)
    n = measure.dim_unmasked
    jumps = float(n * measure.num_batches) if simultaneous else 1.0
    h = probe_halfwidth(n, effective_runs(measure), confidence, events=jumps)
    least, most = low.mean(axis=0) - h, high.mean(axis=0) + h
    if scope == "population":
        least, most = population_interval(low, high, confidence, (least, most), shares=True)
    share = 1 - measure.masked_fraction
    zeros = np.where(inside, measure.masked_fraction, 0.0)
    if scope == "batches":  # the zeros that are proven owe nothing to the probes
        proven = float(measure.proven_zeros.mean())
        least = np.where(inside, np.maximum(least, proven), least)
        most = np.where(inside, most, np.minimum(most, 1 - proven))
    lower = zeros + share * np.clip(least, 0.0, 1.0)
    upper = zeros + share * np.clip(most, 0.0, 1.0)
    order = np.argsort(x, kind="stable")
    if simultaneous:  # the curve grows, so a bound at one point serves all points beyond it
        lower[order] = np.maximum.accumulate(lower[order])
        upper[order[::-1]] = np.minimum.accumulate(upper[order[::-1]])
    else:  # point by point nothing may be tightened; outward to a band that grows as well
        lower[order[::-1]] = np.minimum.accumulate(lower[order[::-1]])
        upper[order] = np.maximum.accumulate(upper[order])
    return Band(x, lower, upper, sums, scope, confidence, simultaneous)


def _node_sums(measure: Measure, a: Floats, b: Floats) -> Floats:
    """Return the node weights in each [a, b], mean over runs, (X,)."""
    total = np.zeros_like(b)
    for nodes, weights in measure.nodes_and_weights():
        order = np.argsort(nodes, kind="stable")
        sums = np.concatenate([[0.0], np.cumsum(weights[order])])
        ordered = nodes[order]
        total += sums[np.searchsorted(ordered, b, side="right")]
        total -= sums[np.searchsorted(ordered, a, side="left")]
    return total / measure.num_runs
