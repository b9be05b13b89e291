"""Intervals of the mean of f(λ) over all eigenvalues, whatever the spectrum: exponential tilting.

A spherical probe gives the n eigenvalues the random weights w_i = g_i²/Σg_j², g Gaussian, and shows
the measure Ψ = Σ w_i δ(λ_i); asked for is Φ(f) = (1/n) Σ f(λ_i). Where a few eigenvalues carry f
(outliers, power laws, small n) Ψ(f) is far from normal, and what it says of its own variance is as
uncertain as itself. Dirichlet weights have the exact identity (Markov & Krein; Lauricella)

    E (Σ c_i w_i)^{−n/2} = Π c_i^{−1/2}   for any c_i > 0,

so that with c_i = exp(t f(λ_i)), for every t and every spectrum,

    E exp( (n/2) [t Φ(f) − ln Ψ(e^{tf})] ) = 1.                                               (1)

The supremum over t of the bracket is K(Φ(f)), where K(μ) is the least Kullback–Leibler divergence
KL(Φ'‖Ψ) of a measure Φ' with mean Φ'(f) = μ; it is attained by tilting, dΦ' ∝ e^{tf} dΨ (Efron,
Can. J. Stat. 9, 1981). So means μ are refuted where n K(μ) is large. By (1) and Markov's inequality
n K ≥ 2 ln(1/η) has probability η at fixed t; the signed root R = ±√(n K) is near normal, which is
sharper, and the interval is all μ with

    R(μ) ≤ z √(1 + b) + (√2/3) s₊,    s = Φ'(d³)/(√n σ³), ρ = Φ'(d⁴)/(n σ⁴), d = f − μ, σ² = Φ'(d²),

where s, the skewness of Ψ(f) over √8, is the shift of the signed root by the Cornish–Fisher
expansion (for k equal outliers s = 1/√k, and R is that of χ²_k: z = 1.96 is to be 2.43 at k = 1 and
2.03 at k = 50, the formula gives 2.43 and 2.03), and b = ¾[(ρ + 2/n)/3 − (2/9)s²]₊ is Bartlett's
correction of the variance of R (n = 2: R = √(−ln sin² 2φ), φ uniform). Both are taken from the
tilted measure, the spectrum that μ supposes. Where many eigenvalues carry f they vanish, and the
interval is the normal one. The risk is taken `MARGIN` times smaller, so that the coverage, measured
over families of spectra in tests/coverage, is above what is said.

*Several probes.* Ψ is the mean over all runs and n the total count, by the concavity of the
logarithm in (1); operators of several batches enter as one spectrum.

*Eigenvalues that are certain.* Where a Ritz value θ_j has converged and stands alone there is an
eigenvalue, whatever weight the probe gave it. So, with c = Ψ(f) and S any set of such,

    Φ(f) = c + (1/n) Σ_S (f(θ_j) − c) + (the mean of f − c over all but these eigenvalues),

and for a lower end, S being those with f(θ_j) > c, the last term is at least the lower end for
(f − c) with 0 in place of f(θ_j) − c, wherever the weight seen at θ_j comes from. No multiplicity
is assumed. The better of this end and the plain one is taken, at the shares `SIMPLE` and the rest
of the risk. Left out of S is what has so large a weight that it must be many copies. An upper end
is at least that with one copy of each: a probe that hardly saw an eigenvalue is no evidence against
it. Where all n eigenvalues are certain the mean is known.

*Eigenvalues that were not seen.* For the end of the interval on which f is large Ψ is the
Gauss–Radau rule with a node at the outer bound of the spectrum (spectra.quadrature.extremes), which
has the moments to 2m of the run and puts there the weight that an unseen eigenvalue may have.

Shapes: K atoms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import NDArray

from spectra.quadrature.estimates import normal_quantile
from spectra.quadrature.extremes import outer_bounds
from spectra.quadrature.gauss import Floats
from spectra.quadrature.mass import effective_runs
from spectra.quadrature.measure import LONG, Measure, Run
from spectra.quadrature.outliers import find_outliers
from spectra.quadrature.radau import radau_rule

MARGIN = 0.7  # of the risk: what the approximation of the signed root may cost
SHIFT = math.sqrt(2) / 3
BARTLETT, LARGEST = 0.75, 0.5
CERTAIN = 1e-3  # largest residual of a certain eigenvalue, in units of the gap to its neighbours
SIMPLE = 0.3  # of the risk, on the end that counts certain eigenvalues as such
COPIES = 1e-3  # probability below which the weight of any certain eigenvalue is not that of one
NOTHING = 1e-60
FLATTEST, STEEPEST = 1e-14, 1e4  # tilts t, in units of 1/(range of f)
Function = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Atoms:
    """A measure with atoms.

    Attributes:
        x: Places, (K,).
        weights: Ψ of each, (K,), positive, summing to 1.
        certain: Share of one eigenvalue where one is certain, else 0, (K,).
        simple: Whether that may be one copy, (K,).
        count: Number of eigenvalues times probes.
    """

    x: Floats
    weights: Floats
    certain: Floats
    simple: NDArray[np.bool_]
    count: float

    def upper(self, f: Floats, risk: float) -> float:
        """Return the largest mean of f, given at the atoms, (K,), at one-sided `risk`."""
        if self.certain.sum() >= 1 - 1e-9:  # every eigenvalue is known
            return float(f @ self.certain) / float(self.certain.sum())
        centre = float(f @ self.weights)
        d = f - centre

        def counted(known: NDArray[np.bool_], share: float) -> float:
            rest = self._tilted_up(np.where(known, 0.0, d), share * risk)
            return centre + float(d[known] @ self.certain[known]) + rest

        small, large = self.simple & (d < 0), self.simple & (d > 0)
        end = self._tilted_up(f, (1 - SIMPLE if small.any() else 1.0) * risk)
        if large.any():  # what was hardly seen is there all the same
            end = max(end, counted(large, 1.0))
        return min(end, counted(small, SIMPLE)) if small.any() else end

    def _tilted_up(self, f: Floats, risk: float) -> float:
        top, low = float(f.max()), float(f.min())
        if not top > low:
            return top
        scaled = (f - low) / (top - low)  # in [0, 1]
        z = normal_quantile(1 - 2 * MARGIN * risk)

        def excess(exponent: float) -> float:
            p, divergence = self._tilted(scaled, math.exp(exponent))
            return math.sqrt(self.count * max(divergence, 0.0)) - self._limit(scaled, p, z)

        first, last = math.log(FLATTEST), math.log(STEEPEST)
        if excess(last) <= 0:
            return top
        exponent = scipy.optimize.brentq(excess, first, last, xtol=1e-7, rtol=1e-12)
        p, _ = self._tilted(scaled, math.exp(exponent))
        return low + (top - low) * float(scaled @ p)

    def _limit(self, f: Floats, p: Floats, z: float) -> float:
        """Return how large the signed root may be where the spectrum is p."""
        d = f - float(f @ p)
        deviation = math.sqrt(float((d * d) @ p))
        if deviation < NOTHING:  # p is at the largest f
            return z
        d = d / deviation
        square = d * d
        skew = float((square * d) @ p) / math.sqrt(self.count)
        fourth = float((square * square) @ p) / self.count
        more = BARTLETT * ((fourth + 2 / self.count) / 3 - 2 / 9 * skew**2)
        return z * math.sqrt(1 + min(max(more, 0.0), LARGEST)) + SHIFT * min(max(skew, 0.0), 1.0)

    def _tilted(self, f: Floats, t: float) -> tuple[Floats, float]:
        """Return the measure that e^{tf} tilts Ψ to, (K,), and its divergence from Ψ."""
        w = self.weights
        factor = np.exp(t * (f - 1.0))  # f ≤ 1: nothing overflows
        total = float(factor @ w)
        p = factor * w / total
        if t >= 1:
            return p, max(t * (float(f @ p) - 1.0) - math.log(total), 0.0)
        d = t * (f - float(f @ w))  # a small tilt keeps its digits
        excess = np.expm1(d - math.log1p(float(np.expm1(d) @ w)))
        return p, float(((1 + excess) * np.log1p(excess) - excess) @ w)


class Tilting:
    """Intervals of means over all eigenvalues of a measure; of its unmasked block.

    Attributes:
        measure: What was measured.
        risk: Of each interval, both sides together.
    """

    def __init__(self, measure: Measure, risk: float) -> None:
        self.measure, self.risk = measure, risk
        if measure.exact:  # the mean is known
            return
        self._certain = [_certain(row, measure) for row in measure.runs]
        sides = (-1, 1) if measure.spherical and measure.longest <= LONG else ()
        self._ends = {side: outer_bounds(measure, side, risk / 2) for side in sides}
        self._ends = {
            side: [side * end for end in ends]
            for side, ends in self._ends.items()
            if np.isfinite(ends).all()
        }

    def interval(self, f: Function) -> tuple[float, float]:
        """Return the interval of the mean of f over all eigenvalues."""
        if self.measure.exact:
            means = self.measure.per_run(lambda run: float(f(run.points[0]) @ run.points[1]))
            mean = float(np.mean([np.mean(row) for row in means]))
            return mean, mean
        return -self.upper(lambda x: -f(x)), self.upper(f)

    def upper(self, f: Function, share: float = 0.5) -> float:
        """Return the upper end for the mean of f, at `share` of the risk."""
        atoms = self._facing(f)
        return atoms.upper(f(atoms.x), share * self.risk)

    @cached_property
    def seen(self) -> Atoms:
        """What the probes see: the Gauss rule."""
        return self._atoms(None)

    @cached_property
    def _left(self) -> Atoms:
        return self._atoms(self._ends[-1])

    @cached_property
    def _right(self) -> Atoms:
        return self._atoms(self._ends[1])

    def _facing(self, f: Function) -> Atoms:
        """Return the atoms with one at the outer end at which f is larger."""
        if len(self._ends) < 2:
            return self.seen
        left, right = (float(f(np.array(self._ends[side])).max()) for side in (-1, 1))
        return self._left if left > right else self._right

    def _atoms(self, forced: Sequence[float] | None) -> Atoms:
        measure, parts = self.measure, []
        n, B = measure.dim_unmasked, measure.num_batches
        looks = max(sum(map(len, self._certain)), 1)
        for place, row in enumerate(measure.runs):
            if forced is None:
                rules = [run.points for run in row]
            else:
                rules = [radau_rule(r.alphas, r.betas, forced[place])[:2] for r in row]
            x = np.concatenate([nodes for nodes, _ in rules])
            w = np.concatenate([weights for _, weights in rules]) / len(row)
            x, w, one = _joined(x, w, self._certain[place])
            seen = n * len(row) * w  # χ² with as many degrees as probes, where it is one copy
            simple = one & (scipy.stats.chi2.sf(seen, len(row)) > COPIES / looks)
            parts.append((x, w / B, one / (n * B), simple))
        x, w, certain, simple = (np.concatenate([part[i] for part in parts]) for i in range(4))
        keep = w > 0
        count = float(n) * effective_runs(measure)
        return Atoms(x[keep], w[keep] / w.sum(), certain[keep], simple[keep], count)


def _certain(row: Sequence[Run], measure: Measure) -> list[tuple[float, float]]:
    """Return places and radii that hold an eigenvalue of one operator each, ascending."""
    found: list[tuple[float, float]] = []
    each = [
        (outlier.value, CERTAIN * outlier.gap)
        for run in row
        for outlier in find_outliers(run, measure.dim_unmasked, measure.delta)
        if outlier.residual + measure.delta <= CERTAIN * outlier.gap
    ]
    for value, radius in sorted(each):
        if found and value - radius <= found[-1][0] + found[-1][1]:  # seen by several probes
            found[-1] = found[-1][0], max(radius, found[-1][1])
        else:
            found.append((value, radius))
    return found


def _joined(
    x: Floats, w: Floats, certain: Sequence[tuple[float, float]]
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return atoms with those at one certain eigenvalue made one, and which are certain."""
    rest = np.ones(x.size, dtype=bool)
    places, weights = [], []
    for value, radius in certain:
        inside = rest & (np.abs(x - value) <= radius)
        total = float(w[inside].sum())
        if total > 0:
            places.append(float(x[inside] @ w[inside]) / total)
            weights.append(total)
            rest &= ~inside
    one = np.arange(len(places) + int(rest.sum())) < len(places)
    return np.append(places, x[rest]), np.append(weights, w[rest]), one
