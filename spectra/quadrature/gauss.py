"""Gauss quadrature of the spectral measure that one probe sees.

m steps of Lanczos from a unit probe v give the Jacobi matrix T_m with diagonal α_1…α_m and
off-diagonal β_1…β_{m−1}, and the last β_m, the norm of the residual. The eigenvalues θ_j of T_m,
with weights w_j = (e_1ᵀy_j)² for unit eigenvectors y_j, are the Gauss rule of
Ψ_v(x) = Σ_i (v·u_i)² 1[λ_i ≤ x]: exact for polynomials up to degree 2m − 1 (Golub & Welsch 1969;
Golub & Meurant, Matrices, Moments and Quadrature, ch. 6). β_m |e_mᵀy_j| is the norm of the residual
of the Ritz pair: an eigenvalue of the operator lies that near to θ_j.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GaussRule:
    """Nodes θ (m,) ascending, weights (m,) summing to 1, Ritz residual norms (m,)."""

    nodes: Floats
    weights: Floats
    residuals: Floats


def jacobi_eigh(
    diagonal: Floats, offdiagonal: Floats, *, only: int | None = None
) -> tuple[Floats, Floats]:
    """Return eigenvalues (m,), ascending, and eigenvectors (m, m) of a Jacobi matrix.

    With `only`, an index, that one eigenvalue (1,) and its eigenvector (m, 1).

    The matrix is scaled to unit size first by a power of two, which is exact: LAPACK's thresholds
    are absolute, and the spectrum of a rescaled loss must be the rescaled spectrum.
    """
    if diagonal.size == 1:
        return diagonal.copy(), np.ones((1, 1))
    scale = max(float(np.abs(diagonal).max()), float(np.abs(offdiagonal).max()))
    one = slice(None) if only is None else slice(only, only + 1)
    if scale == 0.0:
        return np.zeros_like(diagonal)[one], np.eye(diagonal.size)[:, one]
    exponent = int(np.frexp(scale)[1])
    d, e = np.ldexp(diagonal, -exponent), np.ldexp(offdiagonal, -exponent)
    if only is None:
        values, vectors = scipy.linalg.eigh_tridiagonal(d, e)
    else:
        values, vectors = scipy.linalg.eigh_tridiagonal(d, e, select="i", select_range=(only, only))
    return np.ldexp(values, exponent), np.asarray(vectors, dtype=np.float64)


def gauss_rule(alphas: Floats, betas: Floats) -> GaussRule:
    """Return the m-point Gauss rule of a Lanczos run.

    Args:
        alphas: Diagonal, (m,).
        betas: Off-diagonal and last residual norm, (m,).
    """
    nodes, vectors = jacobi_eigh(alphas, betas[:-1])
    return GaussRule(nodes, vectors[0] ** 2, betas[-1] * np.abs(vectors[-1]))


@dataclass(frozen=True)
class End:
    """An extreme Ritz value, and the norm of its residual."""

    node: float
    residual: float


def ends(alphas: Floats, betas: Floats) -> tuple[End, End]:
    """Return the smallest and the largest Ritz value, without the whole rule: O(m) each.

    Args:
        alphas: Diagonal, (m,).
        betas: Off-diagonal and last residual norm, (m,).
    """
    last = alphas.size - 1
    found = []
    for place in (0, last):
        nodes, vectors = jacobi_eigh(alphas, betas[:-1], only=place)
        found.append(End(float(nodes[0]), float(betas[-1] * abs(vectors[-1, 0]))))
    return found[0], found[1]


def moment(alphas: Floats, betas: Floats, power: int) -> float:
    """Return ∫ λ^power dΨ_v, exact for power ≤ 2m.

    Half of the powers act on each side: with x = T^⌊k/2⌋ e_1 the moment is xᵀx, xᵀTx, or, at
    degree 2m, ‖T̂_{m+1}x‖² where the extended matrix has the extra row β_m e_mᵀ.
    """
    x = np.zeros(alphas.size + 1)
    x[0] = 1.0
    diagonal = np.append(alphas, 0.0)  # α_{m+1} is unknown, and never reached for power ≤ 2m

    def apply(v: Floats) -> Floats:
        out = diagonal * v
        out[:-1] += betas * v[1:]
        out[1:] += betas * v[:-1]
        return out

    for _ in range(power // 2):
        x = apply(x)
    return float(x @ apply(x)) if power % 2 else float(x @ x)
