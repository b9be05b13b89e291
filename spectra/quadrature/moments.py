"""Moments ∫ λᵏ dΦ = tr(Hᵏ)/n of the spectral measure, exact in resolution for k ≤ 2m.

The Gauss rule of m steps integrates polynomials to degree 2m − 1, and β_m gives degree 2m, so the
only errors are the probe's, the batches' and the product's. One spherical probe has variance
2(Φ(λ²ᵏ) − Φ(λᵏ)²)/(n + 2); a product error δ moves an eigenvalue by at most δ, hence λᵏ by at most
k ρᵏ⁻¹ δ with ρ the spectral radius. The interval is normal with that variance, estimated from the
same nodes: sound where many eigenvalues carry the moment, too short where a few outliers do and
there is one probe.
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
    normal_quantile,
    student_halfwidth,
)
from spectra.quadrature.mass import effective_runs
from spectra.quadrature.measure import Measure


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
    share = measure.dim_unmasked / measure.dim
    means = batch_means(measure.per_run(lambda r: r.moment(power)))
    squares = batch_means(measure.per_run(lambda r: r.moment(2 * power)))
    value = share * float(means.mean())
    radius = max(abs(end) for end in measure.span)
    bias = share * power * radius ** (power - 1) * measure.delta
    if scope == "population":
        stderr = share * float(means.std(ddof=1)) / math.sqrt(means.size)
        half = share * student_halfwidth(means, confidence) + bias
    else:
        spread = max(float(np.mean(squares)) - float(np.mean(means**2)), 0.0)
        n, probes = measure.dim_unmasked, effective_runs(measure)
        factor = 2.0 if measure.spherical else 2.0 * (n + 2) / n
        stderr = share * math.sqrt(factor * spread / ((n + 2) * probes))
        half = normal_quantile(confidence) * stderr + bias
    lower = max(0.0, value - half) if power % 2 == 0 else value - half
    return Estimate(value, stderr, lower, value + half, scope, confidence)
