"""Claims that records speak to: saddles, shrinking eigenvalues, resets on each surface."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import pandas as pd

from analysis.claims.facts import Fact, groups
from analysis.claims.rules import Claim, variant, verdict_of_spectra
from analysis.comparable import check_comparable
from analysis.labels import RESET
from analysis.load import spectrum
from spectra.errors import UsageError
from spectra.quadrature.difference import differences

ONLY_MASK = (
    "with frozen scales a reset moves weights within their cells, so that nothing but the clip "
    "mask can change here"
)


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
        mine = [fact for fact in facts if fact.bits == bits]
        found.append(_saddle(mine, bits))
        found += _along_training(mine, bits)
        found += _reset(mine, bits)
        found += _methods(mine, bits)
    return found + _across_widths(facts, widths)


def _series(facts: Iterable[Fact], method: str) -> dict[int, list[Fact]]:
    """Return the records of a method on the default surface, by seed, in the order of the steps.

    Before the first step every method and seed is the same model, so that a run without a record of
    step 0 begins with that of another.
    """
    found: dict[int, list[Fact]] = {}
    facts = list(facts)
    method = variant([fact.method for fact in facts], method)
    for fact in facts:
        if fact.method == method and fact.toward is None and fact.surface == "ste":
            found.setdefault(fact.seed, []).append(fact)
    start = [f for f in facts if f.step == 0 and f.toward is None and f.surface == "ste"]
    for series in found.values():
        if start and all(fact.step for fact in series):
            series.append(start[0])
    return {seed: sorted(found[seed], key=lambda f: f.step) for seed in sorted(found)}


@cache
def _differences(a: str, b: str) -> dict[str, tuple[float, float, float]]:
    found = differences(spectrum(a).measure, spectrum(b).measure)
    return {one.name: (one.value, one.lower, one.upper) for one in found}


def _compared(pairs: dict[int, tuple[Fact, Fact]], quantity: str, side: int, **claim: Any) -> Claim:
    """Return the claim that B − A of a quantity lies on a side, for each seed's pair (A, B)."""
    values, seeds, sources = [], [], []
    notes = list(claim.pop("notes", ()))
    for seed, (a, b) in pairs.items():
        try:
            check_comparable(a.spectrum, b.spectrum)
            found = _differences(a.path, b.path).get(quantity)
        except UsageError as error:
            notes.append(f"seed {seed} left out: {a.path} against {b.path}: {error}")
            continue
        if found is not None and not all(math.isnan(x) for x in found):
            values.append(found)
            seeds.append(seed)
            sources += [a.path, b.path]
    return Claim(
        **claim,
        quantity=quantity,
        side=side,
        values=tuple(values),
        seeds=tuple(seeds),
        verdict=verdict_of_spectra(values, side),
        notes=tuple(notes),
        sources=tuple(sources),
    )


def _saddle(facts: list[Fact], bits: float) -> Claim:
    values, seeds, sources = [], [], []
    for seed, series in _series(facts, "baseline").items():
        last = series[-1]
        low, high = last.spectrum.extremes()
        # The saddle is as deep as its shallower side; both ends must be resolved.
        depth = (-low.upper, high.lower)
        values.append((min(-low.value, high.value), min(depth), min(-low.lower, high.upper)))
        seeds.append(seed)
        sources.append(last.path)
    return Claim(
        key="saddle",
        statement="Training ends at a saddle: negative and positive eigenvalues",
        paper="both signs",
        w_bits=bits,
        quantity="min(−λmin, λmax) > 0",
        values=tuple(values),
        seeds=tuple(seeds),
        verdict=verdict_of_spectra(values, 1),
        sources=tuple(sources),
    )


