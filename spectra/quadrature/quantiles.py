"""Quantiles of the eigenvalues or of their magnitudes, by inverting the bounds of the CDF.

With L̄ and Ū the mean bounds of the distribution function and h the probe term, the p-quantile q
satisfies L̄(q) − h ≤ p ≤ Ū(q) + h with the stated confidence at the one (unknown) point q, so its
interval is [inf{x : Ū(x) + h ≥ p}, inf{x : L̄(x) − h ≥ p}]. Both functions grow with x and are
inverted by bisection.
"""

from __future__ import annotations

from collections.abc import Callable

from spectra.errors import UsageError
from spectra.quadrature.estimates import CONFIDENCE, Estimate
from spectra.quadrature.extremes import extremes
from spectra.quadrature.mass import cdf, mass
from spectra.quadrature.measure import Measure

BISECTIONS = 40


def quantile(
    measure: Measure,
    p: float,
    *,
    magnitude: bool = False,
    scope: str = "batches",
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Return the p-quantile of the eigenvalues, or of |λ| with `magnitude`.

    Args:
        measure: What was measured.
        p: Share of eigenvalues at or below the result, between 0 and 1.
        magnitude: Whether to rank by |λ|.
        scope: "batches" or "population".
        confidence: Of the interval.

    Raises:
        UsageError: If `p` is not between 0 and 1.
    """
    if not 0 < p < 1:
        raise UsageError(f"p={p} is not a quantile level; pass a number between 0 and 1.")
    low_end, high_end = extremes(measure, scope=scope, confidence=confidence)
    left, right = low_end.lower, high_end.upper
    narrowest = measure.product_error
    if magnitude:
        left, right = 0.0, max(abs(left), abs(right))

    def share(x: float) -> Estimate:
        if magnitude:
            reach = max(x, narrowest)
            return mass(measure, -reach, reach, scope=scope, confidence=confidence)
        return cdf(measure, x, scope=scope, confidence=confidence)

    def invert(reached: Callable[[Estimate], bool]) -> float:
        a, b = left, right
        if reached(share(a)):
            return a
        for _ in range(BISECTIONS):
            middle = (a + b) / 2
            if not a < middle < b or b - a <= 1e-4 * max(abs(a), abs(b)):
                break
            a, b = (a, middle) if reached(share(middle)) else (middle, b)
        return b

    lower = invert(lambda e: e.upper >= p)
    upper = invert(lambda e: e.lower >= p)
    value = min(max(invert(lambda e: e.value >= p), lower), upper)
    stderr = 0.0  # the interval is resolution for the greater part; see lower and upper
    name = "quantile of |λ|" if magnitude else "quantile"
    return Estimate(value, stderr, lower, upper, scope, confidence, note=f"{p:g}-{name}")
