"""How far the mean of s quadratic forms ωᵀAω may be from tr A, found from the same products.

For ω = √n times a unit spherical probe the variance of one form is 2T, T = ‖A − cI‖_F² with
c = tr A/n; for Rademacher ω it is 2T with T = Σ_{i≠j} a_ij². Both are known from the products at no
cost: T is the mean of |Aω − cω|², or half the mean square difference of two ω∘Aω. Where a few
eigenvalues carry T, however, the mean is as skewed as T is uncertain: for k equal ones, of size d,
the mean is off by d(χ̄ − k), and T is seen as d²χ̄, χ̄ = χ²_{sk}/s. With y = χ̄/k the truth is

    √T·√k (1 − y)/√y,    y = χ²_{sk}/(sk),                                               (1)

above the mean, with T as it is seen, which holds for k = 1 as for k → ∞, where it is ±z√(2T/s).
The number k comes from the products of different probes, G_pq = ω_pᵀAω_q: over distinct indices

    mean G_pq² ~ t_2,  mean G_pq G_qr G_rp ~ t_3,  mean G_pq G_qr G_rs G_sp ~ t_4,  t_j = Σ d_i^j,

and 1/√k = t_3/t_2^{3/2}, which does not depend on what few large eigenvalues happen to weigh in
these probes. Two standard errors are added to it, for a sum of either sign. Eigenvalues of both
signs have no skewness; for them Student's t stands with s t_2²/t_4 degrees, and the widest of all
is taken. Risks are `MARGIN` times smaller than stated, for what these estimates neglect; the
coverage is measured in tests/coverage. Products of different probes are made within blocks, so that
no more vectors are kept than a block has.

Shapes: b probes in a block, s in all.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.stats
import torch
from numpy.typing import NDArray

MARGIN = 0.7
SURE = 2.0  # standard errors added to the skewness
LEAST = 1e-3  # of 1/√k


class FormError:
    """Collects quadratic forms of `dim` coordinates, block by block."""

    def __init__(self, dim: int, *, spherical: bool) -> None:
        self.dim, self.spherical = dim, spherical
        self.forms: list[float] = []
        self._squares: list[float] = []  # of spherical probes |Aω − αω|², α = ωᵀAω/n
        self._differences, self._pairs = 0.0, 0
        self._grams: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []

    def add(self, omega: torch.Tensor, product: torch.Tensor) -> None:
        """Add probes ω, (b, n), of length √n, and their products Aω, (b, n)."""
        forms = (omega * product).sum(dim=1)
        self.forms += forms.tolist()
        if self.spherical:
            rest = product - (forms / self.dim).unsqueeze(1) * omega
            self._squares += (rest * rest).sum(dim=1).tolist()
        else:
            seen = omega * product
            count = seen.shape[0]
            if count > 1:
                spread = (seen - seen.mean(dim=0)).square().sum()
                self._differences += float(spread) * count
                self._pairs += count * (count - 1)
        G, W = product @ omega.T, omega @ omega.T
        self._grams.append((G.cpu().double().numpy(), W.cpu().double().numpy()))

    def ends(self, confidence: float) -> tuple[float, float]:
        """Return how far below and above the mean of the forms the trace may be."""
        forms = np.array(self.forms)
        s, risk = forms.size, MARGIN * (1 - confidence) / 2
        root = math.sqrt(self._variance(forms))
        skews, fourth = self._lumps(float(forms.mean()) / self.dim)
        degrees = s / fourth
        plain = float(scipy.stats.t.isf(risk, degrees)) * math.sqrt(2 / s)
        ends = []
        for same, other in (skews[::-1], skews):  # below: few negative ones that were seen little
            ends.append(root * max(plain, _far(s, same, risk), _near(s, other, risk)))
        return ends[0], ends[1]

    def _variance(self, forms: NDArray[np.float64]) -> float:
        """Return T."""
        if self.spherical:
            return float(np.mean(self._squares)) + float(forms.var()) / self.dim
        return self._differences / self._pairs if self._pairs else 0.0

    def _lumps(self, centre: float) -> tuple[tuple[float, float], float]:
        """Return upper bounds of t_3/t_2^{3/2}, of −t_3/t_2^{3/2}, and of t_4/t_2²."""
        sums, counts = np.zeros(3), np.zeros(3)
        for G, W in self._grams:
            off = (G + G.T) / 2 - (centre * W if self.spherical else 0.0)
            np.fill_diagonal(off, 0.0)
            b, square = off.shape[0], off * off
            cube = off @ off @ off
            paths = (square.sum(axis=1) ** 2).sum()  # p, q, p, s
            cycles = float((cube * off).sum()) - 2 * paths + (square * square).sum()
            sums += square.sum(), np.trace(cube), cycles
            counts += b * (b - 1), b * (b - 1) * (b - 2), b * (b - 1) * (b - 2) * (b - 3)
        if not counts.all() or not sums[0] > 0:
            return (1.0, 1.0), 1.0
        t2, t3, t4 = sums / counts
        skew, error = t3 / t2**1.5, SURE / math.sqrt(counts[1] / 6)
        bounds = [float(np.clip(side * skew + error, LEAST, 1.0)) for side in (1, -1)]
        fourth = t4 / t2**2 + SURE / math.sqrt(counts[2] / 8)
        return (bounds[0], bounds[1]), float(np.clip(fourth, LEAST**2, 1.0))


def _far(s: int, skew: float, risk: float) -> float:
    """Return (1)/√T for k large eigenvalues that the probes have seen too little of."""
    k = 1 / skew**2
    y = float(scipy.stats.chi2.ppf(risk, s * k)) / (s * k)
    return math.sqrt(k) * (1 - y) / math.sqrt(y)


def _near(s: int, skew: float, risk: float) -> float:
    """Return −(1)/√T for k large eigenvalues that the probes have seen too much of."""
    k = 1 / skew**2
    y = float(scipy.stats.chi2.isf(risk, s * k)) / (s * k)
    return math.sqrt(k) * (y - 1) / math.sqrt(y)
