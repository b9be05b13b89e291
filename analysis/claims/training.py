"""Claims that training logs speak to: who ends lower, who is ahead, who is sooner."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import PurePath
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
from analysis.claims.rules import Claim, verdict_of_training
from analysis.claims.settings import RATE, against_the_best, claims_on_settings
from analysis.labels import known, unusual

SETTING = (
    *("model", "a_bits", "quantizer", "base_learning_rate", "schedule", "max_steps"),
    *("train_data", "eval_data", "seq_len", "batch_size", "optimizer"),
)
WORDS = {
    "a_bits": "A{:g}",
    "schedule": "schedule {}",
    "base_learning_rate": "rate {:g}",
    "max_steps": "steps {:g}",
    "train_data": "trained on {}",
    "eval_data": "held-out text {}",
    "seq_len": "blocks of {:g} tokens",
    "batch_size": "{:g} blocks a step",
}
COLUMNS = ("path", "method", "seed", "w_bits", "step", "eval_loss")
ENDS = (
    ("winq", "winq_lower", "WinQ ends at a lower loss than the baseline"),
    ("reset", "reset_lower", "Resets alone end lower than the baseline"),
    ("noise", "noise_lower", "Noise alone ends lower than the baseline"),
)


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
            first = mine.iloc[0]
            words = told_apart(there, first, others)
            words = words or unusual(first.get("schedule"), first.get("base_learning_rate"))
            found += _claims(mine, float(bits), words)
        found += _across_rates(there, float(bits), others)
    return found


def _across_rates(there: pd.DataFrame, bits: float, others: list[str]) -> list[Claim]:
    names = [name for name in others if name not in RATE]
    mine = there[there["w_bits"] == bits]
    models = [one for _, one in mine.groupby(names or "w_bits", dropna=False)]
    return [
        claim
        for one in models
        for claim in against_the_best(one, bits, told_apart(there, one.iloc[0], names))
    ]


def told_apart(runs: pd.DataFrame, row: pd.Series[Any], names: list[str]) -> str:
    """Return what tells the setting of a run from the others': as few words as do."""
    words = []
    for name in names:
        if runs[name].nunique(dropna=False) > 1:
            if known(row[name]):
                value = _short(row[name], runs[name]) if name == "model" else row[name]
                words.append(WORDS.get(name, "{}").format(value))
            same = runs[name].isna() if not known(row[name]) else runs[name] == row[name]
            runs = runs[same]
    return ", ".join(words)


def _short(model: str, models: pd.Series[Any]) -> str:
    """Return the end of a model's path, as long as it takes to tell it from the others."""
    parts = PurePath(model).parts
    others = [PurePath(one).parts for one in models.dropna().unique() if one != model]
    for length in range(1, len(parts)):
        if all(one[-length:] != parts[-length:] for one in others):
            return str(PurePath(*parts[-length:]))
    return model


def _claims(mine: pd.DataFrame, bits: float, words: str) -> list[Claim]:
    found = []
    base, twice = curves(mine, "baseline")
    for method, key, statement in ENDS:
        other, more = curves(mine, method)
        pairs, notes = paired(base, other)
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
        *ablations(mine, bits, words),
    ]


def _winq(pairs: dict[int, tuple[Curve, Curve]], common: dict[str, Any]) -> list[Claim]:
    learned = {seed: pair for seed, pair in pairs.items() if last(pair[0][0]) < first(pair[0][0])}
    idle = sorted(set(pairs) - set(learned))
    out = [
        f"seed {seed} left out: the baseline ends no lower than it began, so there is no loss to "
        "reach sooner"
        for seed in idle
    ]
    harmed = [f"the baseline of seed {seed} ends no lower than it began" for seed in idle]
    ahead = over_seeds(
        {seed: middle(b) - middle(a) for seed, ((a, _), (b, _)) in pairs.items()},
        -1,
        key="winq_ahead",
        statement="WinQ is ahead in the middle of the run",
        paper="curves part at the first reset",
        quantity="difference of held-out losses, mean over the middle third, nats",
        **common | {"notes": (*common["notes"], *harmed)},
    )
    sooner = over_seeds(
        {seed: log_speedup(a, b) for seed, ((a, _), (b, _)) in learned.items()},
        1,
        key="winq_sooner",
        statement="WinQ reaches the baseline's final loss sooner",
        paper="1.5 to 4 times",
        quantity="log of baseline steps over WinQ's",
        **common | {"notes": (*common["notes"], *out)},
    )
    # Never, on every seed, is also what chance gives of two equal methods, one time in eight.
    shortfall = [float(b.min()) - last(a) for (a, _), (b, _) in learned.values()]
    never = bool(sooner.values) and all(math.isinf(value[0]) for value in sooner.values)
    if never and verdict_of_training(shortfall, 1) == "not resolved":
        sooner = replace(sooner, verdict="not resolved")
    return [ahead, sooner]
