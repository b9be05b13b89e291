"""How much sooner a method has the loss that the baseline ends with.

For one seed let ℓ be the baseline's last held-out loss, at step T, and t the first step at which
the method's loss is at most ℓ, losses between evaluations being taken as linear. The speed-up is
T/t, as arXiv 2605.17471 has it (240K steps over the step of first reaching it).

Over seeds: pairs of runs of the same seed; ratios are averaged on the logarithm, so that 2 and ½
cancel, with Student's t interval. The interval is of the seeds alone: t is known no better than to
the two evaluations around it, which `brackets` tells. A seed that never gets there has no ratio;
there is no mean then, since leaving it out would flatter the method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.stats

from analysis.labels import bits_label
from spectra.errors import UsageError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Speedup:
    """Speed-up of a method over the baseline at one bit width.

    Attributes:
        w_bits: Bits of a weight; None where the runs do not tell.
        a_bits: Bits of an activation, likewise.
        method: The method.
        base: What it is compared with.
        seeds: Seeds that both have.
        goals: The baseline's last loss, for each seed.
        ends: The step it has it at.
        steps: The step at which the method first has it, NaN where it never does.
        brackets: The evaluations around it.
    """

    w_bits: float | None
    a_bits: float | None
    method: str
    base: str
    seeds: tuple[int, ...]
    goals: tuple[float, ...]
    ends: tuple[float, ...]
    steps: tuple[float, ...]
    brackets: tuple[tuple[float, float], ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """The speed-up of each seed, NaN where the loss is never reached."""
        # A loss that is there at the start is reached within the first step.
        return tuple(e / max(s, 1.0) for e, s in zip(self.ends, self.steps, strict=True))

    @property
    def reached(self) -> int:
        """Number of seeds whose run reaches the baseline's last loss."""
        return sum(not math.isnan(step) for step in self.steps)

    @property
    def value(self) -> float:
        """Geometric mean over seeds; NaN if one never reaches the loss."""
        return float(np.exp(np.mean(np.log(self.ratios))))

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % interval over seeds; NaN for one seed, or where there is no mean."""
        count = len(self.ratios)
        if count < 2 or self.reached < count:
            return math.nan, math.nan
        logs = np.log(self.ratios)
        quantile = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
        half = quantile * float(logs.std(ddof=1)) / math.sqrt(count)
        return self.value * math.exp(-half), self.value * math.exp(half)

    def __str__(self) -> str:
        count = len(self.seeds)
        seeds = f"{count} seed{'' if count == 1 else 's'}"
        if self.reached == 0:
            return f"not reached ({seeds})"
        if self.reached < count:
            return f"reached by {self.reached} of {seeds}"
        low, high = self.interval
        if math.isnan(low):
            return f"{self.value:.2f}× (one seed)"
        return f"{self.value:.2f}× [{low:.2f}, {high:.2f}] ({seeds})"


def speedups(
    training: pd.DataFrame, *, method: str = "winq", base: str = "baseline", y: str = "eval_loss"
) -> list[Speedup]:
    """Return the speed-up at each bit width that has runs of both with a seed in common.

    Args:
        training: Rows of `analysis.load_training`.
        method: The method.
        base: What it is compared with.
        y: The logged loss.

    Raises:
        UsageError: If the losses were not logged, or no pair of runs shares width and seed.
    """
    missing = [name for name in ("method", "seed", y) if name not in training]
    if missing:
        raise UsageError(
            f"these runs tell no {', '.join(missing)}; pass logs of `spectra train` with "
            "--eval_strategy steps."
        )
    there = training[training[y].notna()]
    widths = there[[c for c in ("w_bits", "a_bits") if c in there]].drop_duplicates()
    found = []
    for _, width in widths.sort_values(list(widths.columns)).iterrows():
        mine = there
        for name, bits in width.items():
            mine = mine[mine[name].isna() if pd.isna(bits) else mine[name] == bits]
        one = _one(mine, method, base, y, _number(width, "w_bits"), _number(width, "a_bits"))
        found += [one] if one.seeds else []
    if not found:
        raise UsageError(
            f"no width has runs of {base!r} and {method!r} with the same seed; the methods are "
            f"{', '.join(sorted(map(str, there['method'].dropna().unique()))) or 'not told'}."
        )
    return found


def speedup_table(found: list[Speedup]) -> pd.DataFrame:
    """Return speed-ups as a table, a row a width, numbers and their words."""
    return pd.DataFrame(
        {
            "w_bits": [one.w_bits for one in found],
            "bits": [bits_label(one.w_bits, one.a_bits) for one in found],
            "method": [one.method for one in found],
            "seeds": [len(one.seeds) for one in found],
            "reached": [one.reached for one in found],
            "speedup": [one.value for one in found],
            "speedup_lower": [one.interval[0] for one in found],
            "speedup_upper": [one.interval[1] for one in found],
            "words": [str(one) for one in found],
        }
    )


def first_reach(curve: pd.Series[float], goal: float) -> tuple[float, tuple[float, float]]:
    """Return the step at which a loss is first at most `goal`, and the evaluations around it.

    Args:
        curve: Loss, indexed by step, ascending.
        goal: The loss to reach.
    """
    steps, values = curve.index.to_numpy(dtype=float), curve.to_numpy(dtype=float)
    below = np.flatnonzero(values <= goal)
    if below.size == 0:
        return math.nan, (float(steps[-1]), math.inf)
    first = int(below[0])
    if first == 0:
        return float(steps[0]), (float(steps[0]), float(steps[0]))
    before, after = steps[first - 1], steps[first]
    share = (values[first - 1] - goal) / (values[first - 1] - values[first])
    return float(before + share * (after - before)), (float(before), float(after))


def _one(
    runs: pd.DataFrame, method: str, base: str, y: str, w_bits: float | None, a_bits: float | None
) -> Speedup:
    theirs, mine = _curves(runs, base, y), _curves(runs, method, y)
    seeds = tuple(seed for seed in theirs if seed in mine)
    goals = tuple(float(theirs[seed].iloc[-1]) for seed in seeds)
    found = [first_reach(mine[seed], goal) for seed, goal in zip(seeds, goals, strict=True)]
    return Speedup(
        w_bits=w_bits,
        a_bits=a_bits,
        method=method,
        base=base,
        seeds=seeds,
        goals=goals,
        ends=tuple(float(theirs[seed].index[-1]) for seed in seeds),
        steps=tuple(step for step, _ in found),
        brackets=tuple(bracket for _, bracket in found),
    )


def _curves(runs: pd.DataFrame, method: str, y: str) -> dict[int, pd.Series[float]]:
    """Return the loss against step of each seed's run.

    Raises:
        UsageError: If two runs of a method share width and seed.
    """
    mine = runs[(runs["method"] == method) & runs["seed"].notna()]
    found = {}
    for seed, one in mine.groupby("seed"):
        if one["path"].nunique() > 1:
            raise UsageError(
                f"{one['path'].nunique()} runs of {method!r} have seed {seed:g} and the same "
                f"bits: {', '.join(sorted(one['path'].unique()))}; pass the rows of one of them."
            )
        found[int(one["seed"].iloc[0])] = one.set_index("step")[y].sort_index()
    return found


def _number(row: pd.Series[float], name: str) -> float | None:
    value = row.get(name)
    return None if value is None or math.isnan(value) else float(value)
