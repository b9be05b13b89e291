"""Claims that training logs speak to: who ends lower, who is sooner."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.claims.rules import SEEDS, Claim, student, variant, verdict_of_training
from analysis.labels import bits_label
from analysis.speedup import first_reach

SETTING = ("a_bits", "quantizer", "base_learning_rate", "schedule", "max_steps")
COLUMNS = ("path", "method", "seed", "w_bits", "step", "eval_loss")
ENDS = (
    ("winq", "winq_lower", "WinQ ends at a lower loss than the baseline"),
    ("reset", "reset_lower", "Resets alone end lower than the baseline"),
    ("noise", "noise_lower", "Noise alone ends lower than the baseline"),
)
Curve = tuple["pd.Series[Any]", str]


def claims_on_training(training: pd.DataFrame) -> list[Claim]:
    """Return the claims that rows of `analysis.load_training` speak to."""
    if not set(COLUMNS) <= set(training.columns):
        return []
    there = training[training["eval_loss"].notna() & training["w_bits"].notna()]
    others = [name for name in SETTING if name in there]
    found = []
    for bits in sorted(there["w_bits"].unique()):
        settings = list(there[there["w_bits"] == bits].groupby(others or "w_bits", dropna=False))
        for _, mine in settings:
            words = _setting(mine.iloc[0], others) if len(settings) > 1 else ""
            found += _claims(mine, float(bits), words)
    return found


def _setting(row: pd.Series[Any], names: list[str]) -> str:
    words = [bits_label(row["w_bits"], row.get("a_bits"))]
    words += [str(row[name]) for name in names if name in ("quantizer", "schedule")]
    if "base_learning_rate" in names:
        words.append(f"rate {row['base_learning_rate']:g}")
    if "max_steps" in names:
        words.append(f"{row['max_steps']:g} steps")
    return ", ".join(words)


def _claims(mine: pd.DataFrame, bits: float, words: str) -> list[Claim]:
    found = []
    base, twice = _curves(mine, "baseline")
    for method, key, statement in ENDS:
        stand_in = variant(mine["method"].dropna(), method)
        other, more = _curves(mine, stand_in)
        pairs, notes = _pairs(base, other)
        notes = [*([f"measured on {stand_in}"] if stand_in != method else []), *notes]
        if not pairs:
            continue
        common: dict[str, Any] = {
            "w_bits": bits,
            "setting": words,
            "notes": tuple([*notes, *twice, *more]),
            "sources": tuple(path for pair in pairs.values() for _, path in pair),
        }
        ends = {seed: _last(b) - _last(a) for seed, ((a, _), (b, _)) in pairs.items()}
        found.append(
            _over_seeds(
                ends,
                -1,
                key=key,
                statement=statement,
                paper="2.54 → 2.49 (1B, 2 bits)" if method == "winq" and bits == 2 else "",
                quantity="difference of final held-out losses, nats",
                **common,
            )
        )
        if method == "winq":
            ratios = {seed: log_speedup(a, b) for seed, ((a, _), (b, _)) in pairs.items()}
            found.append(
                _over_seeds(
                    ratios,
                    1,
                    key="winq_sooner",
                    statement="WinQ reaches the baseline's final loss sooner",
                    paper="1.5 to 4 times",
                    quantity="log of baseline steps over WinQ's",
                    **common,
                )
            )
    return found


def _over_seeds(numbers: dict[int, float], side: int, **claim: Any) -> Claim:
    """Return a claim on one number a seed."""
    values = list(numbers.values())
    whole = len(values) >= SEEDS and not any(map(math.isinf, values))
    return Claim(
        **claim,
        values=tuple((v, v, v) for v in values),
        seeds=tuple(numbers),
        side=side,
        mean=student(values) if whole else None,
        verdict=verdict_of_training(values, side),
    )


def _curves(runs: pd.DataFrame, method: str) -> tuple[dict[int, Curve], list[str]]:
    """Return held-out loss against step, and path, of each seed's run; and what was left out."""
    mine = runs[(runs["method"] == method) & runs["seed"].notna()]
    found, notes = {}, []
    for _, one in mine.groupby("seed"):
        number = int(one["seed"].iloc[0])
        paths = sorted(one["path"].unique())
        if len(paths) > 1:
            notes.append(
                f"seed {number} left out: {len(paths)} runs of {method}: {', '.join(paths)}"
            )
            continue
        found[number] = (one.set_index("step")["eval_loss"].sort_index(), str(paths[0]))
    return found, notes


def _pairs(
    base: dict[int, Curve], other: dict[int, Curve]
) -> tuple[dict[int, tuple[Curve, Curve]], list[str]]:
    """Return (baseline, method) of the seeds whose runs end at the same step."""
    found, notes = {}, []
    for seed in base:
        if seed not in other:
            continue
        ends = [int(curve.index[-1]) for curve, _ in (base[seed], other[seed])]
        if ends[0] != ends[1]:
            notes.append(
                f"seed {seed} left out: the baseline was last evaluated at step {ends[0]}, the "
                f"other at step {ends[1]}"
            )
            continue
        found[seed] = (base[seed], other[seed])
    return found, notes


def _last(curve: pd.Series[Any]) -> float:
    return float(curve.iloc[-1])


def log_speedup(base: pd.Series[Any], other: pd.Series[Any]) -> float:
    """Return log of T/t, t the step at which `other` first has the loss of `base` at its end T.

    −∞ if it never has.
    """
    step, _ = first_reach(other, _last(base))
    return -math.inf if math.isnan(step) else math.log(float(base.index[-1]) / max(step, 1.0))
