"""Residuals of Ritz values from the Jacobi matrix alone, without its eigenvectors.

The residual of a Ritz pair is β_m |e_mᵀy|, the last component of a unit eigenvector y of T.
Products of ratios along the matrix give y, and from one end alone they lose it where y is large in
the middle. A twisted factorization takes them from both: with the pivots of T − θ from above and
from below,

    d_1 = α_1 − θ,  d_{i+1} = α_{i+1} − θ − β_i²/d_i,
    u_m = α_m − θ,  u_i = α_i − θ − β_i²/u_{i+1},

(T − θ)z = γ_k e_k where z_k = 1, γ_k = d_k + u_k − (α_k − θ), z_i = −(β_i/d_i) z_{i+1} above k and
z_{i+1} = −(β_i/u_{i+1}) z_i below it. The k of least |γ_k| is where z is large, and z then is the
eigenvector as far as θ is the eigenvalue (Dhillon & Parlett, Multiple representations to compute
orthogonal eigenvectors of symmetric tridiagonal matrices, Linear Algebra Appl. 387, 2004). Here all
θ go at once, and of z only its norm and last component are kept: m steps over vectors.

Where eigenvalues are so close that float64 hardly tells them apart (copies of one, ghosts), their
vectors are known up to a mixture of each other from any method, and so are these residuals.
"""

from __future__ import annotations

import numpy as np

from spectra.quadrature.gauss import Floats

TOGETHER = 512  # Ritz values at once: 2·m·TOGETHER numbers are held
TINY = float(np.finfo(float).eps) ** 2  # least pivot of a matrix of unit size
HUGE = 1e200  # where z is so small at k that k is not chosen, nothing may overflow


def ritz_residuals(alphas: Floats, betas: Floats, nodes: Floats) -> tuple[Floats, float]:
    """Return the residual norm of each of some Ritz values, (k,), and how far from one any is.

    The second is the largest |γ_k|/‖z‖ of all in units of ε‖T‖: a few tens where `nodes` are
    eigenvalues of the matrix as exact as float64 has them. Where it is much more some are none,
    and what is returned for them is no residual.

    Args:
        alphas: Diagonal of the Jacobi matrix, (m,).
        betas: Off-diagonal and last residual norm, (m,).
        nodes: Eigenvalues of the matrix, (k,).
    """
    if not nodes.size:
        return np.empty(0), 0.0
    size = max(float(np.abs(x).max(initial=0.0)) for x in (alphas, betas[:-1], nodes))
    if size == 0.0:
        return np.full(nodes.shape, betas[-1]), 0.0
    exponent = int(np.frexp(size)[1])  # to unit size, exactly: squares may not underflow
    diagonal, offdiagonal, theta = (np.ldexp(x, -exponent) for x in (alphas, betas[:-1], nodes))
    parts = [
        _last_components(diagonal, offdiagonal, theta[i : i + TOGETHER])
        for i in range(0, theta.size, TOGETHER)
    ]
    last = np.concatenate([part[0] for part in parts])
    defect = max(float(part[1].max()) for part in parts)
    residuals: Floats = betas[-1] * last
    return residuals, defect / float(np.finfo(float).eps)


def _last_components(diagonal: Floats, offdiagonal: Floats, theta: Floats) -> tuple[Floats, Floats]:
    """Return |last component| of the unit eigenvector of each θ, (k,), and |γ|/‖z‖, (k,)."""
    size = diagonal.size
    pivots = np.empty((size, theta.size))
    above = np.zeros((size, theta.size))  # Σ z_i² over i < k, were z_k = 1
    pivots[0] = _divisor(diagonal[0] - theta)
    for i, beta in enumerate(offdiagonal):
        ratio = beta / pivots[i]
        above[i + 1] = np.minimum(ratio * ratio * (1.0 + above[i]), HUGE)
        pivots[i + 1] = _divisor(diagonal[i + 1] - theta - beta * ratio)

    pivot = _divisor(diagonal[-1] - theta)
    below, last = np.zeros_like(theta), np.ones_like(theta)  # Σ z_i² over i > k, and z_m²
    least = np.abs(pivots[-1])
    norm = 1.0 + above[-1]
    found = 1.0 / norm
    for i in range(size - 2, -1, -1):
        beta = offdiagonal[i]
        ratio = beta / pivot
        square = ratio * ratio
        below = np.minimum(square * (1.0 + below), HUGE)
        last = np.minimum(square * last, HUGE)
        pivot = _divisor(diagonal[i] - theta - beta * ratio)
        gamma = np.abs(pivots[i] - beta * ratio)
        better = gamma < least
        least = np.where(better, gamma, least)
        norm = np.where(better, 1.0 + above[i] + below, norm)
        found = np.where(better, last / (1.0 + above[i] + below), found)
    return np.sqrt(found), least / np.sqrt(norm)


def _divisor(pivot: Floats) -> Floats:
    """Return pivots that can be divided by: nothing nearer to zero than a part ε² of the matrix."""
    return np.where(np.abs(pivot) < TINY, TINY, pivot)
