"""What differs between the spectra of two records of the same batches, with an interval.

Let A and B be measured on the same batches. What the batch shares cancels in a difference; the
error of the probes does not, as the eigenvectors differ, nor does resolution.

*These batches.* The intervals of A and B at 1 − η/2 each are subtracted,

    [lower_B − upper_A, upper_B − lower_A],

which holds with 1 − η however the probes of the two depend on each other: the same ones, others,
or as many as one likes. For a mass that is mean L_B − mean U_A − h_A − h_B and so on.

*The population over data* (B ≥ 3 batches). Batch by batch the difference lies between
L_B,b − U_A,b and U_B,b − L_A,b, of which the interval of spectra.quadrature.population is taken.
Here pairing pays: what is common to A and B in a batch is not in their spread. Where the bounds of
a batch rest on probability themselves (outer bounds of extremes, the Wasserstein distance), a tenth
of the risk is theirs.

*Which threshold.* The smallest threshold at which both records know the near-zero mass to 0.1 is
found by looking. It is looked for among `LADDER` only, and its interval holds for all of these.

*Soft shares* (spectra.quadrature.soft, order 2) are given at fixed thresholds, and at thresholds
relative to the rms eigenvalue of A: the rung of the fixed ladder that is nearest, so that its
interval holds for all rungs. Each is given of all coordinates, and of those a clip mask leaves.

*Equal operators.* Two records whose coefficients agree to rounding at every step they share come
from one start vector and one operator: for two operators, vᵀAv = vᵀBv and ‖Av‖ = ‖Bv‖ to rounding
have probability 0 for a random v. There every difference is 0.

*Wasserstein-1*: the mean over batches of ∫ |Φ_B,b(x) − Φ_A,b(x)| dx. Between two bands a distance
is at least the gap and at most the envelope (spectra.quadrature.wasserstein), and for these batches
also at least the difference of the mean eigenvalues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from spectra.errors import UsageError
from spectra.quadrature.curves import Curves, effective_rank, quantiles
from spectra.quadrature.estimates import (
    CONFIDENCE,
    RESOLVED_WIDTH,
    Estimate,
    check_confidence,
    check_scope,
)
from spectra.quadrature.extremes import outer_bounds
from spectra.quadrature.measure import Measure, require_spherical
from spectra.quadrature.population import population_interval
from spectra.quadrature.reading import (
    SPENT,
    Reading,
    Sums,
    extreme,
    masses,
    mean_size,
    rms,
    soft_share,
    trace,
)
from spectra.quadrature.soft import LADDER as LADDER_OF_SOFT
from spectra.quadrature.soft import RUNGS
from spectra.quadrature.summary import ABSOLUTE_TAUS
from spectra.quadrature.wasserstein import edge_risk, node_distance, spectral_distance

LADDER = tuple(float(f"{step}e{power}") for power in range(-6, 4) for step in (1, 2, 5))
LEVELS = (0.5, 0.9, 0.99)
RESOLVED = "near_zero_resolved"
SOFT_TAUS = (0.03, 0.1, 1.0)
SOFT_RMS = (0.1, 0.3)  # thresholds in units of A's rms eigenvalue
EQUAL = "equal operators: the Lanczos coefficients agree to rounding"
AGREE = 1e-12  # of the largest coefficient: rounding of float64 recurrences
MIN_STEPS = 2


@dataclass(frozen=True)
class Difference:
    """B − A of one quantity.

    Attributes:
        name: Of the quantity.
        a: The quantity of A at the same confidence; None for a distance.
        b: The quantity of B.
        value: The difference, or the distance.
        lower: Lower end of the interval; NaN where nothing can be said.
        upper: Upper end.
        scope: "batches" or "population".
        confidence: Of the interval, of this quantity alone.
        parts: Width of the interval by what makes it: resolution, probes, batches, product error.
        tau: Threshold of a near-zero mass.
        note: What a reader must know; empty when nothing.
    """

    name: str
    a: Estimate | None
    b: Estimate | None
    value: float
    lower: float
    upper: float
    scope: str
    confidence: float
    parts: dict[str, float] = field(default_factory=dict)
    tau: float | None = None
    note: str = ""

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0."""
        return self.lower > 0 or self.upper < 0

    @property
    def limited_by(self) -> str:
        """What makes the greatest part of the interval; empty for an exact difference."""
        name = max(self.parts, key=lambda part: self.parts[part], default="")
        return name if name and self.parts[name] > 0 else ""


