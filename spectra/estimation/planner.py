"""How to spend products: what is asked, how many probes, how many steps each run may take.

Asked is the width of intervals: every asked mass to ±tol, an interval of 2·tol with everything in
it. Its width has three parts (spectra.quadrature.estimates),

    width = resolution (mean over runs of the band U − L)  +  probes (2h)  or  batches (2t s/√B),

2h for the scope "batches", the spread for "population". They are treated differently on purpose.

*Probes, beforehand.* h = √(ln(2/η)/((n + 2)BP)) contains nothing measured, so P is fixed before the
first product. With a band that falls like 1/m the products P·m ∝ P/(2·tol − 2h) are fewest where
the probes take two thirds of the width; at n = 10⁶ that is P = 1. Because P is fixed, looking at
the band as often as one likes costs no confidence: h bounds what the probes see of the whole
spectrum, and L ≤ Ψ ≤ U holds at every number of steps.

*Batches, beforehand.* The scope "batches" speaks of the batches given, all of them. For the
population a run that adds batches until their spread looks small would void Student's t, so their
number is the caller's; a record says how many would have done. Resolution is then asked to take a
third of the width, which is the optimum where batches are the price of the rest, and no more than
half of the spread found so far where that alone exceeds what was asked.

*Steps, as they are needed.* Runs come one after the other, each extended until its band is as
narrow as the runs before it leave it to be: R runs may have bands that add up to R times the
allowed one, so a batch that is easy pays for one that is hard, and batches need not have the same
number of steps. Products are allotted alike: of what is left, an equal share for each run to come.

*auto* asks for the finest statement the products buy. Thresholds are the 1-2-5 ladder of
spectra.estimation.target, fixed beforehand, and every interval holds for all of them at once (η
over their number), so the smallest one resolved may be chosen after looking. The first run spends
its whole share and shows which threshold that is; the others stop when they resolve it too.

A mass and an extreme eigenvalue have no common unit of tolerance, and λmin and λmax settle long
before any interior mass: they are reported, not asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spectra.errors import UsageError
from spectra.estimation.settings import SLQSettings
from spectra.estimation.target import SOFT, Goal, Target
from spectra.quadrature.estimates import MIN_POPULATION, probe_halfwidth
from spectra.quadrature.gauss import Floats
from spectra.quadrature.soft import DEFAULT_ORDER
from spectra.quadrature.stieltjes import sharp_bounds
from spectra.quadrature.windows import window_bounds

PILOT = 16  # steps before the band is looked at first
BAND_SHARE = 1 / 3  # of the width, for resolution, where batches are the price of the rest
SLACK = 4e-7  # of the width: the bands looked at on the way are rounded by 5e-8 an end


def settled(
    settings: SLQSettings, target: Target, room: int, dim: int, operators: int
) -> SLQSettings:
    """Return the settings of an adaptive run: its probes, and the most steps one may take.

    Args:
        settings: As they were given.
        target: What is asked.
        room: Dimension that probes live in.
        dim: Dimension of the operators.
        operators: Their number B.

    Raises:
        UsageError: If `target` cannot be asked of these operators.
    """
    if settings.probe_kind != "sphere" or settings.block_size != 1:
        raise UsageError(
            f"tol needs probe_kind=sphere and block_size=1 ({settings.probe_kind!r} and "
            f"{settings.block_size} were given): its runs differ in length; leave them out."
        )
    if target.scope == "population" and operators < MIN_POPULATION:
        raise UsageError(
            f"scope='population' needs at least {MIN_POPULATION} batches to know their spread, "
            f"{operators} given; pass more with reduce='per_batch', or scope='batches'."
        )
    share = room / dim
    probes = target.num_probes or planned_probes(target, room, operators, share)
    runs = operators * probes
    if target.max_hvps < 2 * runs:
        raise UsageError(
            f"max_hvps={target.max_hvps} is fewer than two products for each of {runs} runs; pass "
            "more, or fewer batches."
        )
    if target.num_probes is not None and target.scope == "batches":
        error = share * probe_halfwidth(room, runs, target.confidence)
        if error >= target.tol:
            raise UsageError(
                f"num_probes={probes} cannot reach tol={target.tol:g}: the probe error alone is "
                f"±{error:.2g} in {room} dimensions; leave num_probes out, or widen tol."
            )
    return settings.with_changes(num_probes=probes, lanczos_steps=min(room, target.max_hvps))


def planned_probes(target: Target, dim: int, batches: int, share: float) -> int:
    """Return how many probes each operator gets, from what is known before any product.

    Args:
        target: What is asked.
        dim: Dimension n that probes live in.
        batches: Number of operators B.
        share: Unmasked share of all coordinates, which sampled masses are multiplied with.
    """
    if target.scope == "population":
        return 1  # the spread of batches contains the probes' own
    width = 2 * target.tol / share
    single = 2 * probe_halfwidth(dim, batches, target.confidence)  # 2h at P = 1
    least = math.floor((single / width) ** 2) + 1
    best = (1.5 * single / width) ** 2
    candidates = {max(least, math.floor(best)), max(least, math.ceil(best)), least}
    wanted = min(candidates, key=lambda p: (p / (width - single / math.sqrt(p)), p))
    return max(1, min(wanted, target.max_hvps // (PILOT * batches)))


def allowed_band(target: Target, dim: int, runs: float, share: float, spread: float = 0.0) -> float:
    """Return the mean band U − L that resolution may take, on the unmasked block; may be ≤ 0.

    Args:
        target: What is asked.
        dim: Dimension n that probes live in.
        runs: Runs in all, R = BP.
        share: Unmasked share of all coordinates.
        spread: 2t s/√B as far as it is known, for the population.
    """
    width = 2 * target.tol / share - SLACK
    if target.scope == "population":
        return spread / 2 if spread >= width else BAND_SHARE * width
    return width - 2 * probe_halfwidth(dim, runs, target.confidence)


def run_bands(
    alphas: Floats, betas: Floats, goals: Sequence[Goal], delta: float
) -> tuple[Floats, Floats]:
    """Return the bounds of the mass of each goal that one run sees, δ included: two (G,).

    Args:
        alphas: Diagonal of T_m, (m,).
        betas: Off-diagonal and last residual norm, (m,).
        goals: The masses.
        delta: Absolute error of one product.
    """
    low, high = np.zeros(len(goals)), np.ones(len(goals))
    soft = np.array([g.name == SOFT for g in goals], dtype=bool)
    if soft.any():
        taus = np.array([g.tau for g in goals if g.name == SOFT])
        moved = DEFAULT_ORDER * delta / taus
        seen = window_bounds(alphas, betas, taus, DEFAULT_ORDER)
        low[soft] = np.maximum(seen[0] - moved, 0.0)
        high[soft] = np.minimum(seen[1] + moved, 1.0)
    if not soft.all():
        sharp = [goal for goal in goals if goal.name != SOFT]
        low[~soft], high[~soft] = _sharp_bands(alphas, betas, sharp, delta)
    return low, high


def _sharp_bands(
    alphas: Floats, betas: Floats, goals: Sequence[Goal], delta: float
) -> tuple[Floats, Floats]:
    ends = np.array([[g.a - delta, g.a + delta, g.b - delta, g.b + delta] for g in goals])
    finite = np.isfinite(ends)
    L, U = np.zeros_like(ends), np.zeros_like(ends)  # at −∞, where masses may begin
    L[finite], U[finite] = sharp_bounds(alphas, betas, ends[finite])
    return np.maximum(L[:, 2] - U[:, 1], 0.0), np.minimum(U[:, 3] - L[:, 0], 1.0)


def predict_steps(
    history: Sequence[tuple[int, float]],
    target: float,
    radius: float,
    tau: float | None,
    *,
    soft: bool = False,
) -> float:
    """Return about how many steps a run will need until its band is as narrow as `target`.

    The band's own fall from half the steps to all of them, as a power of m between 1/m and 1/m², is
    continued. While it is wider than a half it has hardly begun to fall, and the resolution near
    zero, πρ/m at the outside, is asked to come down to τ as well: a bound rather than a guess.

    Args:
        history: Steps and band so far, in order.
        target: The band wanted.
        radius: Spectral radius ρ, or a bound of it.
        tau: Threshold of the mass, None where it has none.
        soft: Whether its edge is soft: then the band falls exponentially.
    """
    if target <= 0:
        return math.inf
    if soft:
        return _predict_soft(history, target)
    steps, band = history[-1]
    if band <= target:
        return float(steps)
    before = [pair for pair in history if pair[0] <= steps / 2]
    slope = 1.0
    if before:
        slope = math.log(before[-1][1] / band) / math.log(steps / before[-1][0])
    continued = float(steps * (band / target) ** (1 / min(max(slope, 1.0), 2.0)))
    return max(continued, math.pi * radius / tau) if band > 0.5 and tau else continued


def _predict_soft(history: Sequence[tuple[int, float]], target: float) -> float:
    """Carry on the exponential fall of the band from half the steps to all of them."""
    steps, band = history[-1]
    if band <= target:
        return float(steps)
    before = [pair for pair in history if pair[0] <= steps / 2]
    if not before or before[-1][1] <= band:
        return math.inf
    rate = math.log(before[-1][1] / band) / (steps - before[-1][0])
    return steps + math.log(band / target) / rate
