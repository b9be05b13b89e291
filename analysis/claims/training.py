"""Claims that training logs speak to: who ends lower, who is sooner."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.claims.rules import SEEDS, Claim, student, variant, verdict_of_training
from analysis.speedup import first_reach


def claims_on_training(training: pd.DataFrame) -> list[Claim]:
    """Return the claims that rows of `analysis.load_training` speak to."""
    there = training[training["eval_loss"].notna()]
    found = []
    for bits in sorted(there["w_bits"].dropna().unique()):
        mine = there[there["w_bits"] == bits]
        base = _curves(mine, "baseline")
        for method, key, words in (
            ("winq", "winq_lower", "WinQ ends at a lower loss than the baseline"),
            ("reset", "reset_lower", "Resets alone end lower than the baseline"),
            ("noise", "noise_lower", "Noise alone ends lower than the baseline"),
        ):
            other = _curves(mine, method)
            seeds = [seed for seed in base if seed in other]
            if not seeds:
                continue
            paths = tuple(p for s in seeds for p in (base[s][1], other[s][1]))
            gaps = [_last(other[s][0]) - _last(base[s][0]) for s in seeds]
            found.append(
                _over_seeds(
                    gaps,
                    seeds,
                    -1,
                    key=key,
                    statement=words,
                    paper="2.54 → 2.49 (1B, 2 bits)" if method == "winq" and bits == 2 else "",
                    w_bits=float(bits),
                    quantity="difference of final held-out losses, nats",
                    sources=paths,
                )
            )
            if method == "winq":
                ratios = [math.log(speedup(base[s][0], other[s][0])) for s in seeds]
                found.append(
                    _over_seeds(
                        ratios,
                        seeds,
                        1,
                        key="winq_sooner",
                        statement="WinQ reaches the baseline's final loss sooner",
                        paper="1.5 to 4 times",
                        w_bits=float(bits),
                        quantity="log of baseline steps over WinQ's",
                        sources=paths,
                    )
                )
    return found


def _over_seeds(values: list[float], seeds: list[int], side: int, **claim: Any) -> Claim:
    """Return a claim on one number a seed; below three seeds each is shown by itself."""
    few = len(values) < SEEDS
    return Claim(
        **claim,
        values=tuple((v, v, v) for v in values) if few else (student(values),),
        seeds=tuple(seeds),
        side=side,
        verdict=verdict_of_training(values, side),
    )


def _curves(training: pd.DataFrame, method: str) -> dict[int, tuple[pd.Series[Any], str]]:
    """Return the held-out loss against step, and the path, of each seed's run of a method."""
    names = list(training["method"]) if "method" in training else []
    mine = training[training["method"] == variant(names, method)] if names else training
    found = {}
    for path, one in mine.groupby("path"):
        seed = int(one["seed"].iloc[0])
        found[seed] = (one.set_index("step")["eval_loss"].sort_index(), str(path))
    return found


def _last(curve: pd.Series[Any]) -> float:
    return float(curve.iloc[-1])


def speedup(base: pd.Series[Any], other: pd.Series[Any]) -> float:
    """Return steps of the baseline over steps after which `other` first has its final loss.

    A run that never has it gives a bound below 1: the ratio that its next evaluation would give.
    """
    step, _ = first_reach(other, _last(base))
    if math.isnan(step):
        steps = [float(x) for x in other.index]
        step = steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else steps[-1])
    return float(base.index[-1]) / max(step, 1.0)
