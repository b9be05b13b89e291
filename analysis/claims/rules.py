"""The paper's claims one by one: what was measured, and a verdict by a rule stated here.

The claims are those of WinQ (arXiv 2605.17471). The rules:

*Unit of replication* is the seed of a training run. Fewer than three seeds give no verdict
("withheld"), whatever they show; what they show is printed all the same.

*On spectra.* For each seed the difference of two records of the same batches has a 95 % interval
(`spectra.quadrature.differences`: resolution, probes, rounding, and with three batches or more the
spread over data). The claim holds for a seed if the
interval lies wholly on the claimed side of zero, fails if wholly on the other, else it is not
resolved. Reproduced if it holds for all of three or more seeds, contradicted if it fails for all.
These intervals say how well a number is known, not how much it differs from run to run; three runs
agree in sign by chance one time in four. So where the claim is about training (two runs, or two
steps of one) Student's t over the seeds must say the same: 95 %, widened by the mean distance of
the seeds' own ends. Everything else is not resolved. Shares near zero are soft shares of order 2 at
thresholds fixed before the records were looked at that the verdicts are from: τ = 0.03, τ = 0.1,
and 0.1 and 0.3 of the baseline's rms eigenvalue, of all coordinates and of those the clip mask
leaves. A seed whose Lanczos steps do not resolve a threshold is left out of it
(analysis.claims.near_zero).

*On training.* For each seed one number (a difference of held-out losses, a ratio of steps);
Student's t over the seeds gives its mean a 95 % interval. Reproduced if the interval lies on the
claimed side, contradicted if on the other, else not resolved. A run that never reaches the
baseline's loss has no ratio, and leaving it out would flatter: contradicted if none reaches it and
Student's t on what is missing at the closest excludes zero, else not resolved.

Runs are held against each other if model, widths, quantizer, rate, schedule, length, texts, batch
and optimizer are the same, at the steps where both were evaluated. The baseline's time to its final
loss is when it first had that loss. A baseline that ends no lower than it began leaves nothing to
reach sooner, and that seed out. *In the middle* is the mean over the evaluations of the middle
third of a run, after the first of three resets. *Early* is the first quarter; gradient and loss are
those of the records, of the same batches at each step.

*On settings* (fraction, interval, noise, early or late resets): the claim is the paper's, that its
usual setting ends lower than the other one; and ours to test, that resets with another setting end
lower than the baseline beside them, and lower than the best baseline of any rate and schedule at
hand. The rule is that on training. Runs of a search are left out: the best of many looks better
than it is.

*That nothing changes* is claimed of two records where equal operators are predicted: it holds for a
seed if the first Lanczos coefficients of the two agree to ten measured product errors. A claim
that the same two records differ is contradicted by that, whatever the steps resolve.

Nothing here is corrected for the number of claims and widths looked at. Since the first records
were looked at the rule has become stricter (Student's t on spectra, never reached, no other setting
standing in for the usual one), and one claim has another measure: the fall of the gradient is read
off records instead of single training batches, which compared falls from different steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

SEEDS = 3
Interval = tuple[float, float, float]  # value, lower and upper end
VERDICTS = ("reproduced", "contradicted", "not resolved", "withheld", "not measured")


@dataclass(frozen=True)
class Claim:
    """One claim at one bit width.

    Attributes:
        key: Name of the claim.
        statement: What the paper says.
        paper: The paper's figure, where one is known.
        w_bits: Bits of the weights; None where widths are compared.
        quantity: What was measured.
        values: For each seed: value, lower and upper end; the three agree where a seed gives a
            number alone, and are infinite where a loss is never reached or a run diverged.
        seeds: The seeds, in that order.
        mean: Mean over the seeds and its interval; None on spectra, and below three seeds.
        side: +1 if the claim says the quantity is positive, −1 negative.
        verdict: One of VERDICTS.
        setting: What tells these runs from others that were looked at, empty if nothing does.
        notes: What a reader must know: seeds left out, another method standing in.
        sources: Records and logs that the numbers are from.
    """

    key: str
    statement: str
    paper: str
    w_bits: float | None
    quantity: str
    values: tuple[Interval, ...] = ()
    seeds: tuple[int, ...] = ()
    side: int = 1
    mean: Interval | None = None
    verdict: str = "not measured"
    setting: str = ""
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = field(default=(), repr=False)

    @property
    def here(self) -> str:
        """Return what the seeds at hand show, as "holds for 2 of 3 seeds"."""
        if not self.values:
            return "not measured"
        sides = [side_of(value) * self.side for value in self.values]
        words = []
        for side, word in ((1, "holds"), (-1, "fails"), (0, "not resolved")):
            count = sides.count(side)
            if count:
                words.append(f"{word} for {count} of {counted(len(sides))}")
        return ", ".join(words)


def counted(number: int, what: str = "seed") -> str:
    """Return "1 seed", "3 seeds"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def verdict_of_spectra(values: Sequence[Interval], side: int) -> str:
    """Return the verdict of intervals, one a seed, by the rule of the module's docstring."""
    if not values:
        return "not measured"
    if len(values) < SEEDS:
        return "withheld"
    sides = {side_of(value) * side for value in values}
    return {frozenset({1}): "reproduced", frozenset({-1}): "contradicted"}.get(
        frozenset(sides), "not resolved"
    )


def student_of_intervals(values: Sequence[Interval]) -> Interval:
    """Return mean and 95 % interval over the seeds of numbers that have intervals themselves."""
    middle = student([value for value, _, _ in values])
    below = float(np.mean([value - lower for value, lower, _ in values]))
    above = float(np.mean([upper - value for value, _, upper in values]))
    return middle[0], middle[1] - below, middle[2] + above


def verdict_of_runs(values: Sequence[Interval], side: int) -> str:
    """Return the verdict of intervals of trained runs: each seed's, and Student's t over them."""
    verdict = verdict_of_spectra(values, side)
    if verdict in ("reproduced", "contradicted"):
        where = side_of(student_of_intervals(values)) * side
        return verdict if where == (1 if verdict == "reproduced" else -1) else "not resolved"
    return verdict


def verdict_of_training(values: Sequence[float], side: int) -> str:
    """Return the verdict of one number a seed, by the rule of the module's docstring.

    An infinite number is a loss never reached, or that of a run that diverged.
    """
    if not values:
        return "not measured"
    if len(values) < SEEDS:
        return "withheld"
    if any(map(math.isinf, values)):
        if all(value * side == -math.inf for value in values):
            return "contradicted"
        return "reproduced" if all(v * side == math.inf for v in values) else "not resolved"
    where = side_of(student(values)) * side
    return {1: "reproduced", -1: "contradicted"}.get(where, "not resolved")


def student(values: Sequence[float]) -> Interval:
    """Return mean and 95 % interval over seeds; the interval is infinite for one seed."""
    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    if data.size < 2:
        return mean, -math.inf, math.inf
    half = float(stats.t.ppf(0.975, data.size - 1) * data.std(ddof=1) / math.sqrt(data.size))
    return mean, mean - half, mean + half


def side_of(value: Interval) -> int:
    """Return +1 or −1 if the interval lies on that side of zero, else 0."""
    _, lower, upper = value
    return 1 if lower > 0 else -1 if upper < 0 else 0
