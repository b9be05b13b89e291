"""Mean |λ| and the log-determinant, from soft shares at all scales.

Both are integrals of 1 − S_1(s), S_1 the soft share of order 1 (spectra.quadrature.windows), over
the logarithm of the scale s:

    mean |λ| = (2/π) ∫₀^∞ (1 − S_1(s)) ds,
    (1/n) ln det(I + H²/τ²) = 2 ∫_τ^∞ (1 − S_1(s)) ds/s.

1 − S_1(s) = mean of λ²/(λ² + s²) is analytic in u = ln s for |Im u| < π/2, so that the Gauss–
Legendre rule with `POINTS` points on every unit of u is exact to about 1e-12 of each term. Its
weights are positive. Bounds of S_1 at its points therefore give bounds of the integral, however
rough they are in s. What is left out: below the first scale s_0 at most s_0; beyond the last scale
S at most mean λ²/S and mean λ²/S², mean λ² being known exactly from α_1 and β_1.

*Mean |λ|* has a sharp lower bound beside it: among all measures with the same coefficients the
Gauss–Radau rule with a node at 0 gives |λ| the least mean (its polynomial touches |λ| from below).

*Probes.* f ≥ 0 with maximum f(ρ), ρ a bound of the spectral radius: f/f(ρ) has values in [0, 1], so
that the interval of a share holds for it. A part of the risk is spent on ρ.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from spectra.errors import UsageError
from spectra.quadrature.concentration import share_interval
from spectra.quadrature.eigenvalues import Eigenvalues
from spectra.quadrature.estimates import (
    CONFIDENCE,
    Estimate,
    check_confidence,
    check_scope,
)
from spectra.quadrature.extremes import outer_bounds
from spectra.quadrature.gauss import Floats
from spectra.quadrature.mass import effective_runs
from spectra.quadrature.measure import LONG, Measure, Run, require_spherical
from spectra.quadrature.population import population_interval
from spectra.quadrature.radau import radau_rule

POINTS = 8  # Gauss–Legendre points on a unit of ln s
DOWN, UP = 1e-9, 1e5  # scales, in units of the largest coefficient
SPENT = 0.1  # of the risk, on the bound of the spectral radius
Bounds = Callable[[Run, float], tuple[float, float]]


def mean_magnitude(
    measure: Measure, *, scope: str = "batches", confidence: float = CONFIDENCE
) -> Estimate:
    """Return the mean of |λ| over all eigenvalues, in units of λ."""
    return _functional(measure, magnitude_bounds, lambda radius: radius, scope, confidence)


def log_determinant(
    measure: Measure, tau: float, *, scope: str = "batches", confidence: float = CONFIDENCE
) -> Estimate:
    """Return (1/n) ln det(I + H²/τ²), a mean over eigenvalues.

    Raises:
        UsageError: If τ is not positive, the probes are not spherical, or the scope needs more
            batches.
    """
    if not 0 < tau < math.inf:
        raise UsageError(f"tau={tau:g} is not a threshold; pass a positive number.")

    def bounds(run: Run, delta: float) -> tuple[float, float]:
        return determinant_bounds(run, tau, delta)

    def largest(radius: float) -> float:
        ratio = radius / tau
        return float(np.log1p(ratio**2)) if ratio < 1e100 else 2 * math.log(ratio)

    return _functional(measure, bounds, largest, scope, confidence)


def magnitude_bounds(run: Run, delta: float) -> tuple[float, float]:
    """Return bounds of the mean |λ| that the probe of one run sees, product error δ included."""
    if isinstance(run, Eigenvalues):
        return max(run.magnitude() - delta, 0.0), run.magnitude() + delta
    scale, second = _scale(run), float(run.alphas[0] ** 2 + run.betas[0] ** 2)
    if scale == 0.0:
        return 0.0, delta
    first, last = DOWN * scale, UP * scale
    s, weights = _nodes(first, last)
    low, high = _shares(run, s, delta)
    least = 2 / math.pi * float(weights @ (s * (1 - high)))
    most = 2 / math.pi * (float(weights @ (s * (1 - low))) + first + second / last)
    root = math.sqrt(second) + delta
    if run.alphas.size <= LONG:
        nodes, omega, _ = radau_rule(run.alphas, run.betas, 0.0)
        moved = 2 / math.pi * delta * (1 + math.log(max(last / delta, 1.0))) if delta > 0 else 0.0
        least = max(least, float(omega @ np.abs(nodes)) - moved)
    least = max(least, abs(float(run.alphas[0])) - delta, 0.0)
    return least, max(min(most, root), least)


def determinant_bounds(run: Run, tau: float, delta: float) -> tuple[float, float]:
    """Return bounds of ∫ ln(1 + λ²/τ²) dΨ that the probe of one run sees, δ included."""
    if isinstance(run, Eigenvalues):
        value = run.log_determinant(tau)  # |d ln(1 + λ²/τ²)/dλ| ≤ 1/τ
        return max(value - delta / tau, 0.0), value + delta / tau
    scale, second = _scale(run), float(run.alphas[0] ** 2 + run.betas[0] ** 2)
    last = UP * max(scale, tau)
    s, weights = _nodes(tau, last)
    low, high = _shares(run, s, delta)
    tail = (math.sqrt(second) + delta) / last
    return 2 * float(weights @ (1 - high)), 2 * float(weights @ (1 - low)) + tail**2


def _functional(
    measure: Measure,
    bounds: Bounds,
    largest: Callable[[float], float],
    scope: str,
    confidence: float,
) -> Estimate:
    require_spherical(measure, "a functional of the whole spectrum")
    check_confidence(confidence)
    check_scope(scope, measure.num_batches)
    low, high = mean_bounds(measure, bounds)
    share = 1 - measure.masked_fraction
    value = share * float((low + high).mean()) / 2
    lower, upper, stderr = _batches(measure, low, high, largest, 1 - confidence)
    if scope == "population":
        middle = (low + high) / 2
        stderr = float(middle.std(ddof=1)) / math.sqrt(middle.size)
        lower, upper = map(float, population_interval(low, high, confidence, (lower, upper)))
    lower, upper = share * max(lower, 0.0), share * upper
    return Estimate(value, share * stderr, lower, upper, scope, confidence)


def _batches(
    measure: Measure, low: Floats, high: Floats, largest: Callable[[float], float], risk: float
) -> tuple[float, float, float]:
    """Return the interval for the batches used and the standard error, of the unmasked block."""
    radius = max(max(outer_bounds(measure, side, risk * SPENT / 2)) for side in (-1, 1))
    top = largest(radius) if math.isfinite(radius) else math.inf
    if top <= 0:
        return float(low.mean()), float(high.mean()), 0.0
    if not math.isfinite(top):
        return 0.0, math.inf, math.inf
    probes = effective_runs(measure)
    ends = share_interval(
        np.array([low.mean() / top]),
        np.array([high.mean() / top]),
        measure.dim_unmasked,
        probes,
        1 - risk * (1 - SPENT),
    )
    middle = float((low + high).mean()) / 2
    stderr = math.sqrt(2 * middle * top / ((measure.dim_unmasked + 2) * probes))
    return top * float(ends[0][0]), top * float(ends[1][0]), stderr


def mean_bounds(measure: Measure, bounds: Bounds) -> tuple[Floats, Floats]:
    """Return the mean bounds over the probes of each batch, two (B,), unmasked block."""
    pairs = [[bounds(run, measure.delta) for run in row] for row in measure.runs]
    low = np.array([np.mean([pair[0] for pair in row]) for row in pairs])
    high = np.array([np.mean([pair[1] for pair in row]) for row in pairs])
    return low, high


def _scale(run: Run) -> float:
    return max(float(np.abs(run.alphas).max()), float(run.betas.max()))


def _nodes(first: float, last: float) -> tuple[Floats, Floats]:
    """Return scales s and weights of ∫ du, u = ln s from `first` to `last`."""
    begin, end = math.log(first), math.log(last)
    cells = max(math.ceil(end - begin), 1)
    x, w = np.polynomial.legendre.leggauss(POINTS)
    half = (end - begin) / cells / 2
    middles = begin + half * (2 * np.arange(cells) + 1)
    return np.exp((middles[:, None] + half * x).ravel()), np.tile(half * w, cells)


def _shares(run: Run, s: Floats, delta: float) -> tuple[Floats, Floats]:
    low, high = run.windows(s, 1)
    return np.maximum(low - delta / s, 0.0), np.minimum(high + delta / s, 1.0)
