"""The distribution function and the mass curve with their bands, at many points at once.

At one point x the sharp Chebyshev–Markov–Stieltjes bounds are sums of weights of the Gauss–Radau
rule with nodes ν, weights ω and one node forced at x (spectra.quadrature.radau). One rule costs an
eigendecomposition; a figure wants hundreds of points from runs of up to thousands of steps. The
sums need no nodes. With the rule's Stieltjes transform G(z) = Σ ω_j/(z − ν_j),

    (2/π) ∫₀^∞ Re G(x + iy) dy  =  Σ_{ν<x} ω − Σ_{ν>x} ω,        lim y·(−Im G(x + iy)) = ω(x)
                                                                 y→0
because each term of the first integrates to ±ω_j and the forced node, purely imaginary on the line,
drops out. The total is 1, so Σ_{ν<x} ω = (1 − ω(x) + integral)/2. G is the continued fraction of
the Jacobi matrix, m complex divisions a point. With y = eˢ each term is ±ω_j/(2 cosh(s − s_j)),
analytic for |Im s| < π/2, so the trapezoid rule with spacing h is off by about 2·exp(−π²/h), which
is 5e-9 for h = ½; the ends are geometric series and are summed exactly. Rounding puts the forced
node at x + ε, which adds ω(x)ε/y² to the real part; that term is told apart by its growth at the
two smallest y and taken out. The bounds are widened by `QUADRATURE_ERROR`. (Trefethen & Weideman,
SIAM Review 56, 2014, for the trapezoid rule.)

The intervals made of them are those of spectra.quadrature.estimates: mean over runs, the probe term
h at all x at once, the product error δ on either side of x, masked coordinates added exactly.

Shapes: X points, m steps, B batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UsageError
from spectra.quadrature import Measure
from spectra.quadrature.estimates import (
    CONFIDENCE,
    check_confidence,
    check_scope,
    probe_halfwidth,
    student_halfwidth,
)
from spectra.quadrature.mass import effective_runs
from spectra.quadrature.measure import require_spherical

Floats = NDArray[np.float64]

SPACING = 0.5
NEAREST, FARTHEST = 1e-10, 1e4  # distances from the real axis, in units of ‖T‖
QUADRATURE_ERROR = 5e-8
CHUNK = 256  # points at once: a few hundred kilobytes


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


def sharp_bounds(alphas: Floats, betas: Floats, x: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Return the sharp bounds L ≤ Ψ_v(x−) ≤ Ψ_v(x) ≤ U of one run at finite `x`; each (X,).

    Args:
        alphas: Diagonal of T_m, (m,).
        betas: Off-diagonal and last residual norm β_m, (m,).
        x: Points, (X,).
    """
    points = np.asarray(x, dtype=np.float64)
    pieces = [
        _bounds(alphas, betas, points[start : start + CHUNK])
        for start in range(0, points.size, CHUNK)
    ]
    below = np.concatenate([piece[0] for piece in pieces]) if pieces else points
    at = np.concatenate([piece[1] for piece in pieces]) if pieces else points
    return (
        np.clip(below - QUADRATURE_ERROR, 0.0, 1.0),
        np.clip(below + at + QUADRATURE_ERROR, 0.0, 1.0),
    )


def _bounds(alphas: Floats, betas: Floats, x: Floats) -> tuple[Floats, Floats]:
    scale = float(max(np.abs(alphas).max(), betas.max()))
    if scale == 0.0:  # the zero operator: Ψ steps from 0 to 1 at 0
        return (x > 0).astype(np.float64), (x == 0).astype(np.float64)
    exponent = math.frexp(scale)[1]  # a power of two: rescaling is exact
    alphas, betas, x = (np.ldexp(array, -exponent) for array in (alphas, betas, x))
    pivot = _last_pivot(alphas, betas, x)[:, None]
    distances = np.exp(np.arange(math.log(NEAREST), math.log(FARTHEST) + SPACING, SPACING))
    iy, offsets = 1j * distances[None, :], x[:, None]
    # The corner x + β²/d puts its node at x; written so that d = 0, at a Ritz value, is the Gauss
    # rule and not a division by zero.
    tail = betas[-1] ** 2 * pivot / (iy * pivot - betas[-1] ** 2) if betas[-1] > 0 else 0.0 * iy
    transform = iy
    for k in range(alphas.size - 1, -1, -1):
        transform = 1.0 / (iy + (offsets - alphas[k]) - tail)
        if k:
            tail = betas[k - 1] ** 2 * transform
    real = transform.real
    growth = (real[:, :1] - real[:, 1:2]) / (distances[0] ** -2 - distances[1] ** -2)
    terms = distances * (real - growth / distances**2)
    ends = (terms[:, 0] + terms[:, -1]) / math.expm1(SPACING)
    difference = (2 / math.pi) * SPACING * (terms.sum(axis=1) + ends)
    at = np.clip(-distances[0] * transform.imag[:, 0], 0.0, 1.0)
    return (1 - at + difference) / 2, at


