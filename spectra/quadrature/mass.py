"""Mass of an interval, the distribution function and its quantiles, with their intervals.

Mass of an interval with ends a ≤ b, seen by one run: between L(b − δ) − U(a + δ) and
U(b + δ) − L(a − δ), cut to [0, 1], where L and U are the sharp bounds of spectra.quadrature.radau.
Valid, not sharp for the pair. An eigenvalue within δ of an end may be counted on either side, so
open and closed ends have the same bounds; they differ where exact zeros are counted: the masked
share (and structural zeros, which sit at 0 as well) belongs to [a, b] if a ≤ 0 ≤ b, to (a, b) only
if a < 0 < b. "Mass of negative eigenvalues" is therefore Ψ(−δ), strictly below the zeros.

The zeros that are proven (`Measure.proven_zeros`) bound every share without a measurement: a share
that contains 0 is at least theirs, one that does not at most the rest.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UsageError
from spectra.quadrature.estimates import (
    CONFIDENCE,
    RESOLVED_WIDTH,
    Estimate,
    batch_means,
    check_confidence,
    check_scope,
    fraction_stderr,
    probe_halfwidth,
)
from spectra.quadrature.gauss import Floats
from spectra.quadrature.measure import Measure, require_spherical
from spectra.quadrature.population import population_interval
from spectra.quadrature.steps import sharp_steps


def mass(
    measure: Measure,
    a: float,
    b: float,
    *,
    closed: bool = True,
    scope: str = "batches",
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> Estimate:
    """Return the share of eigenvalues between `a` and `b`.

    Args:
        measure: What was measured.
        a: Lower end, may be −inf.
        b: Upper end, may be +inf.
        closed: Whether exact zeros sitting at an end are counted.
        scope: "batches" or "population".
        confidence: Of the interval.
        simultaneous: Whether the interval must hold for all (a, b) at once, or for ends chosen
            after looking; with scope "batches" only, where the spectra are finite sets.

    Raises:
        UsageError: If the ends are out of order, nearer than the product error δ resolves, the
            probes are not spherical, or the scope needs more batches.
    """
    require_spherical(measure, "the mass of an interval")
    check_confidence(confidence)
    check_scope(scope, measure.num_batches)
    if simultaneous and scope == "population":
        raise UsageError(
            "simultaneous=True with scope='population' has no known error: spectra of other data "
            "may jump anywhere; use scope='batches', or ask for one interval chosen beforehand."
        )
    if not a <= b:
        raise UsageError(f"the interval [{a:g}, {b:g}] is empty or not a number; pass a ≤ b.")
    measured = measure.product_error
    if b - a < 2 * measured:
        raise UsageError(
            f"the interval [{a:g}, {b:g}] is narrower than twice the product error "
            f"δ={measured:.3g}; ask for a wider one, or estimate in a higher precision."
        )
    L_a, U_a = measure.cdf_lower(a), measure.cdf_upper(a)
    L_b, U_b = measure.cdf_lower(b), measure.cdf_upper(b)
    lows = [[max(0.0, y - x) for x, y in zip(*r, strict=True)] for r in zip(U_a, L_b, strict=True)]
    highs = [[min(1.0, y - x) for x, y in zip(*r, strict=True)] for r in zip(L_a, U_b, strict=True)]
    zeros_inside = a <= 0 <= b if closed else a < 0 < b
    offset = measure.masked_fraction if zeros_inside else 0.0
    low, high = with_zeros(measure, batch_means(lows), batch_means(highs), inside=zeros_inside)
    lower, upper, stderr = _interval(measure, low, high, scope, confidence, simultaneous)
    share = 1 - measure.masked_fraction
    zeros = float(measure.proven_zeros.mean())
    if scope == "batches":
        lower = max(lower, zeros) if zeros_inside else lower
        upper = upper if zeros_inside else min(upper, 1 - zeros)
    L, U = float(low.mean()), float(high.mean())
    value = offset + share * (L + U) / 2
    random = share * ((upper - lower) - (U - L))
    lower, upper = offset + share * max(0.0, lower), offset + share * min(1.0, upper)
    return Estimate(
        value=min(max(value, lower), upper),
        stderr=share * stderr,
        lower=lower,
        upper=upper,
        scope=scope,
        confidence=confidence,
        node_sum=node_sum(measure, a, b, closed=closed),
        note=_words(measure, a, b, (lower, upper), random, scope),
    )


def with_zeros(
    measure: Measure, low: Floats, high: Floats, *, inside: bool | NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Return bounds of shares by batch, (B,) or (B, X), with what the proven zeros say of them.

    `inside`: whether 0 belongs to the interval, for all or (X,).
    """
    zeros = measure.proven_zeros.reshape(-1, *[1] * (low.ndim - 1))
    least, most = np.where(inside, zeros, 0.0), np.where(inside, 1.0, 1 - zeros)
    return np.clip(low, least, most), np.clip(high, least, most)


