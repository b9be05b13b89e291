"""An estimate that stops when it knows enough: runs extended until their bands are narrow.

The plan is that of spectra.estimation.planner. Runs come one after the other, so one graph and one
basis live at a time, and each is one Lanczos run from its first step to its last: products are
never made twice. After every sixteenth of its steps so far the band of each asked mass is looked
at, O(m) work on coefficients.

*Memory.* How many steps a run will take is not known when it begins. The basis is kept for as many
vectors as fit (`basis_steps` of the record); a run that needs more goes on from there with the
converged ones of them alone (`spectra.linalg.Lanczos.condense`): its bounds stay valid, ghosts of
what converges later widen them, and what that costs is more steps, which the band shows.

*Resuming.* A record is written after every run. What a run is allowed, band and products, follows
from the runs before it in the record, so going on after an interruption makes the record that an
uninterrupted run makes; the interrupted run itself begins anew, its products spent again, unless
its state is saved on the way (spectra.estimation.halfway). Going on with other demands (`tol`,
`tau`, `max_hvps`) keeps every run that satisfies them and begins the others anew from their first
step. Each interval so obtained holds with its confidence; several looked at in turn do not all hold
with it at once.
"""

from __future__ import annotations

import logging
from dataclasses import astuple
from typing import Any

import numpy as np
import torch

from spectra.errors import UsageError
from spectra.estimation.allowance import Allowance, Place
from spectra.estimation.checking import VectorSampler
from spectra.estimation.memory import MemoryPlan, plan_basis
from spectra.estimation.planner import PILOT, predict_steps, run_bands
from spectra.estimation.progress import ProductBar
from spectra.estimation.runner import Family, Runner
from spectra.estimation.settings import SLQSettings
from spectra.estimation.slicing import room_for_slices
from spectra.estimation.target import SOFT, Goal, Target
from spectra.linalg import Lanczos, SymmetricOperator, VectorSpace
from spectra.parallel import Group
from spectra.quadrature.gauss import Floats
from spectra.record import Spectrum

log = logging.getLogger(__name__)

LOOKS = 16  # the band is looked at after every such part of the steps so far
WAY = ("measured", "goals", "allowed", "until")  # what a run on its way must know to go on
ORTHOGONALITY_STEPS = 256  # |QᵀQ − I| costs as much as the run itself: of the first vectors only


class RunSampler(VectorSampler):
    """Keeps two vectors of the pilot, and in `last` the newest one."""

    def __init__(self, space: VectorSpace) -> None:
        super().__init__(PILOT, space)
        self.last: torch.Tensor | None = None

    def __call__(self, step: int, Q: torch.Tensor, HQ: torch.Tensor) -> None:
        """Observe one Lanczos step; see `spectra.linalg.Lanczos.extend`."""
        super().__call__(step, Q, HQ)
        self.last = Q[0]


def plan_beside_graph(
    family: Family, settings: SLQSettings, kept: int | None, slices: Group | None = None
) -> MemoryPlan:
    """Return `plan_basis` for a family, planned while the graph of its first operator is there."""
    operator: Any = family.operator(0)
    prepared = hasattr(operator, "prepare")
    if prepared:
        operator.prepare()
    place = operator.dtype, operator.device, kept
    if slices is None:
        plan = plan_basis(settings, operator.dim, *place)
    else:
        least, length = room_for_slices(operator, settings, slices)
        plan = slices.first(lambda: plan_basis(least, length, *place))
    if prepared:
        operator.release()
    return plan


def vectors_kept(earlier: Spectrum | None, target: Target) -> int | None:
    """Return how many vectors a run of the same demands has kept, None to decide."""
    return None if earlier is None else _asked_before(earlier, target).get("basis_steps")


def _asked_before(earlier: Spectrum, target: Target) -> dict[str, Any]:
    """Return the section `adaptive` of an earlier record if it was asked the same, else {}."""
    section: dict[str, Any] = earlier.metadata.get("adaptive", {})
    return section if section.get("asked") == target.metadata() else {}


