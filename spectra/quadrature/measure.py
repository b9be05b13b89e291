"""The spectral measure that a set of Lanczos runs has seen, and its distribution function.

A `Measure` holds the Jacobi coefficients of every finished probe on every operator, and the facts
that turn them into statements about a spectrum: the dimension n, the dimension n_u that probes live
in (masked coordinates contribute exact zeros and are added exactly, not sampled), the share of
those n_u eigenvalues that is proven to be zero, and δ, the absolute error of one product.

With products wrong by δ the coefficients are those of an operator whose eigenvalues differ by at
most δ (Weyl), so every bound is evaluated at x ± δ and no interval narrower than δ is reportable.
Lost orthogonality widens the bounds and does not break them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from spectra.errors import UsageError
from spectra.quadrature.gauss import End, Floats, GaussRule, ends, gauss_rule
from spectra.quadrature.gauss import moment as run_moment
from spectra.quadrature.radau import RadauMasses, christoffel_number, radau_masses
from spectra.quadrature.stieltjes import sharp_bounds
from spectra.quadrature.twisted import ritz_residuals
from spectra.quadrature.weyl import Complexes, weyl_disc
from spectra.quadrature.windows import window_bounds, window_widths

LONG = 1000  # steps beyond which a Gauss–Radau rule, an eigendecomposition, takes seconds
EXACT = 1e4  # most units of rounding that an eigenvalue is off; genuine ones are some tens
ROUNDING_UNITS = 64.0  # of float64 machine epsilon times ‖T‖: the floor of δ


@dataclass(frozen=True)
class Run:
    """The Lanczos coefficients of one finished probe: alphas (m,), betas (m,), β_m included.

    `kept` are the nodes and weights of its Gauss rule, (m,) each, where they are known already: of
    ten thousand steps they cost an eigendecomposition of half a minute, residuals a few seconds.
    """

    alphas: Floats
    betas: Floats
    kept: tuple[Floats, Floats] | None = field(default=None, repr=False, compare=False)
    exact: ClassVar[bool] = False  # whether the spectrum itself is known, and no probe was needed

    def first(self, steps: int) -> Run:
        """Return the run of the first `steps` steps, which is a Lanczos run of its own."""
        return self if self.alphas.size <= steps else Run(self.alphas[:steps], self.betas[:steps])

    def scaled(self, exponent: int) -> Run:
        """Return the run of the operator times 2^exponent, which is exact."""
        return replace(
            self,
            alphas=np.ldexp(self.alphas, exponent),
            betas=np.ldexp(self.betas, exponent),
            kept=None,
        )

    def bounds(self, x: Floats) -> tuple[Floats, Floats]:
        """Return the sharp bounds of Ψ(x−) and Ψ(x) at finite `x`, each (X,)."""
        return sharp_bounds(self.alphas, self.betas, x)

    def masses(self, x: float) -> RadauMasses:
        """Return the extremal masses below, at and above `x`."""
        return radau_masses(self.alphas, self.betas, x)

    def windows(self, tau: Floats, order: int) -> tuple[Floats, Floats]:
        """Return bounds of the soft share that the probe sees, each (T,)."""
        return window_bounds(self.alphas, self.betas, tau, order)

    def window_widths(self, tau: Floats, order: int, steps: list[int]) -> list[Floats]:
        """Return the widths of these bounds after each of `steps`, (T,) each."""
        return window_widths(self.alphas, self.betas, tau, order, steps)

    def disc(self, z: Complexes) -> tuple[Complexes, Floats]:
        """Return centre and radius of the Weyl disc at every `z`, each (Z,)."""
        return weyl_disc(self.alphas, self.betas, z)

    def moment(self, power: int) -> float:
        """Return ∫ λ^power dΨ, exact for power ≤ 2m."""
        return run_moment(self.alphas, self.betas, power)

    def christoffel(self, x: float) -> float:
        """Return the Christoffel number at an `x` outside the Ritz values."""
        return christoffel_number(self.alphas, self.betas, x)

    @cached_property
    def rule(self) -> GaussRule:
        """The Gauss rule of this run."""
        if self.alphas.size <= LONG:
            return self._computed
        nodes, weights = self.points
        residuals, defect = ritz_residuals(self.alphas, self.betas, nodes)
        if defect > EXACT:  # kept nodes that are not this run's
            return self._computed
        return GaussRule(nodes, weights, residuals)

    @cached_property
    def _computed(self) -> GaussRule:
        return gauss_rule(self.alphas, self.betas)

    @cached_property
    def ends(self) -> tuple[End, End]:
        """The smallest and the largest Ritz value; of a long run without its whole rule."""
        if self.alphas.size > LONG:
            return ends(self.alphas, self.betas)
        nodes, residuals = self.rule.nodes, self.rule.residuals
        first, last = (End(float(nodes[i]), float(residuals[i])) for i in (0, -1))
        return first, last

    @property
    def points(self) -> tuple[Floats, Floats]:
        """Nodes, ascending, and weights of the Gauss rule, (m,) each."""
        return self.kept or (self._computed.nodes, self._computed.weights)


@dataclass(frozen=True)
class Measure:
    """Finished probes of B operators; `runs[b]` lists those of operator b (never empty).

    Attributes:
        runs: The coefficients.
        dim: Number of coordinates n, masked ones included.
        dim_unmasked: Dimension n_u of the space that the probes live in.
        product_error: Absolute error δ of one product.
        spherical: Whether probes are uniform on the sphere.
        zero_fractions: For each operator, the least share of its n_u eigenvalues that is proven to
            be exactly zero (structural zeros); empty where nothing is proven.
        ritz_error: How far a Ritz value may lie outside the spectrum, orthogonality being lost.
    """

    runs: tuple[tuple[Run, ...], ...]
    dim: int
    dim_unmasked: int
    product_error: float = 0.0
    spherical: bool = True
    zero_fractions: tuple[float, ...] = ()
    ritz_error: float = 0.0
    _cache: dict[float, list[list[RadauMasses]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not self.runs or not all(self.runs):
            raise UsageError("no finished probe to read a spectrum from; run at least one.")

    @property
    def num_batches(self) -> int:
        """Number of operators B."""
        return len(self.runs)

    @property
    def num_runs(self) -> int:
        """Number of probes over all operators."""
        return sum(len(row) for row in self.runs)

    @property
    def masked_fraction(self) -> float:
        """Share of coordinates that are masked: exact zero eigenvalues."""
        return 1.0 - self.dim_unmasked / self.dim

    @cached_property
    def exact(self) -> bool:
        """Whether every eigenvalue is known, so that no probe has an error."""
        return all(run.exact for row in self.runs for run in row)

    @cached_property
    def proven_zeros(self) -> Floats:
        """The share of the n_u eigenvalues of each operator that is proven to be zero, (B,)."""
        return np.array(self.zero_fractions or (0.0,) * self.num_batches)

    @cached_property
    def span(self) -> tuple[float, float]:
        """Smallest and largest Ritz value over all runs."""
        pairs = [run.ends for row in self.runs for run in row]
        return min(low.node for low, _ in pairs), max(high.node for _, high in pairs)

    @cached_property
    def delta(self) -> float:
        """Absolute error δ of one product, at least the rounding of float64 recurrences."""
        scale = max(abs(self.span[0]), abs(self.span[1]))
        return max(self.product_error, ROUNDING_UNITS * float(np.finfo(float).eps) * scale)

    @cached_property
    def steps(self) -> int:
        """Fewest Lanczos steps of any finished probe."""
        return min(run.alphas.size for row in self.runs for run in row)

    @cached_property
    def longest(self) -> int:
        """Most Lanczos steps of any finished probe."""
        return max(run.alphas.size for row in self.runs for run in row)

    def first(self, steps: int) -> Measure:
        """Return the measure of the first Lanczos steps of every run, at most `steps` of each.

        They are a Lanczos run of their own. Of runs of equal length a smoothed density is alike in
        its smoothing.
        """
        if self.longest <= steps:
            return self
        cut = tuple(tuple(run.first(steps) for run in row) for row in self.runs)
        return replace(self, runs=cut, _cache={})

    def per_run(self, function: Callable[[Run], float]) -> list[list[float]]:
        """Return `function` of every run, by operator."""
        return [[function(run) for run in row] for row in self.runs]

    def radau(self, x: float) -> list[list[RadauMasses]]:
        """Return the sharp bounds of every run at `x`; the last few points asked for are kept."""
        if x not in self._cache:
            if len(self._cache) >= 512:
                self._cache.clear()
            self._cache[x] = [[r.masses(x) for r in row] for row in self.runs]
        return self._cache[x]

    def cdf_lower(self, x: float) -> list[list[float]]:
        """Return lower bounds of each run's Ψ_v(x−) on the unmasked block, δ included."""
        return [[low for low, _ in row] for row in self._bounds(x - self.delta)]

    def cdf_upper(self, x: float) -> list[list[float]]:
        """Return upper bounds of each run's Ψ_v(x) on the unmasked block, δ included."""
        return [[high for _, high in row] for row in self._bounds(x + self.delta)]

    @cached_property
    def _far(self) -> dict[float, list[list[tuple[float, float]]]]:
        return {}

    def _bounds(self, x: float) -> list[list[tuple[float, float]]]:
        if self.exact or self.longest <= LONG or not math.isfinite(x):
            return [[(float(m.lower[0]), float(m.upper[0])) for m in row] for row in self.radau(x)]
        if x not in self._far:
            point = np.array([x])
            found = [[r.bounds(point) for r in row] for row in self.runs]
            self._far[x] = [[(float(low[0]), float(up[0])) for low, up in row] for row in found]
        return self._far[x]

    def nodes_and_weights(self) -> list[tuple[Floats, Floats]]:
        """Return, for each run, nodes and weights of the whole spectrum, masked zeros included."""
        share = self.dim_unmasked / self.dim
        pairs = []
        for row in self.runs:
            for run in row:
                nodes, weights = run.points[0], share * run.points[1]
                if share < 1:
                    nodes, weights = np.append(nodes, 0.0), np.append(weights, 1 - share)
                pairs.append((nodes, weights))
        return pairs


def require_spherical(measure: Measure, what: str) -> None:
    """Raise UsageError if the probes do not allow a statement about the distribution function."""
    if not measure.spherical:
        raise UsageError(
            f"{what} needs probes uniform on the sphere; this run used Rademacher probes, which "
            "serve traces only: estimate again with probe_kind='sphere'."
        )
