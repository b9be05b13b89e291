"""`Reading`: one quantity of one record, batch by batch, so that two records can be paired.

A quantity is given by bounds low_b ≤ high_b for every batch b, whose means bound the quantity as
far as resolution goes, and by what the probes add to the interval of the batches used. Quantities
that are not means over batches (a root, a ratio) are linearized about their means, so that the mean
of the bounds is the quantity itself and their spread is that of its error over batches.

The interval of a sum over eigenvalues is that of spectra.quadrature.tilting; the interval over data
that of spectra.quadrature.population, which is never narrower than that for the batches used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from spectra.quadrature.concentration import share_interval
from spectra.quadrature.estimates import (
    Estimate,
    batch_means,
    probe_halfwidth,
)
from spectra.quadrature.extremes import outer_bounds
from spectra.quadrature.gauss import Floats
from spectra.quadrature.logarithmic import magnitude_bounds, mean_bounds, mean_magnitude
from spectra.quadrature.mass import effective_runs, with_zeros
from spectra.quadrature.measure import Measure, Run
from spectra.quadrature.population import population_interval
from spectra.quadrature.soft import DEFAULT_ORDER, soft_bounds
from spectra.quadrature.tilting import Tilting

FAR = 100.0  # in units of the largest coefficient; Ritz values are within 3
SPENT = 0.1  # of the population's risk, on the outer bounds that its batch values rest on


@dataclass(frozen=True)
class Reading:
    """A quantity of one record.

    Attributes:
        value: The number shown.
        low: Lower bounds by batch, (B,), resolution included; (1,) if `paired` is False.
        high: Upper bounds.
        random: What probes add below and above; over the population, batches where not `paired`.
        product: Of the distance between bounds, what is product error, each side.
        paired: Whether batches of two records may be subtracted one by one.
        spent: Share of the risk that the bounds themselves have taken, over the population.
        limits: Between which the quantity lies whatever is measured.
        shares: Whether it is a share, in [0, 1].
    """

    value: float
    low: Floats
    high: Floats
    random: tuple[float, float] = (0.0, 0.0)
    product: float = 0.0
    paired: bool = True
    spent: float = 0.0
    limits: tuple[float, float] = (-math.inf, math.inf)
    shares: bool = False

    def estimate(self, scope: str, risk: float) -> Estimate:
        """Return the quantity with its interval."""
        lower = float(self.low.mean()) - self.random[0]
        upper = float(self.high.mean()) + self.random[1]
        if scope == "population" and self.paired:
            level = 1 - risk * (1 - self.spent)
            ends = population_interval(
                self.low, self.high, level, (lower, upper), shares=self.shares
            )
            lower, upper = map(float, ends)
        lower, upper = max(lower, self.limits[0]), min(upper, self.limits[1])
        value = min(max(self.value, lower), upper)
        return Estimate(value, math.nan, lower, upper, scope, 1 - risk)


class Sums:
    """Sums over eigenvalues that Gauss quadrature knows, and the intervals of sums.

    Attributes:
        measure: What was measured.
        first: Mean λ seen in every batch, (B,), unmasked block.
        second: Mean λ² seen in every batch, (B,), unmasked block.
    """

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.first, self.second = (
            batch_means(measure.per_run(partial(_moment, power=power))) for power in (1, 2)
        )
        self._tiltings: dict[float, Tilting] = {}

    def tilting(self, risk: float) -> Tilting:
        """Return what gives the intervals of means over eigenvalues at `risk`."""
        if risk not in self._tiltings:
            self._tiltings[risk] = Tilting(self.measure, risk)
        return self._tiltings[risk]


def _moment(run: Run, power: int) -> float:
    return run.moment(power)


def ritz_norms(measure: Measure) -> Floats:
    """Return the largest |Ritz value| of every batch, (B,)."""
    low, high = ritz_ends(measure)
    return np.maximum(-low, high)


def ritz_ends(measure: Measure) -> tuple[Floats, Floats]:
    """Return the smallest and the largest Ritz value of every batch, (B,); masked zeros count."""
    pairs = [[run.ends for run in row] for row in measure.runs]
    low = np.array([min(low.node for low, _ in row) for row in pairs])
    high = np.array([max(high.node for _, high in row) for row in pairs])
    if measure.masked_fraction > 0:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    return low, high


def rms(sums: Sums, risk: float) -> Reading:
    """Return √(mean λ²); a product error δ moves it by at most δ (Hoffman & Wielandt)."""
    measure = sums.measure
    share = measure.dim_unmasked / measure.dim
    squares = share * sums.second
    mean = float(squares.mean())
    root = math.sqrt(mean)
    values = root + (squares - mean) / (2 * root) if root > 0 else np.zeros_like(squares)
    both = sums.tilting(risk).interval(np.square)
    least, most = (math.sqrt(share * max(end, 0.0)) for end in both)
    product = math.sqrt(share) * measure.delta
    ends = values - product, values + product
    return Reading(root, *ends, (root - least, most - root), product, limits=(0.0, math.inf))


def trace(sums: Sums, risk: float) -> Reading:
    """Return tr H."""
    measure, n = sums.measure, sums.measure.dim_unmasked
    least, most = (n * end for end in sums.tilting(risk).interval(np.asarray))
    values, product = n * sums.first, n * measure.delta
    value = float(values.mean())
    ends = values - product, values + product
    return Reading(value, *ends, (value - least, most - value), product)


def extreme(measure: Measure, side: int, scope: str, risk: float) -> Reading:
    """Return λmax (`side` = 1), λmin (−1) or the spectral norm (0), of every batch and averaged."""
    population = scope == "population"
    outer = risk * SPENT if population else risk
    low, high = ritz_ends(measure)
    if side == 0:
        near = ritz_norms(measure)
        far = np.maximum(*(np.array(outer_bounds(measure, s, outer / 2)) for s in (-1, 1)))
        inner = np.maximum(near - measure.delta - measure.ritz_error, 0.0)
        values = near
    else:
        values = high if side > 0 else low
        far = side * np.array(outer_bounds(measure, side, outer))
        inner = values - side * (measure.delta + measure.ritz_error)
    ends = np.minimum(inner, far), np.maximum(inner, far)
    return Reading(float(values.mean()), *ends, spent=SPENT if population else 0.0)


def run_bounds(run: Run, x: Floats) -> tuple[Floats, Floats]:
    """Return the sharp bounds L ≤ Ψ_v(x−) ≤ Ψ_v(x) ≤ U of one run at any x, ±∞ too; each (X,).

    Beyond every Ritz value one of the two is 0 or 1 and the other slack, so that the bounds of a
    point `FAR` out serve all points farther off, where their quadrature would lose its accuracy.
    """
    if run.exact:
        return run.bounds(x)
    scale = max(float(np.abs(run.alphas).max()), float(run.betas.max()))
    far = FAR * scale if scale > 0 else 1.0
    return run.bounds(np.clip(x, -far, far))


def interval_masses(measure: Measure, a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return bounds of the masses in [a, b] by batch, (B, X), unmasked block; a may be −inf."""
    d, X = measure.delta, a.size
    points = np.concatenate([a - d, a + d, b - d, b + d])
    low = np.empty((measure.num_batches, X))
    high = np.empty_like(low)
    for place, row in enumerate(measure.runs):
        bounds = [run_bounds(run, points) for run in row]
        L = np.array([pair[0] for pair in bounds])
        U = np.array([pair[1] for pair in bounds])
        before = np.where(np.isneginf(a), 0.0, U[:, X : 2 * X])
        low[place] = np.maximum(L[:, 2 * X : 3 * X] - before, 0.0).mean(axis=0)
        high[place] = np.minimum(U[:, 3 * X :] - L[:, :X], 1.0).mean(axis=0)
    return low, high