def _last_pivot(alphas: Floats, betas: Floats, x: Floats) -> Floats:
    """Return d_m of T_m − xI = LDLᵀ for each x, (X,)."""
    tiny = float(np.finfo(float).eps) ** 2
    d: Floats = alphas[0] - x
    for k in range(1, alphas.size):
        d = np.where(np.abs(d) < tiny, -tiny, d)
        d = alphas[k] - x - betas[k - 1] ** 2 / d
    return d


def cdf_band(
    measure: Measure,
    x: NDArray[np.float64],
    *,
    scope: str = "batches",
    confidence: float = CONFIDENCE,
    simultaneous: bool = True,
) -> Band:
    """Return the share of eigenvalues ≤ x at every point of `x`, (X,), as a band."""
    _check(measure, scope, confidence)
    points = np.asarray(x, dtype=np.float64)
    lower = _batch_bounds(measure, points - measure.delta)[0]
    upper = _batch_bounds(measure, points + measure.delta)[1]
    zeros = np.where(points >= 0, measure.masked_fraction, 0.0)
    sums = _node_sums(measure, np.full_like(points, -np.inf), points)
    return _band(measure, points, (lower, upper), zeros, sums, scope, confidence, simultaneous)


def mass_band(
    measure: Measure,
    tau: NDArray[np.float64],
    *,
    scope: str = "batches",
    confidence: float = CONFIDENCE,
    simultaneous: bool = True,
) -> Band:
    """Return the share of eigenvalues with |λ| ≤ τ at every positive `tau`, (X,), as a band.

    Thresholds below the product error δ have NaN: nothing can be said there.
    """
    _check(measure, scope, confidence)
    taus = np.asarray(tau, dtype=np.float64)
    if not (taus > 0).all():
        raise UsageError("a threshold τ is not positive; pass τ > 0.")
    d = measure.delta
    points = np.concatenate([taus - d, taus + d, -taus - d, -taus + d])
    L, U = _batch_bounds(measure, points, per_run=True)
    X = taus.size
    low = np.maximum(L[:, :, :X] - U[:, :, 3 * X :], 0.0)
    high = np.minimum(U[:, :, X : 2 * X] - L[:, :, 2 * X : 3 * X], 1.0)
    means = np.nanmean(low, axis=1), np.nanmean(high, axis=1)
    zeros = np.full_like(taus, measure.masked_fraction)
    sums = _node_sums(measure, -taus, taus)
    band = _band(measure, taus, means, zeros, sums, scope, confidence, simultaneous)
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


def _check(measure: Measure, scope: str, confidence: float) -> None:
    require_spherical(measure, "the band of a distribution function")
    check_confidence(confidence)
    check_scope(scope, measure.num_batches)


def _batch_bounds(
    measure: Measure, points: Floats, *, per_run: bool = False
) -> tuple[Floats, Floats]:
    """Return bounds by batch, (B, X), or by run, (B, P, X) with NaN where a probe has not run."""
    most = max(len(row) for row in measure.runs)
    lower = np.full((measure.num_batches, most, points.size), np.nan)
    upper = lower.copy()
    for b, row in enumerate(measure.runs):
        for p, run in enumerate(row):
            lower[b, p], upper[b, p] = sharp_bounds(run.alphas, run.betas, points)
    if per_run:
        return lower, upper
    return np.nanmean(lower, axis=1), np.nanmean(upper, axis=1)


def _band(
    measure: Measure,
    x: Floats,
    bounds: tuple[Floats, Floats],
    zeros: Floats,
    sums: Floats,
    scope: str,
    confidence: float,
    simultaneous: bool,
) -> Band:
    low, high = bounds  # (B, X)
    n = measure.dim_unmasked
    if scope == "population":
        level = 1 - (1 - confidence) / n if simultaneous else confidence
        below = np.array([student_halfwidth(column, level) for column in low.T])
        above = np.array([student_halfwidth(column, level) for column in high.T])
    else:
        h = probe_halfwidth(n, effective_runs(measure), confidence, simultaneous=simultaneous)
        below = above = np.full(x.shape, h)
    share = 1 - measure.masked_fraction
    lower = zeros + share * np.clip(low.mean(axis=0) - below, 0.0, 1.0)
    upper = zeros + share * np.clip(high.mean(axis=0) + above, 0.0, 1.0)
    if simultaneous:  # the curve grows, so a bound at one point serves all points beyond it
        order = np.argsort(x, kind="stable")
        lower[order] = np.maximum.accumulate(lower[order])
        upper[order[::-1]] = np.minimum.accumulate(upper[order[::-1]])
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
