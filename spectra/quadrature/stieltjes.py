"""The sharp bounds of one run at many points at once, without eigendecompositions.

At one point x the Chebyshev–Markov–Stieltjes bounds are sums of weights of the Gauss–Radau rule
with nodes ν, weights ω and one node forced at x (spectra.quadrature.radau). One rule costs an
eigendecomposition; a figure wants hundreds of points from runs of up to thousands of steps. The
sums need no nodes. With the rule's Stieltjes transform G(z) = Σ ω_j/(z − ν_j),

    (2/π) ∫₀^∞ Re G(x + iy) dy  =  Σ_{ν<x} ω − Σ_{ν>x} ω,        lim y·(−Im G(x + iy)) = ω(x)
                                                                 y→0
because each term of the first integrates to ±ω_j and the forced node, purely imaginary on the line,
drops out. The total is 1, so Σ_{ν<x} ω = (1 − ω(x) + integral)/2. G is the continued fraction of
the Jacobi matrix, m complex divisions a point. With y = eˢ each term is ±ω_j/(2 cosh(s − s_j)),
analytic for |Im s| < π/2, so the trapezoid rule with spacing h is off by about 2·exp(−π²/h), which
is 5e-9 for h = ½; the ends are geometric series and are summed exactly. Rounding puts the forced
node at x + ε, which adds ω(x)ε/y² to the real part; that term is told apart by its growth at the
two smallest y and taken out. The bounds are widened by `QUADRATURE_ERROR`. (Trefethen & Weideman,
SIAM Review 56, 2014, for the trapezoid rule.)

Shapes: X points, m steps.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spectra.quadrature.gauss import Floats

SPACING = 0.5
NEAREST, FARTHEST = 1e-10, 1e4  # distances from the real axis, in units of max(‖T‖, |x|)
OUTERMOST = 1e6  # farther points are taken to be here, in units of ‖T‖
QUADRATURE_ERROR = 5e-8
CHUNK = 256  # points at once: a few hundred kilobytes


def sharp_bounds(alphas: Floats, betas: Floats, x: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Return the sharp bounds L ≤ Ψ_v(x−) ≤ Ψ_v(x) ≤ U of one run at finite `x`; each (X,).

    Args:
        alphas: Diagonal of T_m, (m,).
        betas: Off-diagonal and last residual norm β_m, (m,).
        x: Points, (X,).
    """
    points = np.asarray(x, dtype=np.float64)
    pieces = [
        _bounds(alphas, betas, points[start : start + CHUNK])
        for start in range(0, points.size, CHUNK)
    ]
    below = np.concatenate([piece[0] for piece in pieces]) if pieces else points
    at = np.concatenate([piece[1] for piece in pieces]) if pieces else points
    return (
        np.clip(below - QUADRATURE_ERROR, 0.0, 1.0),
        np.clip(below + at + QUADRATURE_ERROR, 0.0, 1.0),
    )


def _bounds(alphas: Floats, betas: Floats, x: Floats) -> tuple[Floats, Floats]:
    scale = float(max(np.abs(alphas).max(), betas.max()))
    if scale == 0.0:  # the zero operator: Ψ steps from 0 to 1 at 0
        return (x > 0).astype(np.float64), (x == 0).astype(np.float64)
    exponent = math.frexp(scale)[1]  # a power of two: rescaling is exact
    alphas, betas, x = (np.ldexp(array, -exponent) for array in (alphas, betas, x))
    # Ψ is monotone, and the weight of a node forced so far out is below 1e-11.
    x = np.clip(x, -OUTERMOST, OUTERMOST)
    pivot = _last_pivot(alphas, betas, x)[:, None]
    units = np.exp(np.arange(math.log(NEAREST), math.log(FARTHEST) + SPACING, SPACING))
    # Seen from a point far out, all nodes lie about as far away as the point does.
    distances = np.maximum(1.0, np.abs(x))[:, None] * units
    iy, offsets = 1j * distances, x[:, None]
    # The corner x + β²/d puts its node at x; written so that d = 0, at a Ritz value, is the Gauss
    # rule and not a division by zero.
    tail = betas[-1] ** 2 * pivot / (iy * pivot - betas[-1] ** 2) if betas[-1] > 0 else 0.0 * iy
    transform = iy
    for k in range(alphas.size - 1, -1, -1):
        transform = 1.0 / (iy + (offsets - alphas[k]) - tail)
        if k:
            tail = betas[k - 1] ** 2 * transform
    real = transform.real
    nearest, second = distances[:, :1], distances[:, 1:2]
    growth = (real[:, :1] - real[:, 1:2]) / (nearest**-2 - second**-2)
    terms = distances * (real - growth / distances**2)
    ends = (terms[:, 0] + terms[:, -1]) / math.expm1(SPACING)
    difference = (2 / math.pi) * SPACING * (terms.sum(axis=1) + ends)
    at = np.clip(-distances[:, 0] * transform.imag[:, 0], 0.0, 1.0)
    return (1 - at + difference) / 2, at


def _last_pivot(alphas: Floats, betas: Floats, x: Floats) -> Floats:
    """Return d_m of T_m − xI = LDLᵀ for each x, (X,)."""
    tiny = float(np.finfo(float).eps) ** 2
    d: Floats = alphas[0] - x
    for k in range(1, alphas.size):
        d = np.where(np.abs(d) < tiny, -tiny, d)
        d = alphas[k] - x - betas[k - 1] ** 2 / d
    return d
