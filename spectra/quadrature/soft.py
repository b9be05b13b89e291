"""Soft shares: how many eigenvalues lie near zero, counted with a smooth edge.

The soft share of order p at τ gives every eigenvalue the weight 1/(1 + (λ/τ)^{2p}). What one probe
sees of it is known exponentially well in the number of Lanczos steps (spectra.quadrature.windows),
where the share with a sharp edge is known like one over that number. n(1 − S_1(τ)) is the effective
dimension tr H²(H² + τ²)⁻¹ of H² at τ²: the number of directions that are well determined at the
scale τ (MacKay, Neural Computation 4, 1992; Maddox, Benton & Wilson, arXiv 2003.02139).

*From probe to spectrum.* Weights lie in [0, 1], so the intervals of a share hold
(spectra.quadrature.concentration). For many thresholds at once: a soft share is a mixture of the
sharp shares of the nested intervals |λ| ≤ t, and the mean of B spectra of n_u eigenvalues has n_u·B
jumps in t at most, so that n_u·B events serve every threshold and every order; for a ladder fixed
beforehand its number of entries serves, where that is less.

*Exact zeros.* Masked coordinates and structural zeros have the weight 1 and are counted as proven,
not as measured: no interval begins below them.

*Population over data.* From the bounds of each batch (spectra.quadrature.population), as for every
share.

Shapes: T thresholds, B batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spectra.errors import UsageError
from spectra.quadrature.concentration import share_interval
from spectra.quadrature.estimates import (
    CONFIDENCE,
    RESOLVED_WIDTH,
    Estimate,
    check_confidence,
    check_scope,
    fraction_stderr,
)
from spectra.quadrature.gauss import Floats
from spectra.quadrature.mass import effective_runs
from spectra.quadrature.measure import Measure, require_spherical
from spectra.quadrature.population import population_interval
from spectra.quadrature.windows import ORDERS, check_order, window

DEFAULT_ORDER = 2
MANTISSAS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
LADDER = tuple(float(f"{m}e{power}") for power in range(-9, 10) for m in MANTISSAS)
RUNGS = len(LADDER) * len(ORDERS)  # intervals of the ladder, which hold at once
NARROW = 0.05  # width at which a share of the ladder counts as resolved
DEEPEST = 1e-6  # of the spectral radius: the ladder of one record is not followed further down


@dataclass(frozen=True)
class SoftBand:
    """Soft shares at many thresholds, with the intervals that hold for all of them at once.

    Attributes:
        tau: Thresholds, (T,).
        order: Of the window.
        lower: Lower ends, (T,).
        upper: Upper ends, (T,).
        value: Middle of the resolution bounds, (T,).
        scope: "batches" or "population".
        confidence: Of all points at once with scope "batches", of each with "population".
        simultaneous: Whether it is for all points at once.
    """

    tau: Floats
    order: int
    lower: Floats
    upper: Floats
    value: Floats
    scope: str
    confidence: float
    simultaneous: bool


def soft_mass(
    measure: Measure,
    tau: float,
    order: int = DEFAULT_ORDER,
    *,
    scope: str = "batches",
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> Estimate:
    """Return the mean over all eigenvalues of 1/(1 + (λ/τ)^{2·order}), a share in [0, 1].

    Args:
        measure: What was measured.
        tau: Threshold τ > 0, in units of λ.
        order: 1, 2 or 4: how steep the edge is.
        scope: "batches": of the operators used; "population": of data like them.
        confidence: Of the interval.
        simultaneous: Whether it is to hold for all thresholds and orders at once, or for a
            threshold chosen after looking; with scope "batches" only.

    Raises:
        UsageError: If τ is not positive, the order is not known, the probes are not spherical, or
            the scope needs more batches.
    """
    band = soft_band(
        measure,
        np.array([tau]),
        order,
        scope=scope,
        confidence=confidence,
        simultaneous=simultaneous,
    )
    lower, upper, value = float(band.lower[0]), float(band.upper[0]), float(band.value[0])
    if scope == "population":
        low, high = soft_bounds(measure, band.tau, order)
        middle = (low + high)[:, 0] / 2
        stderr = float(middle.std(ddof=1)) / math.sqrt(middle.size)
    else:
        inside = (value - measure.masked_fraction) / max(1 - measure.masked_fraction, 1e-300)
        stderr = fraction_stderr(inside, measure.dim_unmasked, effective_runs(measure))
    return Estimate(
        value=value,
        stderr=(1 - measure.masked_fraction) * stderr,
        lower=lower,
        upper=upper,
        scope=scope,
        confidence=confidence,
        node_sum=_node_sum(measure, tau, order),
        note=_words(tau, order, lower, upper, measure.steps),
    )


def soft_band(
    measure: Measure,
    tau: Floats,
    order: int = DEFAULT_ORDER,
    *,
    scope: str = "batches",
    confidence: float = CONFIDENCE,
    simultaneous: bool | None = None,
    events: float | None = None,
) -> SoftBand:
    """Return the soft shares at every threshold of `tau`, (T,), with their intervals.

    Args:
        measure: What was measured.
        tau: Positive thresholds.
        order: Of the window.
        scope: "batches" or "population".
        confidence: Of the intervals.
        simultaneous: Whether they hold for all thresholds at once; by default with scope "batches".
        events: Of a ladder fixed beforehand: the number of its intervals.
    """
    require_spherical(measure, "a soft share")
    check_confidence(confidence)
    check_scope(scope, measure.num_batches)
    check_order(order)
    if simultaneous and scope == "population":
        raise UsageError(
            "simultaneous=True with scope='population' has no known error: spectra of other data "
            "may differ anywhere; use scope='batches', or ask for one threshold."
        )
    taus = np.asarray(tau, dtype=np.float64)
    for one in taus.tolist():
        if not 0 < one < math.inf:
            raise UsageError(f"tau={one:g} is not a threshold; pass a positive number.")
    together = scope == "batches" if simultaneous is None else simultaneous
    low, high = soft_bounds(measure, taus, order)
    zeros = measure.proven_zeros
    if scope == "population":
        low, high = np.maximum(low, zeros[:, None]), np.maximum(high, zeros[:, None])
    jumps = float(measure.dim_unmasked * measure.num_batches)
    count = min(jumps, math.inf if events is None else events) if together else 1.0
    lower, upper = share_interval(
        low.mean(axis=0),
        high.mean(axis=0),
        measure.dim_unmasked,
        effective_runs(measure),
        confidence,
        events=count,
    )
    if scope == "population":
        lower, upper = population_interval(low, high, confidence, (lower, upper), shares=True)
    else:
        lower = np.maximum(lower, zeros.mean())
        upper = np.maximum(upper, lower)
    f = measure.masked_fraction
    lower, upper = (f + (1 - f) * np.clip(end, 0.0, 1.0) for end in (lower, upper))
    value = f + (1 - f) * (low + high).mean(axis=0) / 2
    value = np.clip(value, lower, upper)
    return SoftBand(taus, order, lower, upper, value, scope, confidence, together)


def soft_bounds(measure: Measure, tau: Floats, order: int) -> tuple[Floats, Floats]:
    """Return bounds of what the probes of each batch see, (B, T), unmasked block, δ included."""
    moved = order * measure.delta / tau
    lows, highs = [], []
    for row in measure.runs:
        pairs = [run.windows(tau, order) for run in row]
        lows.append(np.mean([low for low, _ in pairs], axis=0))
        highs.append(np.mean([high for _, high in pairs], axis=0))
    return np.maximum(np.array(lows) - moved, 0.0), np.minimum(np.array(highs) + moved, 1.0)


def effective_dimension(
    measure: Measure, tau: float, *, scope: str = "batches", confidence: float = CONFIDENCE
) -> Estimate:
    """Return n(1 − S_1(τ)) = tr H²(H² + τ²)⁻¹, a number of directions between 0 and n."""
    share = soft_mass(measure, tau, 1, scope=scope, confidence=confidence)
    n = measure.dim
    return Estimate(
        value=n * (1 - share.value),
        stderr=n * share.stderr,
        lower=n * (1 - share.upper),
        upper=n * (1 - share.lower),
        scope=scope,
        confidence=confidence,
        node_sum=None if share.node_sum is None else n * (1 - share.node_sum),
    )


def ladder(measure: Measure) -> Floats:
    """Return the thresholds of the fixed ladder that make sense for this record, descending.

    They reach from the first above the spectral radius down to the product error, or to `DEEPEST`
    of the radius.
    """
    radius = max(abs(end) for end in measure.span)
    floor = max(measure.product_error, DEEPEST * radius)
    above = [tau for tau in LADDER if tau > radius][:1]
    return np.array(above + [tau for tau in reversed(LADDER) if floor <= tau <= radius])


def resolution(
    measure: Measure,
    width: float = NARROW,
    *,
    scope: str = "batches",
    confidence: float = CONFIDENCE,
) -> tuple[float, int] | None:
    """Return the smallest threshold of the ladder down to which this run knows a soft share.

    The intervals hold for the whole ladder and all orders at once, so that the share may be read at
    the threshold that is found here (with scope "population" each holds by itself).

    Args:
        measure: What was measured.
        width: Widest interval that counts as known.
        scope: "batches" or "population".
        confidence: Of the intervals.

    Returns:
        (τ, order), order being the highest that is known at τ; None where no threshold is known.
    """
    if not 0 < width < 1:
        raise UsageError(f"width={width:g} is not the width of a share; pass e.g. 0.05.")
    taus = ladder(measure)
    if not taus.size:
        return None
    known = np.zeros((len(ORDERS), taus.size), dtype=bool)
    for place, order in enumerate(ORDERS):
        together = scope == "batches"
        band = soft_band(
            measure,
            taus,
            order,
            scope=scope,
            confidence=confidence,
            simultaneous=together,
            events=RUNGS,
        )
        known[place] = band.upper - band.lower <= width
    unknown = np.flatnonzero(~known.any(axis=0))
    last = int(unknown[0]) - 1 if unknown.size else taus.size - 1
    if last < 0:
        return None
    return float(taus[last]), max(o for o, row in zip(ORDERS, known, strict=True) if row[last])


def _node_sum(measure: Measure, tau: float, order: int) -> float:
    sums = [float(w @ window(x, tau, order)) for x, w in measure.nodes_and_weights()]
    return float(np.mean(sums))


def _words(tau: float, order: int, lower: float, upper: float, steps: int) -> str:
    if upper - lower <= RESOLVED_WIDTH:
        return ""
    down, up = math.floor(lower * 100) / 100, math.ceil(upper * 100) / 100
    return (
        f"soft share of order {order} at τ = {tau:.3g}: between {down:.2f} and {up:.2f}, "
        f"not resolved with {steps} steps"
    )
