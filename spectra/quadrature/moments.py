"""Moments ∫ λᵏ dΦ = tr(Hᵏ)/n of the spectral measure, exact in resolution for k ≤ 2m.

The Gauss rule of m steps integrates polynomials to degree 2m − 1, and β_m gives degree 2m, so the
only errors are the probe's, the batches' and the product's. One spherical probe has variance
2(Φ(λ²ᵏ) − Φ(λᵏ)²)/(n + 2), which `stderr` is taken from; the interval is that of
spectra.quadrature.tilting, which holds where a few eigenvalues carry the moment as well. A product
error δ moves an eigenvalue by at most δ, hence λᵏ by at most (ρ + δ)ᵏ − ρᵏ with ρ the spectral
radius.

*Rademacher probes* may miss an eigenvalue altogether: one whose eigenvector lives on two
coordinates is seen by every second probe. With `ENOUGH` probes on every operator the interval holds
for such operators too (tests/coverage); with fewer none can be given.

Eigenvalues are divided by a power of two near the spectral radius first, which is exact.
"""

from __future__ import annotations

import math

import numpy as np

from spectra.errors import UsageError
from spectra.quadrature.estimates import (
    CONFIDENCE,
    Estimate,
    batch_means,
    check_confidence,
    check_scope,
)
from spectra.quadrature.mass import effective_runs
from spectra.quadrature.measure import Measure
from spectra.quadrature.population import population_interval
from spectra.quadrature.tilting import Tilting

ENOUGH = 6  # Rademacher probes on each operator below which no interval is known


def moment(
    measure: Measure, power: int, *, scope: str = "batches", confidence: float = CONFIDENCE
) -> Estimate:
    """Return the mean of λ^power over all eigenvalues: tr(H)/n for 1, tr(H²)/n for 2.

    Raises:
        UsageError: If `power` is below 1, or its variance needs a moment beyond degree 2m.
    """
    check_confidence(confidence)
    check_scope(scope, measure.num_batches)
    if not 1 <= power <= measure.steps:
        raise UsageError(
            f"power={power} is out of range: {measure.steps} Lanczos steps know moments 1 to "
            f"{measure.steps} with their errors; run more steps."
        )
    radius = max(abs(end) for end in measure.span)
    exponent = math.frexp(radius)[1]
    share = measure.dim_unmasked / measure.dim

    def seen(k: int) -> list[list[float]]:
        return measure.per_run(lambda r: r.scaled(-exponent).moment(k))

    means, squares = batch_means(seen(power)), batch_means(seen(2 * power))
    unit, delta = math.ldexp(radius, -exponent), math.ldexp(measure.delta, -exponent)
    bias = (unit + delta) ** power - unit**power
    tilting = Tilting(measure, 1 - confidence)
    lower, upper = tilting.interval(lambda x: np.ldexp(x, -exponent) ** power)
    spread = max(float(np.mean(squares)) - float(np.mean(means**2)), 0.0)
    n, probes = measure.dim_unmasked, effective_runs(measure)
    factor = 2.0 if measure.spherical else 2.0 * (n + 2) / n
    stderr = math.sqrt(factor * spread / ((n + 2) * probes))
    if scope == "population":
        stderr = float(means.std(ddof=1)) / math.sqrt(means.size)
        ends = population_interval(means, means, confidence, (lower, upper))
        lower, upper = map(float, ends)
    lower, upper = lower - bias, upper + bias
    lower = max(0.0, lower) if power % 2 == 0 else lower
    note = ""
    if not measure.spherical and min(len(row) for row in measure.runs) < ENOUGH:
        lower, upper = (0.0 if power % 2 == 0 else -math.inf), math.inf
        note = (
            f"no interval: fewer than {ENOUGH} Rademacher probes on an operator may miss an "
            "eigenvalue; use spherical ones"
        )
    value = min(max(float(means.mean()), lower), upper)
    value, stderr, lower, upper = (
        share * _times(x, exponent * power) for x in (value, stderr, lower, upper)
    )
    return Estimate(value, stderr, lower, upper, scope, confidence, note=note)


def _times(x: float, exponent: int) -> float:
    """Return x·2^exponent, infinite where no float holds it."""
    try:
        return math.ldexp(x, exponent)
    except OverflowError:
        return math.copysign(math.inf, x)
