"""Wasserstein-1 distance between the spectra of two records, bounded on both sides.

For one batch it is ∫ |Φ_B(x) − Φ_A(x)| dx, Φ the distribution functions of all eigenvalues, masked
zeros included exactly. With both known to lie in bands, l ≤ Φ ≤ u,

    ∫ max(0, l_B − u_A, l_A − u_B) dx  ≤  W₁  ≤  ∫ max(u_B − l_A, u_A − l_B) dx.

Over a cell [x_i, x_{i+1}] the lower bounds at its left and the upper bounds at its right end serve.
The bands are the sharp ones of a probe, x ± δ, widened by the Chernoff bound of masses
(spectra.quadrature.concentration) for all x, both sides and all batches at once: each batch has n
jumps. That bound is relative to the share of eigenvalues beyond x, so that it does not grow with
the range, which a few outliers may stretch. Beyond outer bounds of the extreme eigenvalues Φ is 0
or 1.

Shapes: B batches, X points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

from spectra.quadrature.concentration import share_at_least, share_at_most
from spectra.quadrature.curves import Curves
from spectra.quadrature.gauss import Floats
from spectra.quadrature.measure import Measure, Run
from spectra.quadrature.reading import SPENT

Edges = tuple[Floats, Floats]  # outer bounds of λmin and λmax by batch, (B,)


def edge_risk(risk: float) -> float:
    """Return the risk of one of the four outer bounds of a pair: all take SPENT/2 of `risk`."""
    return risk * SPENT / 8


def spectral_distance(curves: Curves, edges: Sequence[Edges], risk: float) -> tuple[Floats, Floats]:
    """Return bounds of the distance by batch, (B,).

    Args:
        curves: Of the two measures.
        edges: Outer bounds of their extreme eigenvalues.
        risk: Of the bands, all batches together; 0 for what the probes see.
    """
    (l_a, u_a), (l_b, u_b) = (_cells(curves, place, edges[place], risk) for place in (0, 1))
    widths = np.diff(curves.x)
    gap = np.maximum(np.maximum(l_b - u_a, l_a - u_b), 0.0)
    envelope = np.maximum(np.maximum(u_b - l_a, u_a - l_b), 0.0)
    return gap @ widths, envelope @ widths


def node_distance(a: Measure, b: Measure) -> float:
    """Return the distance between the quadratures of the nodes, mean over batches: no bound."""
    found = [
        _between(_pooled(a, first), _pooled(b, second))
        for first, second in zip(a.runs, b.runs, strict=True)
    ]
    return float(np.mean(found))


def _pooled(measure: Measure, row: tuple[Run, ...]) -> tuple[Floats, Floats]:
    """Return nodes and weights of one batch's probes together, masked zeros included."""
    share = measure.dim_unmasked / measure.dim
    nodes = np.concatenate([*(run.points[0] for run in row), [0.0]])
    weights = np.concatenate([run.points[1] for run in row]) * share / len(row)
    return nodes, np.append(weights, 1 - share)


def _between(a: tuple[Floats, Floats], b: tuple[Floats, Floats]) -> float:
    return float(scipy.stats.wasserstein_distance(a[0], b[0], a[1], b[1]))


def _cells(curves: Curves, place: int, edges: Edges, risk: float) -> tuple[Floats, Floats]:
    """Return bounds of Φ over every cell, (B, X − 1)."""
    measure, x = curves.measures[place], curves.x
    low, high = curves.cdf(place)
    if risk > 0:
        events = 2 * 2 * measure.num_batches * measure.dim_unmasked  # two records, two sides
        exponent = math.log(events / risk)
        counts = [measure.dim_unmasked * len(row) for row in measure.runs]
        low = np.array([share_at_least(v, n, exponent) for v, n in zip(low, counts, strict=True)])
        high = np.array([share_at_most(v, n, exponent) for v, n in zip(high, counts, strict=True)])
    left, right = x[None, :-1], x[None, 1:]
    lower = np.where(left >= edges[1][:, None], 1.0, low[:, :-1])
    upper = np.where(right < edges[0][:, None], 0.0, high[:, 1:])
    f = measure.masked_fraction
    zeros = np.where(left >= 0, f, 0.0)
    return zeros + (1 - f) * lower, zeros + (1 - f) * upper
