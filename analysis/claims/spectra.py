"""Claims that records speak to: saddles, shrinking eigenvalues, mass near zero, widths, methods."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from analysis.claims.ablations import spelled
from analysis.claims.curves import over_seeds
from analysis.claims.facts import Fact, groups
from analysis.claims.near_zero import more_than_paper, near_zero_pairs
from analysis.claims.pairs import Pairs, along, compared, on_spectra
from analysis.claims.penalty import claims_on_penalties
from analysis.claims.resets import claims_on_resets
from analysis.claims.rules import Claim, Interval
from analysis.labels import known, masked_share, section
from spectra.record.spectrum import Spectrum

EARLY = 1 / 4  # of a run
METHODS = (
    ("winq", "winq_magnitude", "WinQ keeps eigenvalues larger than the baseline's", 1, ""),
    (
        "winq",
        "winq_norm",
        "WinQ keeps the largest |λ| larger than the baseline's",
        1,
        "3.96 against 2.65 (2 bits)",
    ),
    ("winq", "winq_near_zero", "WinQ has fewer eigenvalues near zero", -1, "−12 % relative"),
    ("reset", "reset_magnitude", "Resets alone keep eigenvalues larger", 1, ""),
    ("noise", "noise_regularizes", "Noise alone lowers the eigenvalues", -1, ""),
)
QUANTITY = {"winq_norm": "spectral_norm"}


def claims_on_spectra(records: pd.DataFrame) -> tuple[list[Claim], list[str]]:
    """Return the claims that rows of `analysis.load` speak to, and what was left out and why."""
    found: list[Claim] = []
    parts, notes = groups(records)
    for number, group in enumerate(parts):
        mine = _claims(list(group.facts))
        found += [
            replace(claim, setting=group.words)
            for claim in mine
            if number == 0 or claim.verdict != "not measured"
        ]
    return found, notes


def _claims(facts: list[Fact]) -> list[Claim]:
    found: list[Claim] = []
    widths = sorted({fact.bits for fact in facts})
    for bits in widths:
        every = [fact for fact in facts if fact.bits == bits]
        mine = [fact for fact in every if not fact.penalty]
        found += _at_the_end(mine, bits)
        found += _along_training(mine, bits)
        found += _gradient(mine, bits)
        found += claims_on_resets(mine, bits)
        found += claims_on_penalties(every, bits)
        found += _methods(mine, bits)
    facts = [fact for fact in facts if not fact.penalty]
    return found + _across_widths(facts, widths)


def _at_the_end(facts: list[Fact], bits: float) -> list[Claim]:
    ends = {
        seed: series[-1]
        for seed, series in along(facts, "baseline").items()
        if series[-1].at_the_end
    }
    begins = [series[0] for series in along(facts, "baseline").values() if series[0].step == 0]
    return [
        _of_one(
            ends,
            _depth,
            key="saddle",
            statement="Training ends at a saddle: negative and positive eigenvalues",
            paper="both signs",
            bits=bits,
            quantity="min(−λmin, λmax) > 0",
        ),
        *more_than_paper(ends, bits, _masked(ends, begins)),
    ]


def _of_one(
    ends: dict[int, Fact],
    measure: Callable[[Spectrum], Interval],
    *,
    key: str,
    statement: str,
    paper: str,
    bits: float,
    quantity: str,
    notes: tuple[str, ...] = (),
) -> Claim:
    """Return the claim that a quantity of one record a seed is positive."""
    return on_spectra(
        {seed: measure(fact.spectrum) for seed, fact in ends.items()},
        1,
        key=key,
        statement=statement,
        paper=paper,
        w_bits=bits,
        quantity=quantity,
        sources=[fact.path for fact in ends.values()],
        notes=notes,
    )


def _masked(ends: dict[int, Fact], begins: list[Fact]) -> tuple[str, ...]:
    """Say how many eigenvalues near zero are the clip mask's, at the end and to begin with."""
    shares = sorted(masked_share(fact.spectrum.metadata) for fact in ends.values())
    if not shares or not shares[-1]:
        return ()
    words = " to ".join(dict.fromkeys(f"{share:.1%}" for share in (shares[0], shares[-1])))
    start = [masked_share(fact.spectrum.metadata) for fact in begins[:1]]
    before = f", {start[0]:.1%} before the first step" if start else ""
    return (f"{words} are exact zeros of the clip mask{before}",)


def _depth(one: Spectrum) -> Interval:
    """Return how deep the saddle is on its shallower side; both ends must be resolved."""
    low, high = one.extremes()
    return (
        min(-low.value, high.value),
        min(-low.upper, high.lower),
        min(-low.lower, high.upper),
    )


