"""Sharp Chebyshev–Markov–Stieltjes bounds of the distribution function one probe sees.

Among all measures with the moments 0…2m that m Lanczos steps fix, the extreme values of the
distribution function at x are attained by the (m + 1)-node Gauss–Radau rule with one node at x:

    Σ_{ν<x} ω  ≤  Ψ_v(x−)  ≤  Ψ_v(x)  ≤  Σ_{ν<x} ω + ω(x),

and the width ω(x) is the Christoffel number 1/Σ_{k=0..m} p_k(x)² of the orthonormal polynomials
(Akhiezer, The Classical Moment Problem, ch. 2; Golub & Meurant, ch. 6). The rule is the spectral
decomposition of T_m bordered by β_m and the corner α̃ = x + β_m² e_mᵀ(T_m − xI)⁻¹e_m.

Everything needed comes from the pivots of T_m − xI = LDLᵀ, d_1 = α_1 − x,
d_k = α_k − x − β_{k−1}²/d_{k−1}: the corner is α̃ = x + β_m²/d_m, and by interlacing the number of
nodes below x is the number of negative pivots (Sturm), so the forced node is found by index and not
by comparing floats. Next to a Ritz value d_m → 0 and the corner runs off to infinity, which would
spoil the other nodes. There the m-node Radau rule, whose corner is α_m − d_m, takes over: it
matches moments to 2m − 2, so its bounds hold as well, and at the Ritz value itself it is the Gauss
rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra.quadrature.gauss import Floats, jacobi_eigh

Integers = NDArray[np.int64]
CORNER_LIMIT = 1e6  # largest corner, in units of ‖T‖: costs 1e6 · 1e-16 of accuracy at most


@dataclass(frozen=True)
class RadauMasses:
    """Masses of the extremal measure below x, at x and above x; each (X,), summing to 1."""

    below: Floats
    at: Floats
    above: Floats

    @property
    def lower(self) -> Floats:
        """Greatest lower bound of Ψ_v(x−) and Ψ_v(x)."""
        return self.below

    @property
    def upper(self) -> Floats:
        """Least upper bound of Ψ_v(x)."""
        return np.minimum(self.below + self.at, 1.0)


def radau_rule(alphas: Floats, betas: Floats, x: float) -> tuple[Floats, Floats, int]:
    """Return nodes, weights and the index of the node forced at `x`."""
    exponent = _exponent(alphas, betas)
    a, b, points = (np.ldexp(part, -exponent) for part in (alphas, betas, np.array([x])))
    pivots, counts, last_pivots = _pivots(a, b, points)
    nodes, weights, index = _rule(a, b, float(points[0]), pivots[0], counts[0], last_pivots[0])
    return np.ldexp(nodes, exponent), weights, index


def radau_masses(alphas: Floats, betas: Floats, x: NDArray[np.float64] | float) -> RadauMasses:
    """Return the sharp bounds at every x from one probe's Lanczos coefficients.

    Args:
        alphas: Diagonal of T_m, (m,).
        betas: Off-diagonal and last residual norm β_m, (m,).
        x: Points, (X,) or a scalar; ±inf allowed.
    """
    points = np.atleast_1d(np.asarray(x, dtype=np.float64))
    below, at, above = np.empty_like(points), np.zeros_like(points), np.empty_like(points)
    if not alphas.any() and not betas.any():  # the zero operator: Ψ steps from 0 to 1 at 0
        return RadauMasses(
            (points > 0).astype(float), (points == 0).astype(float), (points < 0).astype(float)
        )
    exponent = _exponent(alphas, betas)
    alphas, betas, points = (np.ldexp(part, -exponent) for part in (alphas, betas, points))
    finite = np.isfinite(points)
    below[~finite] = points[~finite] > 0
    above[~finite] = points[~finite] < 0
    pivots, counts, previous = _pivots(alphas, betas, points[finite])
    for place, point, d, c, p in zip(
        np.flatnonzero(finite), points[finite], pivots, counts, previous, strict=True
    ):
        _, weights, index = _rule(alphas, betas, float(point), d, c, p)
        below[place] = weights[:index].sum()
        at[place] = weights[index]
        above[place] = weights[index + 1 :].sum()
    return RadauMasses(below, at, above)


def _exponent(alphas: Floats, betas: Floats) -> int:
    """Return the exponent of the largest coefficient: scaling by a power of two is exact."""
    return int(np.frexp(max(float(np.abs(alphas).max()), float(betas.max())))[1])


def christoffel_number(alphas: Floats, betas: Floats, x: float) -> float:
    """Return ω(x) = 1/Σ_{k=0..m} p_k(x)² for an `x` outside the Ritz values, in O(m).

    The ratios are p_k/p_{k−1} = −d_k/β_k with the pivots of this module. Outside the Ritz values
    all pivots have one sign and the recurrence is stable; inside use `radau_masses`.
    """
    x = float(x)  # Python floats overflow to infinity in silence, NumPy scalars warn
    total, term, pivot = 1.0, 1.0, float(alphas[0]) - x
    for k, beta in enumerate(betas.tolist()):
        if beta == 0.0 or total > 1e300:
            return 0.0
        ratio = pivot / beta
        term *= ratio * ratio
        total += term
        if k + 1 < alphas.size:
            pivot = float(alphas[k + 1]) - x - beta * (beta / pivot)
    return 1.0 / total


def _pivots(alphas: Floats, betas: Floats, x: Floats) -> tuple[Floats, Integers, Integers]:
    """Return, for each x, the last pivot d_m, the count of negative d_1…d_m, and of d_1…d_{m−1}."""
    largest = max(float(np.abs(alphas).max()), float(betas.max()), np.finfo(float).tiny)
    tiny = np.finfo(float).eps ** 2 * largest
    d = alphas[0] - x
    count: Integers = np.zeros(x.shape, dtype=np.int64)
    before = count
    for k in range(alphas.size):
        if k:
            d = alphas[k] - x - betas[k - 1] ** 2 / d
        d = np.where(np.abs(d) < tiny, -tiny, d)
        before = count
        count = count + (d < 0)
    return d, count, before


def _rule(
    alphas: Floats, betas: Floats, x: float, pivot: float, count: int, count_before: int
) -> tuple[Floats, Floats, int]:
    scale = max(float(np.abs(alphas).max()), float(betas.max()), abs(x))
    if betas[-1] ** 2 <= CORNER_LIMIT * scale * abs(pivot):
        diagonal, offdiagonal = np.append(alphas, x + betas[-1] ** 2 / pivot), betas
        index = int(count)
    else:
        diagonal, offdiagonal = alphas.copy(), betas[:-1]
        diagonal[-1] -= pivot
        index = int(count_before)
    nodes, vectors = jacobi_eigh(diagonal, offdiagonal)
    return nodes, vectors[0] ** 2, index
