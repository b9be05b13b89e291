"""What each run of an adaptive estimate may take: its products, and the band it may stop at.

Both follow from the plan (spectra.estimation.planner) and the runs before it, in the order batch by
batch, probe by probe, and from nothing else. So a run that is resumed allows what one that was
never interrupted allowed.
"""

from __future__ import annotations

import math

import numpy as np

from spectra.estimation.planner import allowed_band, run_bands
from spectra.estimation.settings import DTYPES
from spectra.estimation.store import ProbeStore
from spectra.estimation.target import Goal, Target
from spectra.linalg import BasisPolicy
from spectra.quadrature.estimates import MIN_POPULATION, student_halfwidth
from spectra.quadrature.gauss import Floats
from spectra.quadrature.measure import ROUNDING_UNITS
from spectra.record import probe_dim

Place = tuple[int, int]


class Allowance:
    """The shares of runs, read from a record that grows.

    Attributes:
        target: What is asked.
        order: (batch, probe) of every run, as they come.
    """

    def __init__(self, store: ProbeStore, target: Target, policy: BasisPolicy) -> None:
        self.store, self.target, self.policy = store, target, policy
        batches, probes = store.steps.shape
        self.order: list[Place] = [(b, p) for b in range(batches) for p in range(probes)]
        self._dim = probe_dim(store.metadata)
        self._share = self._dim / int(store.metadata["dim"])

    def products(self, place: Place, most: int) -> int:
        """Return the steps that the run at `place` may make, `most` at the outside."""
        before = self._before(place)
        left = self.target.max_hvps - sum(int(self.store.steps[other]) for other in before)
        return min(most, max(1, left // (len(self.order) - len(before))))

    def radius(self, alphas: Floats, betas: Floats) -> float:
        """Return a bound of ‖T‖ by Gershgorin's circles."""
        return float(np.abs(alphas).max() + 2 * betas.max())

    def delta(self, alphas: Floats, betas: Floats) -> float:
        """Return δ as the record will have it, or a little more."""
        size = self.radius(alphas, betas)
        dtype = DTYPES[self.store.metadata["estimator"]["vector_dtype"]]
        stored = self.policy.rounding(self._dim, alphas.size, dtype) * size
        checks = self.store.metadata["checks"]
        known = (checks.get(name) or 0.0 for name in ("product_error", "condensed_error"))
        error = math.fsum(known) + stored
        return max(error, ROUNDING_UNITS * float(np.finfo(float).eps) * size)

    def goals(self, place: Place, delta: float, radius: float) -> list[Goal]:
        """Return what the run at `place` pursues.

        With tau="auto" the first run pursues the whole ladder, as far as its products go; the
        others the finest threshold that it has reached.
        """
        goals = self.target.goals(delta, radius)
        if self.target.tau is not None or place == self.order[0]:
            return goals
        near = [g for g in goals if g.tau is not None]
        low, high = self._bounds(self.order[0], near)
        reached = np.flatnonzero(high - low <= self._mean(place, near[-1]))
        finest = near[int(reached[0]) if reached.size else -1]
        return [finest, *(g for g in goals if g.tau is None)]

    def bands(self, place: Place, goals: list[Goal]) -> Floats:
        """Return the band that the run at `place` may have for each goal, (G,); may be ≤ 0."""
        means = np.array([self._mean(place, goal) for goal in goals])
        if self.target.scope == "population":
            return means  # uneven resolution would add to the spread of batches
        before = self._before(place)
        used = np.zeros(len(goals))
        for other in before:
            low, high = self._bounds(other, goals)
            used += high - low
        count = len(self.order)
        return (means * count - used) / (count - len(before))

    def satisfied(self, place: Place, most: int) -> bool:
        """Whether the run at `place` is there and does what is asked of it."""
        steps = int(self.store.steps[place])
        if not 0 < steps < self.products(place, most):
            return steps > 0
        alphas, betas = self.coefficients(place)
        goals = self.goals(place, self.delta(alphas, betas), self.radius(alphas, betas))
        low, high = self._bounds(place, goals)
        return bool((high - low <= self.bands(place, goals)).all())

    def coefficients(self, place: Place) -> tuple[Floats, Floats]:
        """Return alphas and betas of a finished run, each (m,)."""
        m = int(self.store.steps[place])
        return self.store.alphas[place][:m], self.store.betas[place][:m]

    def _before(self, place: Place) -> list[Place]:
        return self.order[: self.order.index(place)]

    def _bounds(self, place: Place, goals: list[Goal]) -> tuple[Floats, Floats]:
        alphas, betas = self.coefficients(place)
        return run_bands(alphas, betas, goals, self.delta(alphas, betas))

    def _mean(self, place: Place, goal: Goal) -> float:
        """Return the mean band that resolution may take, from what is known at `place`."""
        batch, spread = place[0], 0.0
        if self.target.scope == "population" and batch >= MIN_POPULATION:
            ends = np.array([self._bounds(o, [goal]) for o in self._before((batch, 0))])[:, :, 0]
            known = sum(student_halfwidth(side, self.target.confidence) for side in ends.T)
            spread = known * math.sqrt(len(ends) / len(self.order))
        return allowed_band(self.target, self._dim, len(self.order), self._share, spread)
