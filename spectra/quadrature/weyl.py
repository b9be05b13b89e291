"""Weyl discs: what m Lanczos steps know of the resolvent at a point off the real axis.

For a probe v with spectral measure μ let G(z) = vᵀ(z − H)⁻¹v = ∫ dμ(x)/(z − x), at z = x + iy with
y > 0. All probability measures that share the coefficients α_1…α_m, β_1…β_m share

    G(z) = 1/(z − α_1 − β_1²/(z − α_2 − … − β_{m−1}²/(z − α_m − β_m² g))),

where g = G_{m+1}(z) is the transform of an unknown probability measure. Every such g lies in the
disc |g + i/(2y)| ≤ 1/(2y), and every point of that disc occurs. G(z) is a Möbius map of g, so its
values fill a disc, the Weyl disc (Akhiezer, The Classical Moment Problem, ch. 1 and 2).

*Radius.* r = ρ/(2y) with ρ = 1/Σ_{k=0..m} |p_k(z)|², p_k the orthonormal polynomials. With the
pivots d_1 = z − α_1, d_k = z − α_k − β_{k−1}²/d_{k−1} one has |p_k|² = Π_{j≤k} |d_j|²/β_j². For
y > 0 the terms grow exponentially in k: the disc shrinks exponentially with the steps.

*Centre.* A Möbius map sends the point that mirrors its pole in a circle to the centre of the image.
The pole is at β_m² g = d_m; its mirror image in the circle with centre −iR and radius
R = β_m²/(2y) is T = −iR·d̄_m/(d̄_m − iR). The centre is the continued fraction with tail T.

Both recurrences keep the sign of the imaginary part, so that no division is by zero and rounding
stays relative. (The recursion of the discs themselves, centre c̄/(|c|² − r²), loses (‖T‖/y)² units
of rounding.) A run that ended by itself, β_m = 0, has a disc of radius 0.

Coefficients are divided by a power of two near ‖T‖ first, which is exact, so that no scale of the
loss overflows.

Shapes: m steps, Z points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spectra.quadrature.gauss import Floats

Complexes = NDArray[np.complex128]
LARGEST = 1e280  # a sum of squares beyond it is a radius of zero; a cap keeps the bound a bound


def weyl_disc(alphas: Floats, betas: Floats, z: Complexes) -> tuple[Complexes, Floats]:
    """Return centre and radius of the Weyl disc of one run at every `z`; each (Z,).

    Args:
        alphas: Diagonal of T_m, (m,).
        betas: Off-diagonal and last residual norm β_m, (m,).
        z: Points with positive imaginary part, (Z,), in the units of the eigenvalues.
    """
    exponent, (a, b, points) = _scaled(alphas, betas, z)
    sums, pivot = _forward(a, b, points, ())
    twice_y = 2 * points.imag
    with np.errstate(divide="ignore"):
        inverse = twice_y / b[-1] ** 2 if b[-1] > 0 else np.full(points.shape, np.inf)
    mirrored = np.conj(pivot)
    tail = np.zeros_like(points)
    inside = np.isfinite(inverse)
    tail[inside] = mirrored[inside] / (1 + 1j * mirrored[inside] * inverse[inside])
    centre = 1 / (points - a[-1] - tail)
    for alpha, square in zip(a[-2::-1].tolist(), (b[-2::-1] ** 2).tolist(), strict=True):
        centre = 1 / (points - alpha - square * centre)
    radius = np.zeros(points.shape) if b[-1] == 0 else 1 / (sums[-1] * twice_y)
    scale = math.ldexp(1.0, -exponent) if -1000 < exponent < 1000 else 2.0**-exponent
    return centre * scale, radius * scale


def christoffel_decay(
    alphas: Floats, betas: Floats, z: Complexes, steps: Sequence[int]
) -> list[Floats]:
    """Return ρ_k(z) = 1/Σ_{j=0..k} |p_j(z)|², (Z,), for each number of steps k, ascending.

    With z = iτ this is the width of the bounds of the soft share of order 1 after k steps. On the
    real axis ρ_k is the Christoffel number, the width of the sharp bounds; points there must not be
    Ritz values of a leading block.
    """
    _, (a, b, points) = _scaled(alphas, betas, z)
    sums, _ = _forward(a, b, points, steps)
    found = dict(zip(sorted(set(steps)), sums[:-1], strict=True))
    return [1 / found[k] for k in steps]


def _scaled(
    alphas: Floats, betas: Floats, z: Complexes
) -> tuple[int, tuple[Floats, Floats, Complexes]]:
    points = np.atleast_1d(np.asarray(z, dtype=np.complex128))
    scale = max(float(np.abs(alphas).max()), float(betas.max()))
    exponent = math.frexp(scale)[1] if scale > 0 else 0
    parts = np.ldexp(points.real, -exponent) + 1j * np.ldexp(points.imag, -exponent)
    return exponent, (np.ldexp(alphas, -exponent), np.ldexp(betas, -exponent), parts)


def _forward(
    alphas: Floats, betas: Floats, z: Complexes, steps: Sequence[int]
) -> tuple[list[Floats], Complexes]:
    """Return Σ_{j≤k} |p_j|² for each k of `steps` and for all, and the last pivot d_m."""
    wanted, kept = set(steps), []
    total, term, pivot = np.ones(z.shape), np.ones(z.shape), z - alphas[0]
    squares = (betas**2).tolist()
    last = alphas.size - 1
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        for k, alpha in enumerate([*alphas[1:].tolist(), 0.0]):
            size = pivot.real**2 + pivot.imag**2
            if squares[k] > 0:
                term = np.minimum(term * (size / squares[k]), LARGEST)
                total += term
            else:
                total = np.full(z.shape, np.inf)
            if k + 1 in wanted:
                kept.append(total.copy())
            if k < last:
                pivot = z - alpha - squares[k] / pivot
    return [*kept, total], pivot
