"""Pairs of records, one a seed, and the claim that something lies on one side of zero in all."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from analysis.claims.facts import Fact
from analysis.claims.rules import (
    SEEDS,
    Claim,
    Interval,
    student_of_intervals,
    verdict_of_runs,
    verdict_of_spectra,
)
from analysis.comparable import check_comparable
from analysis.load import KEPT, spectrum
from spectra.errors import UsageError
from spectra.quadrature.difference import differences
from spectra.quadrature.estimates import MIN_POPULATION
from spectra.quadrature.reading import ritz_norms
from spectra.record.files import ARRAYS
from spectra.record.spectrum import Spectrum

CLAIMED = ("spectral_norm", "rms_eigenvalue")  # what claims are on, beside soft shares
SHARES = (0.03, 0.1)  # thresholds of soft shares that claims are on
Pairs = dict[int, tuple[Fact, Fact]]


def along(facts: Iterable[Fact], method: str) -> dict[int, list[Fact]]:
    """Return the records of a method on the default surface, by seed, in the order of the steps.

    Before the first step every method and seed is the same model, so that a run without a record of
    step 0 begins with that of another, and one with a record of the very same weights with the one
    that has most products.
    """
    found: dict[int, list[Fact]] = {}
    facts = list(facts)
    for fact in facts:
        if fact.method == method and fact.in_place and fact.surface == "ste":
            found.setdefault(fact.seed, []).append(fact)
    start = [f for f in facts if f.step == 0 and f.in_place and f.surface == "ste"]
    start.sort(key=lambda fact: -int(fact.spectrum.steps.sum()))
    for series in found.values():
        own = next((fact for fact in series if fact.step == 0), None)
        if own is None:
            series += start[:1]
        elif own.weights is not None:
            same = (fact for fact in start if fact.weights == own.weights)
            series[series.index(own)] = next(same)
    return {seed: sorted(found[seed], key=lambda f: f.step) for seed in sorted(found)}


def quantities(a: Fact, b: Fact, names: tuple[str, ...] = CLAIMED) -> dict[str, Interval]:
    """Return what `spectra.quadrature.differences` says of two records, by name.

    Over data where the records have batches enough to know their spread, else of their batches.
    """
    return _quantities(a.path, _version(a), b.path, _version(b), names)


def _version(fact: Fact) -> int:
    return (Path(fact.path) / ARRAYS).stat().st_mtime_ns


@lru_cache(maxsize=KEPT)
def _quantities(a: str, _: int, b: str, __: int, names: tuple[str, ...]) -> dict[str, Interval]:
    one, two = spectrum(a).measure, spectrum(b).measure
    enough = min(one.num_batches, two.num_batches) >= MIN_POPULATION
    scope = "population" if enough else "batches"
    found = differences(one, two, scope=scope, taus=SHARES, names=names)
    return {one.name: (one.value, one.lower, one.upper) for one in found}


def compared(pairs: Pairs, quantity: str, side: int, **claim: Any) -> Claim:
    """Return the claim that B − A of a quantity lies on a side, for each seed's pair (A, B).

    Args:
        pairs: The records.
        quantity: Name of the quantity.
        side: +1 if the claim says the difference is positive, −1 negative.
        **claim: The rest of the claim; `relative_to` names A, to tell the change as a share of it.
    """
    whole = claim.pop("relative_to", "the baseline's")
    values, sources, tokens, batches = {}, [], set(), sys.maxsize
    relative: list[str] = []
    instants: set[int] = set()
    notes = list(claim.pop("notes", ()))
    for seed, (a, b) in pairs.items():
        try:
            check_comparable(a.spectrum, b.spectrum)
            names = CLAIMED if quantity in CLAIMED else (quantity,)
            found = quantities(a, b, names).get(quantity)
        except UsageError as error:
            notes.append(f"seed {seed} left out: {a.path} against {b.path}: {error}")
            continue
        if found is not None and not all(math.isnan(x) for x in found):
            values[seed] = found
            relative += [_relative(a, found, quantity)]
            instants |= {b.step} if b.after_reset else set()
            sources += [a.path, b.path]
            tokens.add(_finished_tokens(a.spectrum))
            batches = min(batches, *(fact.spectrum.measure.num_batches for fact in (a, b)))
    if len(tokens) == 1:
        (counts,) = tokens
        words = "1 batch" if len(counts) == 1 else f"{len(counts)} batches"
        over = ", intervals over data" if batches >= MIN_POPULATION else ""
        notes.append(f"on {words} of {sum(counts):,} tokens, the same for all seeds{over}")
    if any(relative):
        notes.append(f"as shares of {whole}: {', '.join(relative)}")
    if instants:
        notes.append(
            f"step {', '.join(map(str, sorted(instants)))} is the instant of a reset: what one "
            "does by itself is the matter of the claims on single resets"
        )
    return on_spectra(values, side, quantity=quantity, notes=notes, sources=sources, **claim)


def _finished_tokens(one: Spectrum) -> tuple[int, ...]:
    """Return the predictions that count in each batch that any probe has finished on."""
    return tuple(int(n) for n in one.tokens[(one.steps > 0).any(axis=1)])


def _relative(a: Fact, change: Interval, quantity: str) -> str:
    """Return a change as a share of what it is a change of, as "+1.5 %", where that is known."""
    one = a.spectrum
    if quantity == "spectral_norm":
        base = float(ritz_norms(one.measure).mean())  # of each batch, as the difference is
    elif quantity == "rms_eigenvalue":
        base = math.sqrt(max(0.0, one.moment(2).value))
    else:
        return ""
    return f"{change[0] / base:+.1%}".replace("-", "−") if base > 0 else ""


def on_spectra(
    values: dict[int, Interval],
    side: int,
    *,
    sources: Iterable[str],
    notes: Iterable[str] = (),
    trained: bool = False,
    **claim: Any,
) -> Claim:
    """Return the claim that a quantity lies on a side of zero, with an interval for each seed.

    Args:
        values: Interval of each seed.
        side: +1 if the claim says the quantity is positive, −1 negative.
        sources: Records.
        notes: What a reader must know.
        trained: Whether training decides the quantity, so that seeds differ by more than intervals.
        claim: The rest of the claim.
    """
    found = list(values.values())
    whole = trained and len(found) >= SEEDS and all(math.isfinite(x) for v in found for x in v)
    return Claim(
        **claim,
        side=side,
        values=tuple(found),
        seeds=tuple(values),
        mean=student_of_intervals(found) if whole else None,
        verdict=(verdict_of_runs if trained else verdict_of_spectra)(found, side),
        notes=tuple(notes),
        sources=tuple(sources),
    )