def masses(measure: Measure, a: Floats, b: Floats, risk: float, *, zeros: bool) -> list[Reading]:
    """Return the shares of eigenvalues in each [a, b], (X,); `zeros`: masked ones are inside."""
    low, high = interval_masses(measure, a, b)
    low, high = with_zeros(measure, low, high, inside=zeros)
    share = 1 - measure.masked_fraction
    offset = measure.masked_fraction if zeros else 0.0
    h = share * probe_halfwidth(measure.dim_unmasked, effective_runs(measure), 1 - risk)
    proven = share * float(measure.proven_zeros.mean())
    limits = (offset + proven, offset + share) if zeros else (offset, offset + share - proven)
    found = []
    for L, U in zip(offset + share * low.T, offset + share * high.T, strict=True):
        middle = float(L.mean() + U.mean()) / 2
        found.append(Reading(middle, L, U, (h, h), limits=limits, shares=True))
    return found


def soft_share(measure: Measure, tau: float, risk: float, *, unmasked: bool = False) -> Reading:
    """Return the soft share of order 2 at `tau`, of all coordinates or of the unmasked ones."""
    low, high = (end[:, 0] for end in soft_bounds(measure, np.array([tau]), DEFAULT_ORDER))
    f = 0.0 if unmasked else measure.masked_fraction
    zeros = measure.proven_zeros
    lower, upper = share_interval(
        np.array([low.mean()]),
        np.array([high.mean()]),
        measure.dim_unmasked,
        effective_runs(measure),
        1 - risk,
    )
    random = float(low.mean() - lower[0]), float(upper[0] - high.mean())
    low, high = np.maximum(low, zeros), np.maximum(high, zeros)
    product = (1 - f) * DEFAULT_ORDER * measure.delta / tau
    limits = f + (1 - f) * float(zeros.mean()), 1.0
    ends = f + (1 - f) * low, f + (1 - f) * high
    middle = float(ends[0].mean() + ends[1].mean()) / 2
    added = (1 - f) * random[0], (1 - f) * random[1]
    return Reading(middle, *ends, added, min(product, 1.0), limits=limits, shares=True)


def mean_size(measure: Measure, risk: float) -> Reading:
    """Return the mean of |λ|."""
    share = measure.dim_unmasked / measure.dim
    low, high = mean_bounds(measure, magnitude_bounds)
    whole = mean_magnitude(measure, confidence=1 - risk)
    ends = share * low, share * high
    random = max(float(ends[0].mean()) - whole.lower, 0.0), whole.upper - float(ends[1].mean())
    middle = float(ends[0].mean() + ends[1].mean()) / 2
    return Reading(middle, *ends, random, min(measure.delta, middle), limits=(0.0, math.inf))
