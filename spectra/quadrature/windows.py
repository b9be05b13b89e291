"""Bounds of the soft share that one probe sees, from the Weyl discs of its run.

The soft share of order p at the threshold τ gives every eigenvalue the weight of a Butterworth
window,

    S_p(τ) = (1/n) tr (I + (H/τ)^{2p})⁻¹ = mean of 1/(1 + (λ/τ)^{2p}),

½ at |λ| = τ, near 1 inside, falling like (τ/|λ|)^{2p} outside. By partial fractions over the roots
z_k = τ·e^{iπ(2k+1)/(2p)}, k = 0…p − 1, which lie in the upper half-plane,

    S_p = (1/p) Re Σ_k z_k G(z_k),

and each G(z_k) lies in its Weyl disc (spectra.quadrature.weyl). So S_p as one probe sees it is
within (τ/p) Σ_k r_k of the same sum over the centres. For p = 1 these bounds are sharp: their width
is ρ(iτ). For p = 2 and 4 the sum of the radii is 1.3 to 2.4 times the least possible width, which
costs a few steps.

*Product error.* If the products are those of H + E with ‖E‖ ≤ δ, also of an E that depends on the
vector, the share that a probe sees moves by at most p·δ/τ, the operator-Lipschitz constant of the
window (each resolvent moves by δ/y², and the roots have |z_k| = τ).

Shapes: m steps, T thresholds.
"""

from __future__ import annotations

import numpy as np

from spectra.errors import UsageError
from spectra.quadrature.gauss import Floats
from spectra.quadrature.weyl import Complexes, christoffel_decay, weyl_disc

ORDERS = (1, 2, 4)


def check_order(order: int) -> None:
    """Raise UsageError unless `order` is one of `ORDERS`."""
    if order not in ORDERS or isinstance(order, bool):
        raise UsageError(f"order={order!r} is not the order of a window; pass 1, 2 or 4.")


def window(x: Floats, tau: float, order: int) -> Floats:
    """Return 1/(1 + (x/τ)^{2·order}) for every `x`; any shape."""
    with np.errstate(over="ignore"):  # an infinite power is a weight of 0
        return 1 / (1 + (np.asarray(x, dtype=np.float64) / tau) ** (2 * order))


def roots(tau: Floats, order: int) -> Complexes:
    """Return the roots z_k of 1 + (z/τ)^{2·order} in the upper half-plane, (T, order)."""
    angles = np.pi * (2 * np.arange(order) + 1) / (2 * order)
    points: Complexes = np.asarray(tau, dtype=np.float64)[:, None] * np.exp(1j * angles)
    return points


def window_bounds(alphas: Floats, betas: Floats, tau: Floats, order: int) -> tuple[Floats, Floats]:
    """Return bounds of the soft share that the probe of one run sees, each (T,), within [0, 1].

    Args:
        alphas: Diagonal of T_m, (m,).
        betas: Off-diagonal and last residual norm β_m, (m,).
        tau: Positive thresholds, (T,).
        order: p of the window.
    """
    z = roots(tau, order)
    centre, radius = weyl_disc(alphas, betas, z.ravel())
    middle = (z.ravel() * centre).real.reshape(z.shape).mean(axis=1)
    half = (np.abs(z.ravel()) * radius).reshape(z.shape).mean(axis=1)
    return np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)


def window_widths(
    alphas: Floats, betas: Floats, tau: Floats, order: int, steps: list[int]
) -> list[Floats]:
    """Return the width of these bounds after each of `steps` (ascending), (T,) each."""
    z = roots(tau, order)
    slopes = (np.abs(z) / z.imag).ravel()  # τ/(2y) of each radius, twice
    return [
        (slopes * rho).reshape(z.shape).mean(axis=1)
        for rho in christoffel_decay(alphas, betas, z.ravel(), steps)
    ]
