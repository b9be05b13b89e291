"""Pairs of records, one a seed, and the claim that something lies on one side of zero in all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

from analysis.claims.facts import Fact
from analysis.claims.rules import Claim, Interval, variant, verdict_of_spectra
from analysis.comparable import check_comparable
from analysis.load import spectrum
from spectra.errors import UsageError
from spectra.quadrature.difference import differences

Pairs = dict[int, tuple[Fact, Fact]]


def along(facts: Iterable[Fact], method: str) -> dict[int, list[Fact]]:
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
def quantities(a: str, b: str) -> dict[str, Interval]:
    """Return what `spectra.quadrature.differences` says of two records, by name."""
    found = differences(spectrum(a).measure, spectrum(b).measure)
    return {one.name: (one.value, one.lower, one.upper) for one in found}


def compared(pairs: Pairs, quantity: str, side: int, **claim: Any) -> Claim:
    """Return the claim that B − A of a quantity lies on a side, for each seed's pair (A, B)."""
    values, sources = {}, []
    notes = list(claim.pop("notes", ()))
    for seed, (a, b) in pairs.items():
        try:
            check_comparable(a.spectrum, b.spectrum)
            found = quantities(a.path, b.path).get(quantity)
        except UsageError as error:
            notes.append(f"seed {seed} left out: {a.path} against {b.path}: {error}")
            continue
        if found is not None and not all(math.isnan(x) for x in found):
            values[seed] = found
            sources += [a.path, b.path]
    return on_spectra(values, side, quantity=quantity, notes=notes, sources=sources, **claim)


def on_spectra(
    values: dict[int, Interval],
    side: int,
    *,
    sources: Iterable[str],
    notes: Iterable[str] = (),
    **claim: Any,
) -> Claim:
    """Return the claim that a quantity lies on a side of zero, with an interval for each seed."""
    return Claim(
        **claim,
        side=side,
        values=tuple(values.values()),
        seeds=tuple(values),
        verdict=verdict_of_spectra(list(values.values()), side),
        notes=tuple(notes),
        sources=tuple(sources),
    )
