"""Distribution functions of two records on one grid, and what is integrated or inverted over it.

The grid is symmetric about 0 and grows: cells where the bounds jump by much over a wide step are
split until the loss Σ Δx·(ΔL + ΔU) is a small part of the mean |λ|. Over a cell only values at its
ends are used, the bound at the end that is farther off, so every integral and every inverse is a
bound for any grid.

*Mean |λ|* that a probe sees is ∫ (1 − M(τ)) dτ, M(τ) the mass of |λ| ≤ τ. It lies between |α_1|
and √(α_1² + β_1²), and within the bounds by soft shares (spectra.quadrature.logarithmic), which are
far narrower as a rule.

*Effective rank* is (Σ|λ|)²/Σλ², sums over batches: as many eigenvalues of equal size would give
both sums. It does not change when the loss is rescaled. With m_1 and m_2 the means of |λ| and λ² it
is n m_1²/m_2 = n max_a (2a m_1 − a² m_2), the maximum over a of means of 2a|λ| − a²λ²; its ends are
the maxima of their ends (spectra.quadrature.tilting), once for all a as the tilted spectra that are
not refuted are a convex set.

*Quantiles of |λ|* are found by inverting the bounds of M, as in spectra.quadrature.quantiles.

Shapes: B batches, X points, T thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.optimize

from spectra.quadrature.estimates import probe_halfwidth
from spectra.quadrature.gauss import Floats
from spectra.quadrature.logarithmic import magnitude_bounds
from spectra.quadrature.mass import effective_runs, with_zeros
from spectra.quadrature.measure import Measure
from spectra.quadrature.population import population_interval
from spectra.quadrature.reading import Reading, Sums, run_bounds
from spectra.quadrature.tilting import Tilting

FIRST_POINTS = 30  # thresholds of the first grid
DECADES = 5
LOSS = 0.02  # of the mean |λ|: what the grid may cost an integral
MOST_POINTS = 500
ROUNDS = 8
PIECES = 10  # of the cells that hold a quantile
REACH = 4  # of ln a, about where the seen spectrum has its maximum
PRECISION = 0.01  # of a quantile: what is left to the grid without splitting


class Curves:
    """Bounds of the distribution functions of several measures on a common, growing grid.

    Attributes:
        x: Points, (X,), ascending, symmetric about 0, with 0.
    """

    def __init__(self, measures: Sequence[Measure], reach: float) -> None:
        """Begin with a logarithmic grid up to ±`reach` and refine it."""
        self.measures = list(measures)
        reach = max(reach, float(np.finfo(float).tiny) * 1e10)
        tau = reach * np.logspace(-DECADES, 0, FIRST_POINTS)
        self.x: Floats = np.empty(0)
        self._bounds: list[tuple[Floats, Floats]] = [
            (np.empty((m.num_batches, 0)),) * 2 for m in self.measures
        ]
        self.add(np.append(tau, 0.0))
        scale = min(max(_mean_magnitude(m), 1e-300) for m in self.measures)
        for _ in range(ROUNDS):
            loss = self._loss()
            room = (MOST_POINTS - self.x.size) // 2
            if loss.sum() <= LOSS * scale or room <= 0:
                break
            worst = np.argsort(-loss, kind="stable")[:room]
            wide = worst[loss[worst] > loss.mean() / 2]
            self.add((self.x[wide] + self.x[wide + 1]) / 2)

    def add(self, points: Floats) -> None:
        """Add points and their mirror images."""
        new = np.setdiff1d(np.concatenate([np.abs(points), -np.abs(points)]), self.x)
        if not new.size:
            return
        self.x = np.concatenate([self.x, new])
        order = np.argsort(self.x)
        self.x = self.x[order]
        for place, measure in enumerate(self.measures):
            fresh = _batch_bounds(measure, new)
            old = self._bounds[place]
            self._bounds[place] = (
                np.concatenate([old[0], fresh[0]], axis=1)[:, order],
                np.concatenate([old[1], fresh[1]], axis=1)[:, order],
            )

    def cdf(self, place: int) -> tuple[Floats, Floats]:
        """Return bounds of what probes of measure `place` see of Ψ(x), (B, X), unmasked block."""
        return self._bounds[place]

    def within(self, place: int) -> tuple[Floats, Floats, Floats]:
        """Return τ, (T,), from 0, and bounds of the mass of |λ| ≤ τ, (B, T), unmasked block."""
        L, U = self._bounds[place]
        zero = self.x.size // 2
        low = np.maximum(L[:, zero:] - U[:, zero::-1], 0.0)
        high = np.minimum(U[:, zero:] - L[:, zero::-1], 1.0)
        return self.x[zero:], *with_zeros(self.measures[place], low, high, inside=True)

    def _loss(self) -> Floats:
        means = [bound.mean(axis=0) for pair in self._bounds for bound in pair]
        loss: Floats = np.diff(self.x) * np.abs(np.diff(means, axis=1)).sum(axis=0)
        return loss


def _batch_bounds(measure: Measure, x: Floats) -> tuple[Floats, Floats]:
    """Return lower bounds of Ψ(x−) and upper bounds of Ψ(x), product error included, (B, X)."""
    low, high = [], []
    points = np.concatenate([x - measure.delta, x + measure.delta])
    for row in measure.runs:
        bounds = [run_bounds(run, points) for run in row]
        low.append(np.mean([pair[0][: x.size] for pair in bounds], axis=0))
        high.append(np.mean([pair[1][x.size :] for pair in bounds], axis=0))
    return np.array(low), np.array(high)


def _mean_magnitude(measure: Measure) -> float:
    """Return mean |λ| of the nodes: a scale, no estimate."""
    return float(np.mean([np.abs(x) @ w for x, w in measure.nodes_and_weights()]))


def mean_magnitude(curves: Curves, place: int, sums: Sums) -> tuple[Floats, Floats]:
    """Return bounds of mean |λ| as the probes see it, (B,), unmasked block."""
    tau, low, high = curves.within(place)
    steps, d = np.diff(tau), sums.measure.delta
    least, most = (1 - high[:, 1:]) @ steps, (1 - low[:, :-1]) @ steps
    pairs = [[magnitude_bounds(run, d) for run in row] for row in sums.measure.runs]
    seen = np.array([np.mean(row, axis=0) for row in pairs])
    least, most = np.maximum(least, seen[:, 0]), np.minimum(most, seen[:, 1])
    return np.maximum(least, np.abs(sums.first) - d), np.minimum(most, np.sqrt(sums.second) + d)


def effective_rank(curves: Curves, place: int, sums: Sums, risk: float) -> Reading:
    """Return (Σ|λ|)²/Σλ², the sums over all batches.

    No number of eigenvalues in one operator is below 1, so that over B operators none is below 1/B.
    """
    measure = sums.measure
    n = measure.dim_unmasked
    limits = (1 / measure.num_batches, float(n))
    square = float(sums.second.mean())
    if square <= 0:
        nothing = np.zeros(measure.num_batches)
        return Reading(0.0, nothing, nothing, limits=(0.0, limits[1]))
    low, high = mean_magnitude(curves, place, sums)

    def rank(magnitude: Floats) -> tuple[float, Floats]:
        mean = max(float(magnitude.mean()), 1e-300)
        value = n * mean * (mean / square)
        return value, value * (2 * magnitude / mean - sums.second / square)

    (least, lows), (most, highs) = rank(low), rank(high)
    product = most * 2 * measure.delta / math.sqrt(square)
    if measure.exact:
        return Reading(math.sqrt(least * most), lows - product, highs + product, limits=limits)
    tilting = sums.tilting(risk)
    seen = float(np.abs(tilting.seen.x) @ tilting.seen.weights)
    lower, upper = (n * end for end in _ratio(tilting, seen, square))
    lower *= (float(low.mean()) / seen) ** 2  # the nodes' mean |λ| is one of those possible
    upper *= (float(high.mean()) / seen) ** 2
    ends = lows - product, highs + product
    random = (least - lower, upper - most)
    return Reading(math.sqrt(least * most), *ends, random, product, limits=limits)


def _ratio(tilting: Tilting, mean: float, square: float) -> tuple[float, float]:
    """Return ends of (mean |λ|)²/mean λ² over all eigenvalues, given both as they are seen."""

    def end(side: int) -> float:
        def negative(exponent: float) -> float:
            a = math.exp(exponent) * mean / square

            def f(x: Floats) -> Floats:
                size = a * np.abs(x)
                values: Floats = side * (2 - size) * size
                return values

            return -side * tilting.upper(f)

        tried = np.linspace(-REACH, REACH, 2 * REACH + 1)
        best = float(tried[int(np.argmin([negative(x) for x in tried.tolist()]))])
        around = (best - 1, best + 1)
        found = scipy.optimize.minimize_scalar(
            negative, bounds=around, method="bounded", options={"xatol": 1e-2}
        )
        return -float(found.fun)

    return max(end(-1), 0.0), end(1)


def quantiles(
    curves: Curves, place: int, levels: Sequence[float], scope: str, risk: float
) -> list[Reading]:
    """Return quantiles of |λ| of the mean spectrum over batches, or over the population.

    A quantile is no mean over batches, so that pairing does not narrow its difference.
    """
    tau, bands = _mass_curves(curves, place, scope, risk)
    cells = np.array(sorted({_crossing(band, p) for band in bands for p in levels}))
    cells = cells[(cells > 0) & (cells < tau.size)]
    widths = (tau[cells] - tau[cells - 1])[:, None]
    cut = widths[:, 0] > PRECISION * tau[cells]  # split those that hold the ends
    points = tau[cells - 1][:, None] + widths * (np.arange(1, PIECES) / PIECES)
    curves.add(points[cut].ravel())
    tau, (upper, high, middle, low, lower) = _mass_curves(curves, place, scope, risk)
    found = []
    for p in levels:
        first, inner = (_below(tau, _crossing(band, p)) for band in (upper, high))
        outer, last = (_at(tau, _crossing(band, p)) for band in (low, lower))
        value = _at(tau, _crossing(middle, p))
        random = (max(inner - first, 0.0), max(last - outer, 0.0))
        ends, limits = (np.array([inner]), np.array([outer])), (0.0, math.inf)
        found.append(Reading(value, *ends, random, paired=False, limits=limits))
    return found


def _mass_curves(
    curves: Curves, place: int, scope: str, risk: float
) -> tuple[Floats, list[Floats]]:
    """Return τ and five curves of the mass of |λ| ≤ τ, from the highest to the lowest, (T,)."""
    measure = curves.measures[place]
    tau, low, high = curves.within(place)
    f = measure.masked_fraction
    L, U = low.mean(axis=0), high.mean(axis=0)
    h = probe_halfwidth(measure.dim_unmasked, effective_runs(measure), 1 - risk)
    lower, upper = L - h, U + h
    if scope == "population":
        lower, upper = population_interval(low, high, 1 - risk, (lower, upper), shares=True)
        lower, upper = (np.maximum.accumulate(end) for end in (lower, upper))
    curves_seen = [upper, U, (L + U) / 2, L, lower]
    return tau, [f + (1 - f) * np.clip(curve, 0.0, 1.0) for curve in curves_seen]


def _crossing(curve: Floats, p: float) -> int:
    """Return the first index at which the curve has reached p; its length if it never does."""
    reached = np.flatnonzero(curve >= p)
    return int(reached[0]) if reached.size else curve.size


def _below(tau: Floats, index: int) -> float:
    """Return the end of the cell before `index`: no crossing is nearer to zero."""
    return float(tau[max(index - 1, 0)]) if index else 0.0


def _at(tau: Floats, index: int) -> float:
    return float(tau[min(index, tau.size - 1)])