def _along_training(facts: list[Fact], bits: float) -> list[Claim]:
    pairs = {
        seed: (one[0], one[-1])
        for seed, one in along(facts, "baseline").items()
        if one[0].step == 0 < one[-1].step and one[-1].at_the_end
    }
    return [
        *near_zero_pairs(
            pairs,
            1,
            trained=True,
            key="near_zero_grows",
            statement="The share of eigenvalues near zero grows during plain QAT",
            paper="beyond 40 % at few bits",
            w_bits=bits,
        ),
        compared(
            pairs,
            "rms_eigenvalue",
            -1,
            trained=True,
            relative_to="step 0",
            key="magnitude_falls",
            statement="Eigenvalues shrink during plain QAT",
            paper="",
            w_bits=bits,
        ),
    ]


def _gradient(facts: list[Fact], bits: float) -> list[Claim]:
    """Return the claim that ‖∇L‖/‖W‖ has fallen early, while the loss of the same batches has not.

    Both are of the batches of the records, at step 0, at the last record of the first quarter of
    the run, and at its end.
    """
    numbers, sources, when = {}, [], set()
    for seed, series in along(facts, "baseline").items():
        end = series[-1]
        early = [f for f in series if 0 < f.step <= EARLY * end.step]
        if series[0].step or not early or not end.at_the_end:
            continue
        points = (series[0], early[-1], end)
        grads = [_gradient_ratio(fact.spectrum) for fact in points]
        losses = [float(fact.spectrum.losses.mean()) for fact in points]
        if grads[0] > grads[2] and losses[0] > losses[2]:
            shares = [(x[0] - x[1]) / (x[0] - x[2]) for x in (grads, losses)]
            numbers[seed] = shares[0] - shares[1]
            sources += [fact.path for fact in points]
            when.add(points[1].step)
    if not numbers:
        return []
    steps = ", ".join(map(str, sorted(when)))
    return [
        over_seeds(
            numbers,
            1,
            key="gradient_early",
            statement="The gradient norm falls early, while the loss is still high (baseline)",
            paper="‖∇L‖/‖W‖ falls first",
            quantity=f"share of the whole fall that is done at step {steps}: gradient less loss",
            w_bits=bits,
            sources=tuple(sources),
        )
    ]


def _gradient_ratio(one: Spectrum) -> float:
    norm = section(one.metadata, "params").get("weight_norm")
    return float(one.grad_norms.mean()) / norm if known(norm) and norm else math.nan


def _methods(facts: list[Fact], bits: float) -> list[Claim]:
    """Return the claims on runs of other methods, held against the baseline's at the last step.

    The paper's figures stand beside its usual settings alone.
    """
    base = along(facts, "baseline")
    there = sorted({fact.method for fact in facts})
    found = []
    for method, key, statement, side, paper in METHODS:
        for name in [name for name in there if re.split(r"-(?=[a-z])", name)[0] == method]:
            pairs = _ends(base, along(facts, name))
            usual = name == method
            if pairs and key == "winq_near_zero":
                found += near_zero_pairs(
                    pairs,
                    side,
                    trained=True,
                    key=key if usual else f"{key}_{name}",
                    statement=statement if usual else f"{statement}: {spelled(name)}",
                    paper=paper if usual else "",
                    w_bits=bits,
                )
            elif pairs:
                found.append(
                    compared(
                        pairs,
                        QUANTITY.get(key, "rms_eigenvalue"),
                        side,
                        trained=True,
                        key=key if usual else f"{key}_{name}",
                        statement=f"{statement} ({'' if usual else f'{spelled(name)}; '}last step)",
                        paper=paper if usual else "",
                        w_bits=bits,
                    )
                )
    return found


def _ends(a: dict[int, list[Fact]], b: dict[int, list[Fact]]) -> Pairs:
    """Return the last records of the seeds that both have, where they are of one step."""
    return {
        seed: (a[seed][-1], b[seed][-1])
        for seed in a
        if seed in b
        and a[seed][-1].step == b[seed][-1].step
        and a[seed][-1].at_the_end
        and b[seed][-1].at_the_end
    }


def _across_widths(facts: list[Fact], widths: list[float]) -> list[Claim]:
    if len(widths) < 2:
        return []
    low, high = widths[0], widths[-1]
    fewer = along([f for f in facts if f.bits == low], "baseline")
    more = along([f for f in facts if f.bits == high], "baseline")
    pairs = _ends(more, fewer)
    words = f"{low:g} {'bit' if low == 1 else 'bits'} against {high:g}"
    return [
        compared(
            pairs,
            "spectral_norm",
            -1,
            trained=True,
            relative_to=f"{high:g} bits",
            key="bits_magnitude",
            statement=f"Fewer bits, smaller eigenvalues: {words}",
            paper="smaller max |λ|",
            w_bits=None,
        ),
        *near_zero_pairs(
            pairs,
            1,
            trained=True,
            key="bits_near_zero",
            statement=f"Fewer bits, more eigenvalues near zero: {words}",
            paper="more near zero",
            w_bits=None,
        ),
    ]
