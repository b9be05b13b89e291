"""How many Lanczos steps bring a share to a given width: an estimate from the run's own decay.

*Soft shares.* The width w_k of the bounds after k steps (spectra.quadrature.windows) falls
exponentially. The slope of ln w_k between k = 3m/4 and k = m is carried on:

    m + (m/4)·ln(w_m/target)/ln(w_{3m/4}/w_m).

*Sharp shares.* The width at an end x is the Christoffel number 1/Σ_{j≤k} p_j(x)², whose inverse
grows by a constant a step once the steps resolve the spectrum around x. The increase of the inverse
between 3m/4 and m is carried on in the same way. Before the run resolves the scale of the interval
itself the inverse grows more slowly than it will, and the estimate errs to the safe side.

Both are estimates, printed as such, and end at the dimension, where every share is known.
"""

from __future__ import annotations

import math

import numpy as np

from spectra.quadrature.gauss import Floats
from spectra.quadrature.measure import Measure, Run
from spectra.quadrature.weyl import Complexes, christoffel_decay

OFF_AXIS = 1e-9  # in units of the largest coefficient: keeps Ritz values from dividing by zero


def soft_steps(measure: Measure, tau: float, order: int, target: float) -> int | None:
    """Return about how many steps give the soft share at τ bounds of width `target`.

    None where no number of steps does: product errors alone are wider.
    """
    room = target - 2 * order * measure.delta / tau
    if room <= 0:
        return None
    pairs = [_soft(run, tau, order) for row in measure.runs for run in row]
    before, now = (float(np.mean([pair[place] for pair in pairs])) for place in (0, 1))
    return _bounded(measure, _exponential(measure.steps, before, now, room))


def sharp_steps(measure: Measure, a: float, b: float, target: float) -> int | None:
    """Return about how many steps give the share of [a, b] resolution bounds of width `target`."""
    if target <= 0 or not a < b:
        return None
    if measure.exact:
        return measure.steps
    pairs = [_sharp(run, a, b) for row in measure.runs for run in row]
    before, now = (float(np.mean([pair[place] for pair in pairs])) for place in (0, 1))
    if now <= target:
        return measure.steps
    m = measure.steps
    slope = (1 / now - 1 / before) / max(m - _before(m), 1)
    if slope <= 0:
        return _bounded(measure, math.inf)
    return _bounded(measure, m + (1 / target - 1 / now) / slope)


def _soft(run: Run, tau: float, order: int) -> tuple[float, float]:
    m = run.alphas.size
    halves = run.window_widths(np.array([tau]), order, [_before(m), m])
    return float(halves[0][0]), float(halves[1][0])


def _sharp(run: Run, a: float, b: float) -> tuple[float, float]:
    m = run.alphas.size
    scale = max(float(np.abs(run.alphas).max()), float(run.betas.max()))
    ends: Floats = np.array([x for x in (a, b) if math.isfinite(x)])
    points: Complexes = ends + np.complex128(1j) * OFF_AXIS * scale
    halves = christoffel_decay(run.alphas, run.betas, points, [_before(m), m])
    return float(halves[0].sum()), float(halves[1].sum())


def _before(m: int) -> int:
    return max(3 * m // 4, 1)


def _exponential(m: int, before: float, now: float, target: float) -> float:
    if now <= target:
        return m
    if not now < before:
        return math.inf
    return m + (m - _before(m)) * math.log(now / target) / math.log(before / now)


def _bounded(measure: Measure, steps: float) -> int:
    return math.ceil(min(float(measure.dim_unmasked), max(steps, 1.0)))
