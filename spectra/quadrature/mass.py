"""Mass of an interval, the distribution function and its quantiles, with their intervals.

Mass of an interval with ends a ≤ b, seen by one run: between L(b − δ) − U(a + δ) and
U(b + δ) − L(a − δ), cut to [0, 1], where L and U are the sharp bounds of spectra.quadrature.radau.
Valid, not sharp for the pair. An eigenvalue within δ of an end may be counted on either side, so
open and closed ends have the same bounds; they differ where exact zeros are counted: the masked
share (and structural zeros, which sit at 0 as well) belongs to [a, b] if a ≤ 0 ≤ b, to (a, b) only
if a < 0 < b. "Mass of negative eigenvalues" is therefore Ψ(−δ), strictly below the zeros.
"""

from __future__ import annotations

import math

import numpy as np

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
    student_halfwidth,
)
from spectra.quadrature.gauss import Floats
from spectra.quadrature.measure import Measure, require_spherical


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
            after looking.

    Raises:
        UsageError: If the ends are out of order, nearer than the product error δ resolves, the
            probes are not spherical, or the scope needs more batches.
    """
    require_spherical(measure, "the mass of an interval")
    check_confidence(confidence)
    check_scope(scope, measure.num_batches)
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
    low = [[max(0.0, y - x) for x, y in zip(*r, strict=True)] for r in zip(U_a, L_b, strict=True)]
    high = [[min(1.0, y - x) for x, y in zip(*r, strict=True)] for r in zip(L_a, U_b, strict=True)]
    zeros_inside = a <= 0 <= b if closed else a < 0 < b
    offset = measure.masked_fraction if zeros_inside else 0.0
    lower, upper, stderr = _interval(
        measure, batch_means(low), batch_means(high), scope, confidence, simultaneous
    )
    value = offset + (1 - measure.masked_fraction) * float(
        (batch_means(low).mean() + batch_means(high).mean()) / 2
    )
    share = 1 - measure.masked_fraction
    lower, upper = max(0.0, offset + share * lower), min(1.0, offset + share * upper)
    return Estimate(
        value=min(max(value, lower), upper),
        stderr=share * stderr,
        lower=lower,
        upper=upper,
        scope=scope,
        confidence=confidence,
        node_sum=node_sum(measure, a, b, closed=closed),
        note=_words(measure, a, b, lower, upper),
    )


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
    if scope == "population":
        level = 1 - (1 - confidence) / measure.dim_unmasked if simultaneous else confidence
        h_low, h_high = student_halfwidth(low, level), student_halfwidth(high, level)
        stderr = float(middle.std(ddof=1)) / math.sqrt(middle.size)
        return float(low.mean()) - h_low, float(high.mean()) + h_high, stderr
    probes = effective_runs(measure)
    h = probe_halfwidth(measure.dim_unmasked, probes, confidence, simultaneous=simultaneous)
    stderr = fraction_stderr(float(middle.mean()), measure.dim_unmasked, probes)
    return float(low.mean()) - h, float(high.mean()) + h, stderr


def effective_runs(measure: Measure) -> int:
    """Return P of the interval rule for the mean over batches of the means over their probes.

    With equal counts this is the number of runs; with unequal ones (an unfinished record) the
    variance proxy of the mean of means is that of B · min P_b runs at most.
    """
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


def resolving_steps(measure: Measure, a: float, b: float, width: float) -> int:
    """Return about how many steps would bring the band of [a, b] from `width` to 0.1.

    In a continuous stretch of the spectrum m steps resolve δx ≈ π √((x − λmin)(λmax − x))/m; an end
    is resolved once δx is a tenth of the interval, and from there the width falls like 1/m.
    """
    low, high = measure.span
    ends = [x for x in (a, b) if low < x < high]
    by_width = measure.steps * width / RESOLVED_WIDTH
    by_scale = max((math.pi * math.sqrt((x - low) * (high - x)) / (b - a) for x in ends), default=0)
    return min(measure.dim_unmasked, math.ceil(max(by_width, by_scale)))


def _words(measure: Measure, a: float, b: float, lower: float, upper: float) -> str:
    if upper - lower <= RESOLVED_WIDTH:
        return ""
    name = f"±{b:.3g}" if a == -b else f"[{a:.3g}, {b:.3g}]"
    text = (
        f"mass within {name}: between {lower:.2f} and {upper:.2f}, "
        f"not resolved with {measure.steps} steps"
    )
    need = resolving_steps(measure, a, b, upper - lower)
    if need > measure.steps:
        return f"{text}; about {_round_up(need):,} would"
    return f"{text}; more probes would" if measure.dim_unmasked < 10_000 else text


def _round_up(steps: int) -> int:
    unit = int(10 ** max(0, len(str(steps)) - 2))
    return -(-steps // unit) * unit
