"""Claims on how many eigenvalues lie near zero, by soft shares.

A soft share of order 2 at τ counts an eigenvalue λ with the weight 1/(1 + (λ/τ)⁴)
(spectra.quadrature.soft). The thresholds were fixed before the records were looked at that give the
verdicts: τ = 0.03 and 0.1, and 0.1 and 0.3 of the baseline's rms eigenvalue (on the nearest rung of
the fixed ladder), since an absolute threshold changes its meaning with the scale of the loss. Each
claim is told twice where there is a clip mask: of all coordinates, of which the masked ones are
exact zeros, and of those that the mask leaves.

A seed whose records do not resolve a threshold, their bounds being further apart than `UNRESOLVED`
before any probe's error, says nothing of it and is left out, by name: that depends on the Lanczos
steps, not on what the records show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from analysis.claims.facts import Fact
from analysis.claims.pairs import Pairs, compared, on_spectra
from analysis.claims.rules import Claim, Interval
from analysis.labels import masked_share
from spectra.quadrature.difference import SOFT_RMS
from spectra.quadrature.soft import DEFAULT_ORDER, LADDER, RUNGS, soft_band, soft_bounds
from spectra.record.spectrum import Spectrum

TAUS = (0.03, 0.1)
BEYOND = 0.4  # the paper's share of eigenvalues near zero
UNRESOLVED = 0.2


@dataclass(frozen=True)
class Threshold:
    """One way to say "near zero".

    Attributes:
        name: Of the quantity of `spectra.quadrature.differences`, without "soft_" and "unmasked_".
        words: For people.
        tau: The threshold at a record of the baseline.
        events: Intervals that hold at once with it.
    """

    name: str
    words: str
    tau: Callable[[Spectrum], float]
    events: float


def _fixed(tau: float, one: Spectrum) -> float:
    del one
    return tau


def _relative(factor: float, one: Spectrum) -> float:
    size = max(one.moment(2).value, 0.0) ** 0.5
    return min(LADDER, key=lambda tau: abs(np.log(tau / max(factor * size, LADDER[0]))))


THRESHOLDS = (
    *(Threshold(f"{tau:g}", f"τ = {tau:g}", partial(_fixed, tau), 1.0) for tau in TAUS),
    *(
        Threshold(
            f"rms_{factor:g}",
            f"τ = {factor:g} of the baseline's rms eigenvalue",
            partial(_relative, factor),
            RUNGS,
        )
        for factor in SOFT_RMS
    ),
)


def near_zero_pairs(
    pairs: Pairs, side: int, *, key: str, statement: str, unmasked: bool = True, **claim: Any
) -> list[Claim]:
    """Return the claims that B has more (`side` 1) or less near zero than A, by threshold.

    Args:
        pairs: For each seed, records A and B.
        side: +1 if the claim says the share of B is larger, −1 smaller.
        key: Of the claims, to which the threshold is added.
        statement: What is claimed.
        unmasked: Whether to tell it of the unmasked coordinates as well, where some are masked.
        claim: The rest.
    """
    found = []
    for threshold in THRESHOLDS:
        masked = any(
            fact.spectrum.measure.masked_fraction > 0 for pair in pairs.values() for fact in pair
        )
        for part, where in _parts(masked and unmasked):
            kept, left = _resolved(pairs, threshold)
            found.append(
                compared(
                    kept,
                    f"soft_{part}{threshold.name}",
                    side,
                    key=f"{key}_{part}{threshold.name}",
                    statement=f"{statement} ({threshold.words}{where})",
                    **{**claim, "notes": [*claim.get("notes", ()), *left]},
                )
            )
    return found


def more_than_paper(ends: dict[int, Fact], bits: float, notes: tuple[str, ...]) -> list[Claim]:
    """Return the claims that more than 40 % of the eigenvalues lie near zero, by threshold."""
    found = []
    for threshold in THRESHOLDS:
        masked = any(masked_share(fact.spectrum.metadata) > 0 for fact in ends.values())
        for part, where in _parts(masked):
            kept, left = _resolved({seed: (fact, fact) for seed, fact in ends.items()}, threshold)
            found.append(
                on_spectra(
                    {
                        seed: _beyond(fact.spectrum, threshold, bool(part))
                        for seed, (fact, _) in kept.items()
                    },
                    1,
                    key=f"near_zero_share_{part}{threshold.name}",
                    statement=f"Plain QAT ends with more than {BEYOND:.0%} of the eigenvalues near "
                    f"zero ({threshold.words}{where})",
                    paper="0.65 (2 bits, its own scale)",
                    w_bits=bits,
                    quantity=f"soft share less {BEYOND:g}",
                    sources=[fact.path for fact, _ in kept.values()],
                    notes=[*(() if part else notes), *left],
                )
            )
    return found


def _parts(masked: bool) -> list[tuple[str, str]]:
    """Return the part of a name and words for all coordinates, and for the unmasked ones."""
    return [("", ""), *([("unmasked_", "; unmasked coordinates")] if masked else [])]


def _resolved(pairs: Pairs, threshold: Threshold) -> tuple[Pairs, list[str]]:
    kept, steps, left = {}, set(), []
    for seed, (a, b) in pairs.items():
        tau = threshold.tau(a.spectrum)
        if all(_width(fact.spectrum, tau) <= UNRESOLVED for fact in (a, b)):
            kept[seed] = a, b
        else:
            left.append(str(seed))
            steps |= {fact.spectrum.measure.steps for fact in (a, b)}
    if not left:
        return kept, []
    seeds = f"seed{'s' if len(left) > 1 else ''} {', '.join(left)}"
    return kept, [f"{seeds} left out: {min(steps)} Lanczos steps do not resolve the threshold"]


def _width(one: Spectrum, tau: float) -> float:
    low, high = soft_bounds(one.measure, np.array([tau]), DEFAULT_ORDER)
    return float((high - low).mean())


def _beyond(one: Spectrum, threshold: Threshold, unmasked: bool) -> Interval:
    band = soft_band(
        one.measure, np.array([threshold.tau(one)]), simultaneous=True, events=threshold.events
    )
    f = masked_share(one.metadata) if unmasked else 0.0
    if f >= 1:
        return float("nan"), -float("inf"), float("inf")
    value, lower, upper = (
        (float(end[0]) - f) / (1 - f) - BEYOND for end in (band.value, band.lower, band.upper)
    )
    return value, max(lower, -BEYOND), upper
