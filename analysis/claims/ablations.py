"""Claims on the settings of WinQ: runs with one setting changed, held against WinQ's usual one."""

from __future__ import annotations

import re

import pandas as pd

from analysis.claims.curves import curves, last, over_seeds, paired
from analysis.claims.rules import Claim
from analysis.labels import NOISE, RESET

USUAL = "winq"
# What the paper's ablation says of other settings (1 bit, 1B; 15.3 with the usual).
PAPER = {
    "noise": "perplexity 16.5 against 15.3 without resets (1B)",
    "winq-f0.2": "perplexity 15.5 against 15.3 (1B)",
    "winq-f0.8": "perplexity 16.0 against 15.3 (1B)",
    "reset": "perplexity 16.0 against 15.3 without noise (1B)",
    "winq-s0.004": "perplexity 18.5 against 15.3 (1B)",
}
WORDS = {
    "noise": "noise alone",
    "reset": "resets alone",
    "f": "a reset fraction of {}",
    "s": "noise of {}",
}


def ablations(mine: pd.DataFrame, bits: float, words: str) -> list[Claim]:
    """Return the claims that the usual setting ends lower than each other one there is."""
    usual, twice = curves(mine, USUAL)
    found = []
    names = sorted(set(mine["method"].dropna()))
    for name in names:
        if name not in ("noise", "reset") and not name.startswith(f"{USUAL}-"):
            continue
        other, more = curves(mine, name)
        pairs, notes = paired(usual, other, "run with the usual setting")
        if not pairs:
            continue
        found.append(
            over_seeds(
                {seed: last(b) - last(a) for seed, ((a, _), (b, _)) in pairs.items()},
                1,
                key=f"ablation_{name}",
                statement=f"WinQ ends lower with its usual setting (f = {RESET:g}, σ = {NOISE:g}, "
                f"a reset each third) than with {spelled(name)}",
                paper=PAPER.get(name, "") if bits == 1 else "",
                w_bits=bits,
                setting=words,
                quantity="final held-out loss of the other setting less WinQ's, nats",
                notes=tuple([*notes, *twice, *more]),
                sources=tuple(path for pair in pairs.values() for _, path in pair),
            )
        )
    return found


def spelled(name: str) -> str:
    """Return a method's name in words: "a reset fraction of 0.8", "resets every 24 steps"."""
    if name in WORDS:
        return WORDS[name]
    parts = []
    for part in re.split(r"-(?=[a-z])", name)[1:]:  # not within 2e-05
        for key, form in (
            ("from", "none before step {}"),
            ("until", "none after step {}"),
            ("f", WORDS["f"]),
            ("s", WORDS["s"]),
            ("k", "resets every {} steps"),
        ):
            if part.startswith(key):
                parts.append(form.format(part[len(key) :]))
                break
    return ", ".join(parts) or name
