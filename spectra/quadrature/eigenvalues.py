"""A run whose spectrum is known eigenvalue by eigenvalue: no resolution error, no probe.

It stands where a Lanczos run stands (spectra.quadrature.measure.Run) and answers the same questions
with the eigenvalues themselves, each with the weight 1/n. What is left as an error is that of the
matrix and of the eigensolver, δ (Weyl: no eigenvalue moves by more than the norm of the error).

In a record the eigenvalues stand where the coefficients α do, and every β is 0: the Jacobi matrix
of a run that has ended is diagonal.

Shapes: n eigenvalues, X points.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from spectra.quadrature.gauss import End, Floats, GaussRule
from spectra.quadrature.measure import Run
from spectra.quadrature.radau import RadauMasses
from spectra.quadrature.weyl import Complexes
from spectra.quadrature.windows import window

CHUNK = 64  # points at once: n numbers each


class Eigenvalues(Run):
    """All n eigenvalues, ascending, as `alphas`, (n,); `betas` are zeros, (n,)."""

    exact = True

    @cached_property
    def rule(self) -> GaussRule:
        """The eigenvalues with weights 1/n and no residuals."""
        n = self.alphas.size
        return GaussRule(self.alphas, np.full(n, 1 / n), np.zeros(n))

    @cached_property
    def ends(self) -> tuple[End, End]:
        """The smallest and the largest eigenvalue."""
        return End(float(self.alphas[0]), 0.0), End(float(self.alphas[-1]), 0.0)

    @property
    def points(self) -> tuple[Floats, Floats]:
        """Eigenvalues and weights, (n,) each."""
        return self.rule.nodes, self.rule.weights

    def first(self, steps: int) -> Run:
        """Return itself: it has no steps."""
        del steps
        return self

    def bounds(self, x: Floats) -> tuple[Floats, Floats]:
        """Return the shares of eigenvalues below and up to `x`, each (X,)."""
        n = self.alphas.size
        below = np.searchsorted(self.alphas, x, side="left") / n
        return below, np.searchsorted(self.alphas, x, side="right") / n

    def masses(self, x: float) -> RadauMasses:
        """Return the shares below, at and above `x`."""
        below, upto = self.bounds(np.array([x]))
        return RadauMasses(below, upto - below, 1 - upto)

    def windows(self, tau: Floats, order: int) -> tuple[Floats, Floats]:
        """Return the soft share at every `tau`, twice."""
        shares = np.array([float(window(self.alphas, t, order).mean()) for t in tau.tolist()])
        return shares, shares

    def window_widths(self, tau: Floats, order: int, steps: list[int]) -> list[Floats]:
        """Return zeros: nothing is left to resolve."""
        del order
        return [np.zeros(tau.shape) for _ in steps]

    def disc(self, z: Complexes) -> tuple[Complexes, Floats]:
        """Return tr (z − H)⁻¹/n at every `z`, and a radius of 0."""
        parts = [
            (1 / (z[start : start + CHUNK, None] - self.alphas)).mean(axis=1)
            for start in range(0, z.size, CHUNK)
        ]
        return np.concatenate(parts) if parts else z, np.zeros(z.shape)

    def moment(self, power: int) -> float:
        """Return the mean of λ^power."""
        return float((self.alphas**power).mean())

    def christoffel(self, x: float) -> float:
        """Return 0: no mass hides outside the eigenvalues."""
        del x
        return 0.0

    def magnitude(self) -> float:
        """Return the mean of |λ|."""
        return float(np.abs(self.alphas).mean())

    def log_determinant(self, tau: float) -> float:
        """Return the mean of ln(1 + λ²/τ²)."""
        return float(np.log1p((self.alphas / tau) ** 2).mean())