def differences(
    a: Measure,
    b: Measure,
    *,
    scope: str = "batches",
    taus: Iterable[float] | None = None,
    confidence: float = CONFIDENCE,
    names: Collection[str] | None = None,
) -> list[Difference]:
    """Return B − A of every quantity, what is resolved best in front.

    Args:
        a: Measured on the same batches as `b`, in the same order.
        b: The other.
        scope: "batches" or "population".
        taus: Thresholds of near-zero masses, chosen beforehand; default those of a summary.
        confidence: Of each interval by itself.
        names: Quantities that are asked; default all, of which the curves take most of the time.

    Raises:
        UsageError: If a name is not known, dimensions or batches differ, the probes are not
            spherical, a threshold is not positive, the scope needs more batches, or a record has a
            single Lanczos step.
    """
    check_confidence(confidence)
    for measure in (a, b):
        require_spherical(measure, "a comparison")
    if (a.dim, a.num_batches) != (b.dim, b.num_batches):
        raise UsageError(
            f"the measures have {a.num_batches} and {b.num_batches} batches of dimension {a.dim} "
            f"and {b.dim}; only the same batches of one dimension can be paired."
        )
    check_scope(scope, a.num_batches)
    if min(a.steps, b.steps) < MIN_STEPS:
        raise UsageError(
            f"{min(a.steps, b.steps)} Lanczos step knows no error of the mean square eigenvalue; "
            f"run at least {MIN_STEPS}."
        )
    thresholds = [float(tau) for tau in (ABSOLUTE_TAUS if taus is None else taus)]
    for tau in thresholds:
        if not 0 < tau < math.inf:
            raise UsageError(f"tau={tau:g} is not a threshold; pass a positive number.")
    pair = _Pair(a, b, scope, 1 - confidence)
    both, sums = pair.both, pair.sums
    quantities: dict[str, Callable[[], Difference]] = {
        name: partial(pair.difference, name, read)
        for name, read in {
            "rms_eigenvalue": lambda place, r: rms(sums[place], r),
            "lambda_max": lambda place, r: extreme(both[place], 1, scope, r),
            "lambda_min": lambda place, r: extreme(both[place], -1, scope, r),
            "spectral_norm": lambda place, r: extreme(both[place], 0, scope, r),
            "trace": lambda place, r: trace(sums[place], r),
        }.items()
    }
    quantities["mean_magnitude"] = pair.magnitude
    for tau in sorted({*SOFT_TAUS, *thresholds}):
        quantities |= pair.soft(f"{tau:g}", tau, 1)
    for factor in SOFT_RMS:
        quantities |= pair.soft(f"rms_{factor:g}", pair.rung(factor), RUNGS)
    quantities["wasserstein"] = pair.distance
    quantities["negative_mass"] = pair.negative
    quantities[RESOLVED] = pair.resolved_mass
    for tau in sorted(set(thresholds)):
        quantities[f"near_zero_{tau:g}"] = partial(pair.near_zero, tau)
    for place, level in enumerate(LEVELS):
        quantities[f"abs_quantile_{level:g}"] = partial(pair.quantile, place)
    quantities["effective_rank"] = pair.rank
    unknown = sorted(set(names or ()) - set(quantities))
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no quantity; pass names of {', '.join(quantities)}.")
    return [make() for name, make in quantities.items() if names is None or name in names]


def equal_operators(a: Measure, b: Measure) -> bool:
    """Whether the runs of two measures agree to rounding at every step that both have."""
    if [len(row) for row in a.runs] != [len(row) for row in b.runs]:
        return False
    for mine, other in zip(a.runs, b.runs, strict=True):
        for x, y in zip(mine, other, strict=True):
            m = min(x.alphas.size, y.alphas.size)
            scale = max(float(np.abs(x.alphas[:m]).max()), float(x.betas[:m].max()))
            change = max(
                float(np.abs(x.alphas[:m] - y.alphas[:m]).max()),
                float(np.abs(x.betas[:m] - y.betas[:m]).max()),
            )
            if m < MIN_STEPS or change > AGREE * scale:
                return False
    return a.masked_fraction == b.masked_fraction


