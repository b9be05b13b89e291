"""Claims that training logs speak to: who ends lower, who is sooner, where the gradient falls."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.claims.ablations import ablations
from analysis.claims.curves import (
    Curve,
    curves,
    first,
    last,
    log_speedup,
    middle,
    over_seeds,
    paired,
)
from analysis.claims.rules import Claim, variant
from analysis.claims.settings import RATE, against_the_best, claims_on_settings
from analysis.labels import bits_label

SETTING = ("model", "a_bits", "quantizer", "base_learning_rate", "schedule", "max_steps")
COLUMNS = ("path", "method", "seed", "w_bits", "step", "eval_loss")
ENDS = (
    ("winq", "winq_lower", "WinQ ends at a lower loss than the baseline"),
    ("reset", "reset_lower", "Resets alone end lower than the baseline"),
    ("noise", "noise_lower", "Noise alone ends lower than the baseline"),
)
EARLY = 1 / 4  # of a run


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
        found += _across_rates(there[there["w_bits"] == bits], float(bits), others)
    return found


def _across_rates(there: pd.DataFrame, bits: float, others: list[str]) -> list[Claim]:
    names = [name for name in others if name not in RATE]
    models = [one for _, one in there.groupby(names or "w_bits", dropna=False)]
    return [
        claim
        for one in models
        for claim in against_the_best(
            one, bits, _setting(one.iloc[0], names) if len(models) > 1 else ""
        )
    ]


def _setting(row: pd.Series[Any], names: list[str]) -> str:
    words = [bits_label(row["w_bits"], row.get("a_bits"))]
    words += [str(row[name]) for name in names if name in ("model", "quantizer", "schedule")]
    if "base_learning_rate" in names:
        words.append(f"rate {row['base_learning_rate']:g}")
    if "max_steps" in names:
        words.append(f"{row['max_steps']:g} steps")
    return ", ".join(words)


def _claims(mine: pd.DataFrame, bits: float, words: str) -> list[Claim]:
    found = []
    base, twice = curves(mine, "baseline")
    for method, key, statement in ENDS:
        stand_in = variant(mine["method"].dropna(), method)
        other, more = curves(mine, stand_in)
        pairs, notes = paired(base, other)
        notes = [*([f"measured on {stand_in}"] if stand_in != method else []), *notes]
        if not pairs and not (notes or twice or more):
            continue
        common: dict[str, Any] = {
            "w_bits": bits,
            "setting": words,
            "notes": tuple([*notes, *twice, *more]),
            "sources": tuple(path for pair in pairs.values() for _, path in pair),
        }
        found.append(
            over_seeds(
                {seed: last(b) - last(a) for seed, ((a, _), (b, _)) in pairs.items()},
                -1,
                key=key,
                statement=statement,
                paper="2.54 → 2.49 (1B, 2 bits)" if method == "winq" and bits == 2 else "",
                quantity="difference of final held-out losses, nats",
                **common,
            )
        )
        if method == "winq" and pairs:
            found += _winq(pairs, common)
    return [
        *found,
        *claims_on_settings(mine, bits, words),
        *_gradient(mine, bits, words),
        *ablations(mine, bits, words),
    ]


def _winq(pairs: dict[int, tuple[Curve, Curve]], common: dict[str, Any]) -> list[Claim]:
    learned = {seed: pair for seed, pair in pairs.items() if last(pair[0][0]) < first(pair[0][0])}
    idle = [
        f"seed {seed} left out: the baseline ends no lower than it began, so there is no loss to "
        "reach sooner"
        for seed in sorted(set(pairs) - set(learned))
    ]
    return [
        over_seeds(
            {seed: middle(b) - middle(a) for seed, ((a, _), (b, _)) in pairs.items()},
            -1,
            key="winq_ahead",
            statement="WinQ is ahead in the middle of the run",
            paper="curves part at the first reset",
            quantity="difference of held-out losses, mean over the middle third, nats",
            **common,
        ),
        over_seeds(
            {seed: log_speedup(a, b) for seed, ((a, _), (b, _)) in learned.items()},
            1,
            key="winq_sooner",
            statement="WinQ reaches the baseline's final loss sooner",
            paper="1.5 to 4 times",
            quantity="log of baseline steps over WinQ's",
            **common | {"notes": (*common["notes"], *idle)},
        ),
    ]


def _gradient(mine: pd.DataFrame, bits: float, words: str) -> list[Claim]:
    """Return the claim that ‖∇L‖/‖W‖ has fallen when the loss has not, a quarter into the run."""
    if "grad_weight_ratio" not in mine:
        return []
    losses, notes = curves(mine, "baseline")
    ratios, _ = curves(mine, "baseline", "grad_weight_ratio")
    both = {
        seed: (ratios[seed], curve)
        for seed, curve in losses.items()
        if seed in ratios and last(curve[0]) < first(curve[0])
    }
    numbers = {seed: fallen(g[0]) - fallen(x[0]) for seed, (g, x) in both.items()}
    if not numbers:
        return []
    return [
        over_seeds(
            numbers,
            1,
            key="gradient_early",
            statement="The gradient norm falls early, while the loss is still high (baseline)",
            paper="‖∇L‖/‖W‖ falls first",
            quantity=f"share of the fall done after {EARLY:.0%} of the run: gradient less loss",
            w_bits=bits,
            setting=words,
            notes=tuple(notes),
            sources=tuple(path for _, (_, path) in both.values()),
        )
    ]


def fallen(curve: pd.Series[Any]) -> float:
    """Return how much of its fall over a run a curve has done early in it, 0 to 1."""
    early = curve[curve.index <= EARLY * curve.index[-1]]
    if early.empty:
        return 0.0
    whole = float(curve.iloc[0] - curve.iloc[-1])
    share = float(curve.iloc[0] - early.iloc[-1]) / whole if whole > 0 else 0.0
    return min(max(share, 0.0), 1.0)
