"""Outliers: eigenvalues that Lanczos has isolated, and their weights set to multiplicity/n.

The weight a single probe gives to one of n eigenvalues is χ²_1/n: its relative error is √2 however
large n is, so the height of an outlier's peak in a log-scale density is noise. Where a Ritz value
has converged and stands alone its share is known without any probe: multiplicity/n
(variance-reduced SLQ, Bhattacharjee et al., arXiv 2410.21690). The remaining weights are scaled so
that the total stays 1. What is known so is one copy: the weight of an atom, many equal eigenvalues,
is seen as well as any share of the bulk and no better, and is left with the bulk.

Copies of a converged Ritz value (ghosts, when orthogonality is not kept) are one cluster. A single
probe cannot see multiplicity: it is taken as 1 unless the cluster's weight, n·w ~ χ²₁, is too
large for that, and then as n·w rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats

from spectra.quadrature.gauss import Floats
from spectra.quadrature.measure import Measure, Run

ALONE = 1e-2  # largest residual of an isolated Ritz value, in units of the gap to its neighbours
IMPLAUSIBLE = 1e-3  # probability below which the observed weight is not that of multiplicity 1


@dataclass(frozen=True)
class Outlier:
    """One isolated eigenvalue.

    Attributes:
        value: The eigenvalue.
        multiplicity: 1, or what its weight says where that is far too large for 1.
        nodes: Its nodes in the run it came from.
        residual: Residual norm of the Ritz value: an eigenvalue lies that near.
        gap: Distance to the nearest other node.
    """

    value: float
    multiplicity: int
    nodes: tuple[int, ...]
    residual: float = 0.0
    gap: float = np.inf


def find_outliers(run: Run, dim: int, delta: float) -> list[Outlier]:
    """Return the isolated, converged eigenvalues of one run, in ascending order."""
    theta, residuals = run.rule.nodes, run.rule.residuals
    found = []
    groups = _clusters(theta, 2 * delta)
    for place, group in enumerate(groups):
        left = theta[group[0]] - theta[groups[place - 1][-1]] if place else np.inf
        right = (
            theta[groups[place + 1][0]] - theta[group[-1]] if place + 1 < len(groups) else np.inf
        )
        gap = float(min(left, right))
        if np.isfinite(gap) and residuals[group].min() + delta <= ALONE * gap:
            weights = run.rule.weights[group]
            value = float(theta[group] @ weights / weights.sum())
            observed = dim * float(weights.sum())
            multiplicity = 1
            if scipy.stats.chi2.sf(observed, 1) < IMPLAUSIBLE:
                multiplicity = max(1, round(observed))
            residual = float(residuals[group].min())
            found.append(Outlier(value, multiplicity, tuple(group), residual, gap))
    return found


def corrected_weights(run: Run, dim: int, delta: float) -> Floats:
    """Return the weights of one run, (m,), with that of every single outlier 1/dim."""
    weights = run.rule.weights.copy()
    single = [o for o in find_outliers(run, dim, delta) if o.multiplicity == 1]
    taken = np.zeros(weights.size, dtype=bool)
    for outlier in single:
        taken[list(outlier.nodes)] = True
    bulk, rest = float(weights[~taken].sum()), 1 - len(single) / dim
    if not single or rest < 0 or (bulk <= 0 and len(single) < dim):
        return weights
    for outlier in single:
        inside = list(outlier.nodes)
        weights[inside] *= 1 / dim / float(weights[inside].sum())
    if bulk > 0:
        weights[~taken] *= rest / bulk
    return weights


def pooled_outliers(measure: Measure) -> list[tuple[float, int]]:
    """Return (value, multiplicity) of the outliers of the first operator's first run."""
    run = measure.runs[0][0]
    return [
        (o.value, o.multiplicity) for o in find_outliers(run, measure.dim_unmasked, measure.delta)
    ]


def _clusters(theta: Floats, tolerance: float) -> list[list[int]]:
    groups: list[list[int]] = [[0]]
    for index in range(1, theta.size):
        if theta[index] - theta[index - 1] <= tolerance:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
