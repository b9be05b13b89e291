"""`Spectrum`: one run's Lanczos coefficients with everything needed to read them later.

The quadrature is what is kept; densities, masses and bounds are derived from it on demand, because
bandwidths and thresholds are a matter of taste and change. Arrays are indexed (batch, probe, step)
and padded with zeros past `steps[batch, probe]`; a probe that has not run yet has 0 steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra import quadrature
from spectra.quadrature import Estimate, Measure, SmoothedDensity
from spectra.quadrature.gauss import Floats
from spectra.record.rounding import added_product_error, norm_bound, ritz_error

SCHEMA = 1


@dataclass(frozen=True)
class Spectrum:
    """The spectrum seen by P probes on each of B operators.

    Attributes:
        alphas: Diagonals of the Jacobi matrices, (B, P, M) float64; of an exact spectrum the
            eigenvalues themselves, ascending, with zeros as `betas`.
        betas: Off-diagonals, the last one of each run included, (B, P, M) float64.
        steps: Lanczos steps of each finished probe, (B, P) int64; 0 where none has run.
        losses: Loss of each batch, (B,), NaN before its first probe.
        grad_norms: Norm of the gradient over the selected parameters, (B,).
        tokens: Predictions that count in each batch, (B,) int64.
        metadata: The JSON side of the record (see the README, "Record").
        points: Gauss nodes and weights as a file keeps them, (B, P, M) each; None if not read.
    """

    alphas: NDArray[np.float64]
    betas: NDArray[np.float64]
    steps: NDArray[np.int64]
    losses: NDArray[np.float64]
    grad_norms: NDArray[np.float64]
    tokens: NDArray[np.int64]
    metadata: dict[str, Any] = field(default_factory=dict)
    points: tuple[Floats, Floats] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def measure(self) -> Measure:
        """The finished probes as a spectral measure.

        Raises:
            UsageError: If no probe has finished.
        """
        checks, estimator = self.metadata.get("checks", {}), self.metadata.get("estimator", {})
        dim = int(self.metadata["dim"])
        norm = norm_bound(self.alphas, self.betas)
        steps = int(self.steps.max()) if self.steps.size else 0
        return Measure(
            runs=quadrature.as_runs(
                self.alphas, self.betas, self.steps, self.points, exact=self.exact
            ),
            dim=dim,
            dim_unmasked=probe_dim(self.metadata),
            product_error=float(checks.get("product_error") or 0.0)
            + float(checks.get("basis_rounding") or 0.0)
            + float(checks.get("condensed_error") or 0.0)
            + float(checks.get("matrix_asymmetry") or 0.0)
            + float(checks.get("eigensolver_error") or 0.0)
            + added_product_error(self.metadata, norm),
            ritz_error=ritz_error(self.metadata, norm, steps),
            spherical=estimator.get("probe_kind", "sphere") == "sphere",
            zero_fractions=self._proven_zeros(),
        )

    @property
    def exact(self) -> bool:
        """Whether this is every eigenvalue, and not an estimate."""
        return bool(self.metadata.get("estimator", {}).get("exact"))

    def _proven_zeros(self) -> tuple[float, ...]:
        """Return the proven share of zeros among the eigenvalues probes see, of each batch run.

        Structural zeros, and masked coordinates where the probes were drawn on all of them.
        """
        dim, inside = int(self.metadata["dim"]), probe_dim(self.metadata)
        masked = inside - int(self.metadata.get("dim_unmasked", dim)) if inside == dim else 0
        if (self.metadata.get("point") or {}).get("proximal"):
            masked = 0  # these sit at the weight of the penalty
        known = self.metadata.get("checks", {}).get("structural_zero_fractions")
        batches = self.steps.shape[0]
        shares = known if isinstance(known, list) and len(known) == batches else [None] * batches
        ran = [bool(row.any()) for row in self.steps > 0]
        return tuple(
            min((masked + float(share or 0.0) * dim) / inside, 1.0)
            for share, there in zip(shares, ran, strict=True)
            if there
        )

    @property
    def finished(self) -> int:
        """Number of probes that have run, over all batches."""
        return int((self.steps > 0).sum())

    @property
    def complete(self) -> bool:
        """Whether every planned probe has run."""
        return bool((self.steps > 0).all())

    @cached_property
    def nodes(self) -> NDArray[np.float64]:
        """Gauss nodes (Ritz values), (B, P, M), zero past `steps`."""
        return self._rules[0]

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Gauss weights, (B, P, M), zero past `steps`; those of a run sum to 1."""
        return self._rules[1]

    @cached_property
    def _rules(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        nodes, weights = np.zeros_like(self.alphas), np.zeros_like(self.alphas)
        runs = [run for row in self.measure.runs for run in row] if self.finished else []
        for (b, p), run in zip(np.argwhere(self.steps > 0), runs, strict=True):
            m = run.alphas.size
            nodes[b, p, :m], weights[b, p, :m] = run.points
        return nodes, weights

    def mass(
        self, a: float, b: float, *, closed: bool = True, scope: str = "batches", **options: Any
    ) -> Estimate:
        """Return the share of eigenvalues in [a, b]; see `spectra.quadrature.mass`."""
        return quadrature.mass(self.measure, a, b, closed=closed, scope=scope, **options)

    def soft_mass(self, tau: float, order: int = 2, **options: Any) -> Estimate:
        """Return the mean of 1/(1 + (λ/τ)^(2·order)); see `spectra.quadrature.soft_mass`."""
        return quadrature.soft_mass(self.measure, tau, order, **options)

    def effective_dimension(self, tau: float, **options: Any) -> Estimate:
        """Return n(1 − soft mass of order 1) = tr H²(H² + τ²)⁻¹, a number of directions."""
        return quadrature.effective_dimension(self.measure, tau, **options)

    def resolution(self, width: float = 0.05, **options: Any) -> tuple[float, int] | None:
        """Return the smallest threshold whose soft share is known to `width`, and its order."""
        return quadrature.resolution(self.measure, width, **options)

    def smoothed_density(
        self, grid: Floats, width: float | Floats | None = None, **options: Any
    ) -> SmoothedDensity:
        """Return the density seen through Lorentzians of half-width `width`, with its band."""
        return quadrature.smoothed_density(self.measure, grid, width, **options)

    def log_determinant(self, tau: float, **options: Any) -> Estimate:
        """Return (1/n) ln det(I + H²/τ²); see `spectra.quadrature.log_determinant`."""
        return quadrature.log_determinant(self.measure, tau, **options)

    def mean_magnitude(self, **options: Any) -> Estimate:
        """Return the mean of |λ|; see `spectra.quadrature.mean_magnitude`."""
        return quadrature.mean_magnitude(self.measure, **options)

    def cdf(self, x: float, **options: Any) -> Estimate:
        """Return the share of eigenvalues ≤ x; see `spectra.quadrature.cdf`."""
        return quadrature.cdf(self.measure, x, **options)

    def quantile(self, p: float, **options: Any) -> Estimate:
        """Return the p-quantile of λ, or of |λ| with `magnitude=True`."""
        return quadrature.quantile(self.measure, p, **options)

    def moment(self, power: int, **options: Any) -> Estimate:
        """Return the mean of λ^power: tr(H)/n for 1, tr(H²)/n for 2."""
        return quadrature.moment(self.measure, power, **options)

    def extremes(self, **options: Any) -> tuple[Estimate, Estimate]:
        """Return λmin and λmax."""
        return quadrature.extremes(self.measure, **options)

    def density(self, grid: Floats, **options: Any) -> Floats:
        """Return the smoothed density at `grid`, (G,), per unit of λ."""
        return quadrature.density(self.measure, grid, **options)

    def log_density(self, grid: Floats, **options: Any) -> Floats:
        """Return the smoothed density of log₁₀|λ| at `grid` (values of log₁₀|λ|), (G,)."""
        return quadrature.log_density(self.measure, grid, **options)

    def outliers(self) -> list[tuple[float, int]]:
        """Return (value, multiplicity) of the isolated eigenvalues of the first operator."""
        return quadrature.pooled_outliers(self.measure)

    def save(self, path: str | Path) -> Path:
        """Write the record to the directory `path`; see `spectra.record.files`."""
        from spectra.record.files import save

        return save(self, Path(path))


def probe_dim(metadata: dict[str, Any]) -> int:
    """Return the dimension of the space that a record's probes live in.

    That is `dim_unmasked`, masked coordinates being added as exact zeros, or `dim` where the probes
    were drawn on all coordinates.
    """
    dim = int(metadata["dim"])
    on_all = metadata.get("estimator", {}).get("probe_space") == "all"
    return dim if on_all else int(metadata.get("dim_unmasked", dim))
