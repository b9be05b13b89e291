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
HUGE = 1e200  # where z is so small at k that k is not chosen, nothing may overflow


def ritz_residuals(alphas: Floats, betas: Floats, nodes: Floats) -> Floats:
    """Return the residual norm of each of some Ritz values, (k,).

    Args:
        alphas: Diagonal of the Jacobi matrix, (m,).
        betas: Off-diagonal and last residual norm, (m,).
        nodes: Eigenvalues of the matrix, (k,), each as exact as float64 has it.
    """
    if not nodes.size:
        return np.empty(0)
    parts = [nodes[i : i + TOGETHER] for i in range(0, nodes.size, TOGETHER)]
    last = np.concatenate([_last_components(alphas, betas[:-1], part) for part in parts])
    residuals: Floats = betas[-1] * last
    return residuals


def _last_components(diagonal: Floats, offdiagonal: Floats, theta: Floats) -> Floats:
    """Return |last component| of the unit eigenvector of each θ, (k,)."""
    size = diagonal.size
    scale = float(np.abs(diagonal).max() + (np.abs(offdiagonal).max() if size > 1 else 0.0))
    if size == 1 or scale == 0.0:
        return np.ones_like(theta)
    exponent = int(np.frexp(scale)[1])  # to unit size, exactly: squares may not underflow
    diagonal, offdiagonal = np.ldexp(diagonal, -exponent), np.ldexp(offdiagonal, -exponent)
    theta = np.ldexp(theta, -exponent)

    pivots = np.empty((size, theta.size))
    above = np.zeros((size, theta.size))  # Σ z_i² over i < k, were z_k = 1
    pivots[0] = _nonzero(diagonal[0] - theta)
    for i, beta in enumerate(offdiagonal):
        ratio = beta / pivots[i]
        above[i + 1] = np.minimum(ratio * ratio * (1.0 + above[i]), HUGE)
        pivots[i + 1] = _nonzero(diagonal[i + 1] - theta - beta * ratio)

    pivot = _nonzero(diagonal[-1] - theta)
    below, last = np.zeros_like(theta), np.ones_like(theta)  # Σ z_i² over i > k, and z_m²
    least = np.abs(pivots[-1])
    found = 1.0 / (1.0 + above[-1])
    for i in range(size - 2, -1, -1):
        beta = offdiagonal[i]
        ratio = beta / pivot
        square = ratio * ratio
        below = np.minimum(square * (1.0 + below), HUGE)
        last = np.minimum(square * last, HUGE)
        pivot = _nonzero(diagonal[i] - theta - beta * ratio)
        gamma = np.abs(pivots[i] - beta * ratio)
        better = gamma < least
        least = np.where(better, gamma, least)
        found = np.where(better, last / (1.0 + above[i] + below), found)
    return np.asarray(np.sqrt(found))


def _nonzero(pivot: Floats) -> Floats:
    """Return the pivots with zeros, through which nothing can be divided, as a tiny number."""
    return np.where(pivot == 0.0, np.finfo(float).eps ** 2, pivot)