class _Pair:
    """Two measures of the same batches, a scope and a risk."""

    def __init__(self, a: Measure, b: Measure, scope: str, risk: float) -> None:
        self.both, self.scope, self.risk = (a, b), scope, risk
        self.sums = (Sums(a), Sums(b))
        self.equal = equal_operators(a, b)
        self.edges = [
            (-np.array(outer_bounds(m, -1, edge_risk(risk))),
             np.array(outer_bounds(m, 1, edge_risk(risk))))
            for m in self.both
        ]  # fmt: skip

    @cached_property
    def curves(self) -> Curves:
        """Bounds of both distribution functions, which are dear."""
        return Curves(self.both, max(float(np.abs(edge).max()) for edge in self.edges))

    def difference(
        self,
        name: str,
        read: Callable[[int, float], Reading],
        *,
        tau: float | None = None,
        events: int = 1,
    ) -> Difference:
        """Subtract what `read(place, risk)` gives for A (place 0) from that for B (place 1).

        `events`: so many such differences are to hold at once.
        """
        a, b = (read(place, self.risk).estimate(self.scope, self.risk) for place in (0, 1))
        risk = self.risk / events
        first, second = (read(place, risk / 2) for place in (0, 1))
        low, high = second.low - first.high, second.high - first.low
        product = 2 * (first.product + second.product)
        parts = {
            "resolution": max(float((high - low).mean()) - product, 0.0),
            "product error": product,
        }
        ends = [one.estimate("batches", risk / 2) for one in (first, second)]
        lower, upper = ends[1].lower - ends[0].upper, ends[1].upper - ends[0].lower
        random = float(sum(first.random) + sum(second.random))
        if self.scope == "population" and first.paired:
            level = 1 - risk * (1 - first.spent)
            lower, upper = map(float, population_interval(low, high, level, (lower, upper)))
            random = max(upper - lower - float((high - low).mean()), 0.0)
        parts[self._sampling] = random
        limits = second.limits[0] - first.limits[1], second.limits[1] - first.limits[0]
        lower, upper = max(lower, limits[0]), min(upper, limits[1])
        value = min(max(second.value - first.value, lower), upper)
        note = "" if first.paired else "each record's own interval: pairing does not narrow it"
        if self.equal:
            value, lower, upper, parts, note = 0.0, 0.0, 0.0, {}, EQUAL
        return Difference(
            name, a, b, value, lower, upper, self.scope, 1 - self.risk, parts, tau, note
        )

    @property
    def _sampling(self) -> str:
        return "batches" if self.scope == "population" else "probes"

    def mass(self, name: str, a: float, b: float, *, zeros: bool, **facts: Any) -> Difference:
        """Compare the shares of eigenvalues in [a, b]."""

        def read(place: int, risk: float) -> Reading:
            ends = np.array([a]), np.array([b])
            return masses(self.both[place], *ends, risk, zeros=zeros)[0]

        return self.difference(name, read, **facts)

    def soft(self, name: str, tau: float, events: int) -> dict[str, Callable[[], Difference]]:
        """Return the comparisons of the soft share at `tau`, of all and of unmasked coordinates."""
        found: dict[str, Callable[[], Difference]] = {
            f"soft_{name}": partial(self._soft, f"soft_{name}", tau, events, False)
        }
        if any(measure.masked_fraction > 0 for measure in self.both):
            name = f"soft_unmasked_{name}"
            found[name] = partial(self._soft, name, tau, events, True)
        return found

    def _soft(self, name: str, tau: float, events: int, unmasked: bool) -> Difference:
        def read(place: int, risk: float) -> Reading:
            return soft_share(self.both[place], tau, risk, unmasked=unmasked)

        return self.difference(name, read, tau=tau, events=events)

    def rung(self, factor: float) -> float:
        """Return the rung of the ladder nearest to `factor` times A's rms eigenvalue."""
        share = self.both[0].dim_unmasked / self.both[0].dim
        size = math.sqrt(share * float(self.sums[0].second.mean()))
        wanted = max(factor * size, LADDER_OF_SOFT[0])
        return min(LADDER_OF_SOFT, key=lambda tau: abs(math.log(tau / wanted)))

    def magnitude(self) -> Difference:
        """Compare the means of |λ|."""

        def read(place: int, risk: float) -> Reading:
            return mean_size(self.both[place], risk)

        return self.difference("mean_magnitude", read)

    def negative(self) -> Difference:
        """Compare the masses below the larger −δ, strictly left of exact zeros."""
        edge = -max(measure.delta for measure in self.both)
        return self.mass("negative_mass", -math.inf, edge, zeros=False)

    def near_zero(self, tau: float, *, name: str = "", events: int = 1) -> Difference:
        """Compare the masses of |λ| ≤ τ; nothing is said below the product errors."""
        name, error = name or f"near_zero_{tau:g}", max(m.product_error for m in self.both)
        if tau < error:
            return self.unknown(name, tau, f"below the product error δ = {error:.2g}")
        return self.mass(name, -tau, tau, zeros=True, tau=tau, events=events)

    def resolved_mass(self) -> Difference:
        """Compare the near-zero masses at the smallest threshold that both resolve."""
        ladder = np.array([t for t in LADDER if t >= max(m.product_error for m in self.both)])
        widths = np.zeros(ladder.size)
        for measure in self.both:
            found = masses(measure, -ladder, ladder, self.risk, zeros=True)
            widths = np.maximum(widths, [one.estimate("batches", self.risk).width for one in found])
        narrow = ladder[widths <= RESOLVED_WIDTH]
        if not narrow.size:
            words = f"no threshold up to {LADDER[-1]:g} is resolved to {RESOLVED_WIDTH:g} in both"
            return self.unknown(RESOLVED, None, words)
        return self.near_zero(float(narrow[0]), name=RESOLVED, events=len(LADDER))

    def unknown(self, name: str, tau: float | None, note: str) -> Difference:
        """Return a row that says nothing but why."""
        nan = math.nan
        return Difference(
            name, None, None, nan, nan, nan, self.scope, 1 - self.risk, tau=tau, note=note
        )

    def distance(self) -> Difference:
        """Return the Wasserstein-1 distance."""
        population = self.scope == "population"
        spent = SPENT if population else 0.5
        seen = spectral_distance(self.curves, self.edges, 0.0)
        ends = spectral_distance(self.curves, self.edges, self.risk * (spent - SPENT / 2))
        low, high = (float(end.mean()) for end in ends)
        resolution = float((seen[1] - seen[0]).mean())
        parts = {"resolution": resolution, "probes": max(high - low - resolution, 0.0)}
        if population:
            level = 1 - self.risk * (1 - SPENT)
            wide = population_interval(*ends, level, (low, high))
            parts["batches"] = float(wide[1] - wide[0]) - (high - low)
            low, high = max(float(wide[0]), 0.0), float(wide[1])
        else:  # no distance is below the difference of the means; half of the risk each
            mean = self.difference("trace", lambda place, r: trace(self.sums[place], r), events=2)
            low = max(low, mean.lower / self.both[0].dim, -mean.upper / self.both[0].dim)
        value = min(max(node_distance(*self.both), low), high)
        if self.equal:
            return Difference(
                "wasserstein", None, None, 0.0, 0.0, 0.0, self.scope, 1 - self.risk, note=EQUAL
            )
        return Difference(
            "wasserstein", None, None, value, low, high, self.scope, 1 - self.risk, parts
        )

    def rank(self) -> Difference:
        """Compare effective ranks."""

        def read(place: int, risk: float) -> Reading:
            return effective_rank(self.curves, place, self.sums[place], risk)

        return self.difference("effective_rank", read)

    def quantile(self, level: int) -> Difference:
        """Compare a quantile of |λ|."""
        return self.difference(f"abs_quantile_{LEVELS[level]:g}", partial(self._quantile, level))

    def _quantile(self, level: int, place: int, risk: float) -> Reading:
        return quantiles(self.curves, place, LEVELS, self.scope, risk)[level]