class AdaptiveRunner(Runner):
    """The probes of an adaptive estimate; see the module's docstring."""

    def pursue(self, target: Target, earlier: Spectrum | None) -> AdaptiveRunner:
        """Set what is asked, and the record that this one goes on from; return self."""
        self.target, self.most = target, self.settings.lanczos_steps
        self.kept = self.plan.kept or 0
        self.same = earlier is not None and bool(_asked_before(earlier, target))
        self.allowance = Allowance(self.store, target, self.plan.policy)
        self.again = 0
        return self

    def run(self) -> None:
        """Run every probe that is missing, or that falls short of what is asked now."""
        batches, probes = self.store.steps.shape
        with ProductBar(self.target.max_hvps, self.description, show=self.progress) as bar:
            bar.advance(int(self.store.steps.sum()), np.zeros(0), np.zeros(0))
            for batch in range(batches):
                todo = [p for p in range(probes) if not self._done((batch, p))]
                if todo:
                    self._batch(batch, todo, bar)
        if self.again:
            self.store.metadata["notes"].append(
                f"{self.again:,} products of an earlier part of this run were spent again: probes "
                "that fell short of what is asked now were run from their first step"
            )

    def _done(self, place: Place) -> bool:
        if self.same:
            return int(self.store.steps[place]) > 0
        return self.allowance.satisfied(place, self.most)

    def _block(
        self, operator: SymmetricOperator, batch: int, probes: list[int], bar: ProductBar
    ) -> None:
        place = (batch, probes[0])
        self.again += int(self.store.steps[place])
        lanczos = Lanczos(
            self._in_slices(operator),
            self._probe(operator, *place),
            basis=self.plan.policy,
            vector_dtype=self.settings.working_dtype(operator.dtype),
        )
        measuring = self.settings.check and self.checks.sampler(PILOT) is not None
        sampler = RunSampler(lanczos.space) if measuring else None
        allotted = self.allowance.products(place, self.most)
        self.way: dict[str, Any] = {"run": place, "measured": False}
        if self.halfway is not None:
            lanczos.reserve(min(self.kept, allotted))
            known = self._take(lanczos, place[0], [place[1]], sampler, bar)
            self.way |= {name: known[name] for name in WAY if name in known}
        if sampler is not None and lanczos.num_steps:
            sampler.last = lanczos.last_vector
        if not self.way["measured"]:
            self._extend(lanczos, min(PILOT, allotted), sampler, bar)
            if sampler is not None:  # before anything is decided: every band depends on δ
                self.checks.after(operator, sampler)
                sampler.vectors.clear()
            self.way["measured"] = True
        self._check_reportable()
        lanczos.reserve(min(self.kept, allotted))
        self._pursue(lanczos, place, allotted, sampler, bar)
        self._orthogonality(lanczos)
        count = int(lanczos.steps[0])
        self.cost["hvps"] += count
        self.store.put(*place, lanczos.alphas[0, :count], lanczos.betas[0, :count])
        if sampler is not None and sampler.last is not None:
            before = int(self.store.metadata["checks"]["product_error_vectors"])
            sampler.vectors.append(sampler.last)
            del lanczos  # its vectors would stand beside the float64 graph of the last check
            self.checks.after(operator, sampler)
            self.store.metadata["checks"]["product_error_vectors"] = before + 1

    def _check_reportable(self) -> None:
        measured = float(self.store.metadata["checks"].get("product_error") or 0.0)
        for tau in self.target.tau or ():
            if tau < measured:
                raise UsageError(
                    f"tau={tau:g} is below the product error δ={measured:.3g}, under which nothing "
                    "can be told; ask for a larger one, or estimate in a higher precision."
                )

    def _pursue(
        self,
        lanczos: Lanczos,
        place: Place,
        allotted: int,
        sampler: RunSampler | None,
        bar: ProductBar,
    ) -> None:
        """Extend one run until every goal's band is narrow enough, or its products are spent."""
        ladder = self.target.tau is None and place == self.allowance.order[0]
        part = LOOKS // 4 if ladder else LOOKS
        goals, allowed = self._begun(lanczos, place)
        self._extend(lanczos, self.way.get("until", 0), sampler, bar)
        history: list[tuple[int, Floats]] = []
        told = PILOT
        while True:
            steps = lanczos.num_steps
            ends = run_bands(lanczos.alphas[0], lanczos.betas[0], goals, self._delta(lanczos))
            history.append((steps, ends[1] - ends[0]))
            if (history[-1][1] <= allowed).all() or lanczos.finished or steps >= allotted:
                break
            if steps >= 4 * told and not ladder:
                told = steps
                self._tell(place, allotted, goals, history, allowed, lanczos)
            self.way["until"] = min(allotted, steps + max(1, steps // part))
            self._extend(lanczos, self.way["until"], sampler, bar)

    def _begun(self, lanczos: Lanczos, place: Place) -> tuple[list[Goal], Floats]:
        """Return what a run pursues and the band it may have, as they were after the pilot."""
        if "goals" in self.way:
            return [Goal(*goal) for goal in self.way["goals"]], np.array(self.way["allowed"])
        radius = self.allowance.radius(lanczos.alphas[0], lanczos.betas[0])
        goals = self.allowance.goals(place, self._delta(lanczos), radius)
        allowed = self.allowance.bands(place, goals)
        self.way |= {"goals": [astuple(goal) for goal in goals], "allowed": allowed.tolist()}
        return goals, allowed

    def _way(self) -> dict[str, Any]:
        return self.way

    def _delta(self, lanczos: Lanczos) -> float:
        return self.allowance.delta(lanczos.alphas[0], lanczos.betas[0])

    def _extend(
        self, lanczos: Lanczos, steps: int, sampler: RunSampler | None, bar: ProductBar
    ) -> None:
        while lanczos.num_steps < steps and not lanczos.finished:
            if lanczos.num_steps == self.kept and lanczos.policy.where != "none":
                self._orthogonality(lanczos)
                lanczos.condense()
            lanczos.extend(1, observe=sampler)
            self.checks.condensed(lanczos)
            bar.advance(1, lanczos.alphas[0], lanczos.betas[0])
            if lanczos.num_steps == ORTHOGONALITY_STEPS:
                self._orthogonality(lanczos)
            batch, probe = self.way["run"]
            self._keep(lanczos, batch, [probe], sampler)

    def _orthogonality(self, lanczos: Lanczos) -> None:
        if self.settings.check and "orthogonality_loss" not in self.checks.section:
            self.checks.orthogonality(lanczos)

    def _tell(
        self,
        place: Place,
        allotted: int,
        goals: list[Goal],
        history: list[tuple[int, Floats]],
        allowed: Floats,
        lanczos: Lanczos,
    ) -> None:
        reach = self.allowance.radius(lanczos.alphas[0], lanczos.betas[0])
        needs = [
            predict_steps(
                [(m, float(bands[g])) for m, bands in history],
                limit,
                reach,
                goal.tau,
                soft=goal.name == SOFT,
            )
            for g, (goal, limit) in enumerate(zip(goals, allowed.tolist(), strict=True))
        ]
        worst = int(np.argmax(needs))
        log.info(
            "batch %d, probe %d: band %.3f after %d steps, %.3f wanted: %s will do, %d allotted",
            *place,
            history[-1][1][worst],
            history[-1][0],
            allowed[worst],
            f"about {needs[worst]:,.0f}" if np.isfinite(needs[worst]) else "no number",
            allotted,
        )
