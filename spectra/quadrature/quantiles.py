"""Quantiles of the eigenvalues or of their magnitudes, by inverting the bounds of the CDF.

With L̄ and Ū the mean bounds of the distribution function and h the probe term, the p-quantile q
satisfies L̄(q) − h ≤ p ≤ Ū(q) + h with the stated confidence at the one (unknown) point q, so its
interval is [inf{x : Ū(x) + h ≥ p}, inf{x : L̄(x) − h ≥ p}]. Both functions grow with x and are
inverted by bisection between outer bounds of all operators' extreme eigenvalues; of the last
bracket the outer end is returned, because an atom may sit at the very point where a bound jumps.
"""

from __future__ import annotations

from collections.abc import Callable

from spectra.errors import UsageError
from spectra.quadrature.estimates import CONFIDENCE, Estimate, check_confidence, check_scope
from spectra.quadrature.extremes import outer_bounds
from spectra.quadrature.mass import cdf, mass
from spectra.quadrature.measure import Measure, require_spherical

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
    require_spherical(measure, "a quantile")
    check_confidence(confidence)
    check_scope(scope, measure.num_batches)
    left = -max(outer_bounds(measure, -1, (1 - confidence) / 2))
    right = max(outer_bounds(measure, +1, (1 - confidence) / 2))
    narrowest = measure.product_error
    if magnitude:
        left, right = 0.0, max(abs(left), abs(right))

    def share(x: float) -> Estimate:
        if magnitude:
            reach = max(x, narrowest)
            return mass(measure, -reach, reach, scope=scope, confidence=confidence)
        return cdf(measure, x, scope=scope, confidence=confidence)

    def invert(reached: Callable[[Estimate], bool]) -> tuple[float, float]:
        a, b = left, right
        if reached(share(a)):
            return a, a
        for _ in range(BISECTIONS):
            middle = (a + b) / 2
            if not a < middle < b or b - a <= 1e-4 * max(abs(a), abs(b)):
                break
            a, b = (a, middle) if reached(share(middle)) else (middle, b)
        return a, b

    lower = invert(lambda e: e.upper >= p)[0]
    upper = invert(lambda e: e.lower >= p)[1]
    value = min(max(invert(lambda e: e.value >= p)[1], lower), upper)
    stderr = 0.0  # the interval is resolution for the greater part; see lower and upper
    name = "quantile of |λ|" if magnitude else "quantile"
    return Estimate(value, stderr, lower, upper, scope, confidence, note=f"{p:g}-{name}")
