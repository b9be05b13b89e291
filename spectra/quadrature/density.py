"""Smoothed densities, with a bandwidth that says no more than was resolved.

A density is drawn from nodes and weights by giving node θ_j a Gaussian of width σ_j. m Lanczos
steps cannot tell where inside a gap between neighbouring nodes the mass lies, but they do know that
an eigenvalue lies within the Ritz residual of θ_j. So by default

    σ_j = max(min(half the mean gap to the neighbours, residual_j), δ, a pixel of the plot),

wide in the unresolved interior, narrow at isolated outliers. A number for `bandwidth` gives every
node that width, as other tools do. The density of log₁₀|λ| is smoothed in log₁₀|λ|; exact zeros
have no logarithm and are left out, so it integrates to the share of eigenvalues that are drawn.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UsageError
from spectra.quadrature.gauss import Floats
from spectra.quadrature.measure import Measure, Run
from spectra.quadrature.outliers import corrected_weights

PIXELS = 1000  # resolution of a plot: no bandwidth below the span over this
NARROWEST = 1e-100  # of a spectrum that is one point: its density, 1e100, fits any log axis


def density(
    measure: Measure,
    grid: NDArray[np.float64],
    *,
    bandwidth: float | None = None,
    correct_outliers: bool = True,
) -> Floats:
    """Return the density of the eigenvalues at `grid`, (G,), in 1/units of λ; mean over runs.

    Masked coordinates are exact zeros, a point mass that no density shows: the result integrates
    to the unmasked share.
    """
    grid = np.asarray(grid, dtype=np.float64)
    _check_bandwidth(bandwidth)
    low, high = measure.span
    floor = max(measure.delta, (high - low) / PIXELS, NARROWEST)
    share = measure.dim_unmasked / measure.dim
    total = np.zeros_like(grid)
    for row in measure.runs:
        for run in row:
            weights = _weights(run, measure, correct_outliers)
            sigma = _bandwidths(run, floor) if bandwidth is None else bandwidth
            total += _smooth(run.rule.nodes, weights, sigma, grid)
    return share * total / measure.num_runs


def log_density(
    measure: Measure,
    grid: NDArray[np.float64],
    *,
    bandwidth: float | None = None,
    correct_outliers: bool = True,
) -> Floats:
    """Return the density of log₁₀|λ| at `grid` (values of log₁₀|λ|), (G,); mean over runs."""
    grid = np.asarray(grid, dtype=np.float64)
    _check_bandwidth(bandwidth)
    share = measure.dim_unmasked / measure.dim
    total = np.zeros_like(grid)
    for row in measure.runs:
        for run in row:
            nodes, weights = run.rule.nodes, _weights(run, measure, correct_outliers)
            drawn = np.abs(nodes) > measure.delta
            magnitude = np.abs(nodes[drawn])
            pixel = max(float(np.ptp(grid)) / PIXELS, 1e-12)
            if bandwidth is None:
                widths = _bandwidths(run, measure.delta)[drawn] / (magnitude * math.log(10))
                sigma: Floats | float = np.clip(widths, 5 * pixel, 0.5)
            else:
                sigma = bandwidth
            total += _smooth(np.log10(magnitude), weights[drawn], sigma, grid)
    return share * total / measure.num_runs


def _weights(run: Run, measure: Measure, correct: bool) -> Floats:
    if not correct:
        return run.rule.weights
    return corrected_weights(run, measure.dim_unmasked, measure.delta)


def _bandwidths(run: Run, floor: float) -> Floats:
    theta = run.rule.nodes
    if theta.size == 1:
        return np.array([max(float(run.rule.residuals[0]), floor)])
    gaps = np.diff(theta)
    around = np.empty_like(theta)
    around[1:-1] = (gaps[:-1] + gaps[1:]) / 2
    around[0], around[-1] = gaps[0], gaps[-1]
    widths: Floats = np.maximum(np.minimum(around / 2, run.rule.residuals), floor)
    return widths


def _smooth(nodes: Floats, weights: Floats, sigma: Floats | float, grid: Floats) -> Floats:
    sigmas = np.broadcast_to(np.asarray(sigma, dtype=np.float64), nodes.shape)
    result = np.zeros_like(grid)
    for node, weight, width in zip(nodes, weights, sigmas, strict=True):
        result += (
            weight / (width * math.sqrt(2 * math.pi)) * np.exp(-0.5 * ((grid - node) / width) ** 2)
        )
    return result


def _check_bandwidth(bandwidth: float | None) -> None:
    if bandwidth is not None and not (0 < bandwidth < math.inf):
        raise UsageError(f"bandwidth={bandwidth} must be a positive number in the units of λ.")
