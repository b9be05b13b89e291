"""A histogram whose bins are as wide as the run must have them, with a proven interval for each.

The share of eigenvalues between two points is bounded by the sharp bounds of the distribution
function (spectra.quadrature.radau) at both, moved outward by δ, and by the probes' error of a share
(spectra.quadrature.concentration) for every interval at once: N jumps make N(N + 1)/2 of them. Bins
begin as cells of a grid. From either end toward zero each is widened until its share is told: its
upper end at most `FACTOR` times its lower one. What is left around zero is one bin. So an interior
that few steps resolve is one wide bin, and a tail of a few eigenvalues, whose weight one probe
hardly knows, is another.

Masked coordinates are exact zeros, a point mass that no density shows; shares are of all
coordinates, and sum to the unmasked share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectra.quadrature.concentration import share_interval
from spectra.quadrature.estimates import CONFIDENCE, check_confidence
from spectra.quadrature.gauss import Floats
from spectra.quadrature.mass import effective_runs
from spectra.quadrature.measure import Measure, require_spherical
from spectra.quadrature.reading import run_bounds

FACTOR = 3.0


@dataclass(frozen=True)
class Histogram:
    """Shares of eigenvalues in bins.

    Attributes:
        edges: Ends of the bins, (K + 1,), in units of λ.
        lower: Lower ends of the shares, (K,).
        upper: Upper ends, (K,).
        told: Whether a bin's share is known to a factor of `FACTOR`, (K,).
        confidence: Of all bins at once.
    """

    edges: Floats
    lower: Floats
    upper: Floats
    told: np.ndarray
    confidence: float

    @property
    def density(self) -> tuple[Floats, Floats]:
        """Lower and upper ends of the mean density in each bin, per unit of λ, (K,) each."""
        widths = np.diff(self.edges)
        return self.lower / widths, self.upper / widths


def resolved_histogram(
    measure: Measure, grid: Floats, *, confidence: float = CONFIDENCE
) -> Histogram:
    """Return the histogram on the narrowest bins of `grid`, (X,) ascending, that the run can tell.

    Raises:
        UsageError: If the probes are not spherical.
    """
    require_spherical(measure, "a histogram with intervals")
    check_confidence(confidence)
    x = np.asarray(grid, dtype=np.float64)
    low, high = _bounds(measure, x - measure.delta), _bounds(measure, x + measure.delta)
    jumps = float(measure.dim_unmasked * measure.num_batches)
    events = jumps * (jumps + 1) / 2

    def shares(first: np.ndarray, last: np.ndarray) -> tuple[Floats, Floats]:
        least = np.maximum(low[0][last] - high[1][first], 0.0)
        most = np.clip(high[1][last] - low[0][first], 0.0, 1.0)
        runs, n = effective_runs(measure), measure.dim_unmasked
        return share_interval(np.minimum(least, most), most, n, runs, confidence, events=events)

    def told(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        lower, upper = shares(first, last)
        return np.flatnonzero(upper <= FACTOR * lower)

    centre = int(np.argmin(np.abs(x)))
    left, right = [0], [x.size - 1]
    while (ends := np.arange(left[-1] + 1, centre + 1)).size:
        known = told(np.full_like(ends, left[-1]), ends)
        if not known.size:
            break
        left.append(int(ends[known[0]]))
    while (starts := np.arange(right[-1] - 1, centre - 1, -1)).size:
        known = told(starts, np.full_like(starts, right[-1]))
        if not known.size:
            break
        right.append(int(starts[known[0]]))
    edges = np.unique([*left, *right])
    lowers, uppers = shares(edges[:-1], edges[1:])
    found = uppers <= FACTOR * lowers
    share = 1 - measure.masked_fraction
    return Histogram(x[edges], share * lowers, share * uppers, found, confidence)


def _bounds(measure: Measure, x: Floats) -> tuple[Floats, Floats]:
    """Return the mean over batches of the bounds of Ψ(x−) and Ψ(x), each (X,)."""
    means = []
    for row in measure.runs:
        pairs = [run_bounds(run, x) for run in row]
        means.append(np.mean(pairs, axis=0))
    found: Floats = np.mean(means, axis=0)
    return found[0], found[1]