def _along_training(facts: list[Fact], bits: float) -> list[Claim]:
    series = _series(facts, "baseline")
    pairs = {seed: (one[0], one[-1]) for seed, one in series.items() if one[0].step < one[-1].step}
    return [
        _compared(
            pairs,
            "near_zero_resolved",
            1,
            key="near_zero_grows",
            statement="The share of eigenvalues near zero grows during plain QAT",
            paper="beyond 40 % at few bits",
            w_bits=bits,
        ),
        _compared(
            pairs,
            "rms_eigenvalue",
            -1,
            key="magnitude_falls",
            statement="Eigenvalues shrink during plain QAT",
            paper="",
            w_bits=bits,
        ),
    ]


def _reset(facts: list[Fact], bits: float) -> list[Claim]:
    found = []
    for surface in ("ste", "quantized", "latent"):
        pairs = {}
        for seed, series in _series(facts, "baseline").items():
            last = series[-1]
            moved = [
                fact
                for fact in facts
                if (fact.method, fact.seed, fact.step, fact.surface)
                == ("baseline", seed, last.step, surface)
                and fact.toward is not None
            ]
            still = next((f for f in moved if f.toward == 0), last if surface == "ste" else None)
            nearer = min(
                (f for f in moved if f.toward),
                key=lambda f: abs((f.toward or 0.0) - RESET),
                default=None,
            )
            if still is not None and nearer is not None:
                pairs[seed] = (still, nearer)
        if pairs:
            fraction = next(iter(pairs.values()))[1].toward
            found.append(
                _compared(
                    pairs,
                    "spectral_norm",
                    1,
                    key=f"reset_{surface}",
                    statement=f"A reset of {fraction:g} raises the eigenvalues "
                    f"(surface {surface}, scales frozen)",
                    paper="max |λ| +84 % at 0.4, 2 bits",
                    w_bits=bits,
                    notes=(ONLY_MASK,) if surface == "ste" else (),
                )
            )
    return found


def _methods(facts: list[Fact], bits: float) -> list[Claim]:
    base = _series(facts, "baseline")
    found = []
    for method, key, statement, side, paper in (
        ("winq", "winq_magnitude", "WinQ keeps eigenvalues larger than the baseline's", 1, ""),
        ("winq", "winq_near_zero", "WinQ has fewer eigenvalues near zero", -1, "−12 % relative"),
        ("noise", "noise_regularizes", "Noise alone lowers the eigenvalues", -1, ""),
    ):
        other = _series(facts, method)
        pairs = {
            seed: (base[seed][-1], other[seed][-1])
            for seed in base
            if seed in other and base[seed][-1].step == other[seed][-1].step
        }
        quantity = "near_zero_resolved" if key == "winq_near_zero" else "rms_eigenvalue"
        stand_in = variant([fact.method for fact in facts], method)
        if pairs:
            found.append(
                _compared(
                    pairs,
                    quantity,
                    side,
                    key=key,
                    statement=f"{statement} (last step)",
                    paper=paper,
                    w_bits=bits,
                    notes=() if stand_in == method else (f"measured on {stand_in}",),
                )
            )
    return found


def _across_widths(facts: list[Fact], widths: list[float]) -> list[Claim]:
    if len(widths) < 2:
        return []
    low, high = widths[0], widths[-1]
    fewer = _series([f for f in facts if f.bits == low], "baseline")
    more = _series([f for f in facts if f.bits == high], "baseline")
    pairs = {
        seed: (more[seed][-1], fewer[seed][-1])
        for seed in fewer
        if seed in more and more[seed][-1].step == fewer[seed][-1].step
    }
    words = f"{low:g} {'bit' if low == 1 else 'bits'} against {high:g}"
    return [
        _compared(
            pairs,
            "spectral_norm",
            -1,
            key="bits_magnitude",
            statement=f"Fewer bits, smaller eigenvalues: {words}",
            paper="smaller max |λ|",
            w_bits=None,
        ),
        _compared(
            pairs,
            "near_zero_resolved",
            1,
            key="bits_near_zero",
            statement=f"Fewer bits, more eigenvalues near zero: {words}",
            paper="more near zero",
            w_bits=None,
        ),
    ]
