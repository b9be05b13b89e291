"""Extreme eigenvalues, with an inner bound that is certain and an outer one that is probable.

*Inner.* Ritz values lie inside [λmin, λmax] (Courant–Fischer), so λmax ≥ θ_m − δ. The residual
β_m|e_mᵀy| places an eigenvalue within that distance of θ_m; it does not exclude a larger one.

Without a whole basis Ritz values are inner only up to the rounding that adds up over the steps
(`Measure.ritz_error`), which is taken off there and added outside.

*Outer.* If λmax were above x, the probe would give the half-line above x the mass (v·u)² at least,
which is Beta(½, (n − 1)/2) distributed for a spherical probe. A run shows that this mass is at
most 1 − L(x), L the sharp lower bound of its distribution function. With P independent probes of
one operator all P masses must be that small at once. Hence, with probability at least 1 − η,
λmax ≤ x + δ for the smallest x at which max_p (1 − L_p(x)) falls below the q with
Beta.cdf(q)^P = η. With B operators each bound takes η/B, so that all hold at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

from spectra.quadrature.estimates import (
    CONFIDENCE,
    Estimate,
    check_confidence,
    check_scope,
)
from spectra.quadrature.measure import Measure, Run, require_spherical
from spectra.quadrature.population import population_interval


def extremes(
    measure: Measure, *, scope: str = "batches", confidence: float = CONFIDENCE
) -> tuple[Estimate, Estimate]:
    """Return λmin and λmax, each the mean over operators of that operator's extreme eigenvalue.

    `value` is the mean Ritz value, `stderr` the standard error over batches (0 for one batch).
    Masked coordinates are eigenvalues 0 and take part.
    """
    require_spherical(measure, "the outer bound of an extreme eigenvalue")
    check_confidence(confidence)
    check_scope(scope, measure.num_batches)
    return _extreme(measure, -1, scope, confidence), _extreme(measure, +1, scope, confidence)


def _extreme(measure: Measure, side: int, scope: str, confidence: float) -> Estimate:
    """`side` = +1 for λmax; −1 for λmin, which is −λmax of the negated operator."""
    inner, residuals = [], []
    for row in measure.runs:
        best = max((run.ends[side > 0] for run in row), key=lambda end: side * end.node)
        top = side * best.node
        inner.append(max(top, 0.0) if measure.masked_fraction > 0 else top)
        residuals.append(best.residual)
    value, far = np.array(inner), np.array(outer_bounds(measure, side, 1 - confidence))
    near = value - measure.delta - measure.ritz_error
    stderr = float(value.std(ddof=1)) / math.sqrt(value.size) if value.size > 1 else 0.0
    low, high = float(near.mean()), float(far.mean())
    if scope == "population":
        low, high = map(float, population_interval(near, far, confidence, (low, high)))
    ends = sorted((side * low, side * high))
    note = f"nearest eigenvalue within {max(residuals) + measure.delta:.2g} of the Ritz value"
    return Estimate(
        side * float(value.mean()), stderr, ends[0], ends[1], scope, confidence, note=note
    )


def outer_bounds(measure: Measure, side: int, risk: float) -> list[float]:
    """Return, for each operator, a bound of λmax (`side` = −1: of −λmin); jointly at `risk`."""
    bounds = []
    for row in measure.runs:
        alone = _outer(row, side, measure.dim_unmasked, risk / measure.num_batches)
        bound = alone + measure.delta + measure.ritz_error
        bounds.append(max(bound, 0.0) if measure.masked_fraction > 0 else bound)
    return bounds


def _outer(runs: Sequence[Run], side: int, dim: int, risk: float) -> float:
    """Return the smallest x at which an eigenvalue of side·H beyond x is excluded at the risk."""
    if dim == 1 or all(run.exact for run in runs):
        return side * runs[0].ends[side > 0].node
    quantile = float(scipy.stats.beta.ppf(risk ** (1 / len(runs)), 0.5, (dim - 1) / 2))

    def excluded(x: float) -> bool:
        return max(run.christoffel(side * x) for run in runs) < quantile

    inside = max(side * run.ends[side > 0].node for run in runs)
    spread = max(high.node - low.node for low, high in (run.ends for run in runs))
    step = max(spread, abs(inside), float(np.finfo(float).tiny)) * 1e-12
    outside = inside + step
    while not excluded(outside):
        step *= 4
        if not math.isfinite(step):
            return math.inf
        inside, outside = outside, outside + step
    for _ in range(60):
        middle = (inside + outside) / 2
        if outside - inside <= 1e-3 * step or not inside < middle < outside:
            break
        inside, outside = (inside, middle) if excluded(middle) else (middle, outside)
    return outside