def node_sum(measure: Measure, a: float, b: float, *, closed: bool = True) -> float:
    """Return the plain sum of node weights between `a` and `b`, mean over runs: no error known."""
    sums = []
    for nodes, weights in measure.nodes_and_weights():
        inside = (nodes >= a) & (nodes <= b) if closed else (nodes > a) & (nodes < b)
        sums.append(weights[inside].sum())
    return float(np.mean(sums))


def _interval(
    measure: Measure,
    low: Floats,
    high: Floats,
    scope: str,
    confidence: float,
    simultaneous: bool,
) -> tuple[float, float, float]:
    """Return lower, upper and standard error on the unmasked block from batch means (B,)."""
    middle = (low + high) / 2
    probes = effective_runs(measure)
    jumps = float(measure.dim_unmasked * measure.num_batches)
    events = jumps * (jumps + 1) / 2 if simultaneous else 1.0
    h = probe_halfwidth(measure.dim_unmasked, probes, confidence, events=events)
    stderr = fraction_stderr(float(middle.mean()), measure.dim_unmasked, probes)
    lower, upper = float(low.mean()) - h, float(high.mean()) + h
    if scope == "population":
        ends = population_interval(low, high, confidence, (lower, upper), shares=True)
        lower, upper = map(float, ends)
        stderr = float(middle.std(ddof=1)) / math.sqrt(middle.size)
    return lower, upper, stderr


def effective_runs(measure: Measure) -> float:
    """Return P of the interval rule for the mean over batches of the means over their probes.

    With equal counts this is the number of runs; with unequal ones (an unfinished record) the
    variance proxy of the mean of means is that of B · min P_b runs at most. Infinite where every
    eigenvalue is known and no probe was needed.
    """
    if measure.exact:
        return math.inf
    return measure.num_batches * min(len(row) for row in measure.runs)


def cdf(
    measure: Measure,
    x: float,
    *,
    scope: str = "batches",
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> Estimate:
    """Return the share of eigenvalues ≤ `x`."""
    return mass(
        measure, -math.inf, x, scope=scope, confidence=confidence, simultaneous=simultaneous
    )


def _words(
    measure: Measure,
    a: float,
    b: float,
    ends: tuple[float, float],
    random: float,
    scope: str,
) -> str:
    """Say that an interval is wide, and whether steps, probes or batches would narrow it."""
    lower, upper = ends
    if upper - lower <= RESOLVED_WIDTH:
        return ""
    name = f"±{b:.3g}" if a == -b else f"[{a:.3g}, {b:.3g}]"
    text = (
        f"mass within {name}: between {_down(lower):.2f} and {_up(upper):.2f}, "
        f"not resolved with {measure.steps} steps"
    )
    if random > RESOLVED_WIDTH / 2:
        more = "batches" if scope == "population" else "probes"
        return f"{text}: {random:.2f} of it is sampling error, which more {more} would narrow"
    if a == b:
        return f"{text}; no number of steps resolves a single point inside a spectrum"
    need = sharp_steps(measure, a, b, RESOLVED_WIDTH - random)
    return f"{text}; about {_round_up(need):,} would" if need and need > measure.steps else text


def _round_up(steps: int) -> int:
    unit = int(10 ** max(0, len(str(steps)) - 2))
    return -(-steps // unit) * unit


def _down(x: float) -> float:
    return math.floor(x * 100) / 100  # an interval is rounded outward, never inward


def _up(x: float) -> float:
    return math.ceil(x * 100) / 100
