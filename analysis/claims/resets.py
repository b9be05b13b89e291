"""Claims on one reset of a checkpoint, scales frozen: what it changes at that instant.

A reset W ← (1−f)W + fQ(W) with frozen scales leaves Q(W) as it is. So the surface `quantized`
cannot change at all, and `ste`, M ∇²L(Q(W)) M, only through the clip mask M, which keeps every
clipped weight clipped for f < 1 where the grid's outer levels are the clip values (1, 3 and 4
bits); only the grids of 1.58 and 2 bits have outer levels inside. `latent` is the Hessian at other
weights.

That nothing changes is seen on the Lanczos coefficients themselves: from the same start vector
equal operators give equal coefficients, to the error of the products.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis.claims.facts import Fact
from analysis.claims.near_zero import near_zero_pairs
from analysis.claims.pairs import Pairs, along, compared, on_spectra
from analysis.claims.rules import Claim, Interval
from analysis.labels import RESET, masked_share
from spectra.record.spectrum import Spectrum

ONLY_MASK = (
    "with frozen scales a reset moves weights within their cells, so that nothing but the clip "
    "mask can change here"
)
RISES = (
    "coordinates only leave the mask, and by Cauchy interlacing max |λ| of more coordinates cannot "
    "be smaller: what is measured is by how much"
)
EQUAL = "the two operators are equal, whatever the steps resolve"
POWER = 1e-3  # of the largest coefficient: what must be told from no change at all
TINY = 1e-300  # of an operator that is zero
ERRORS = 10  # product errors that may add up in that many steps
STEPS = 8  # Lanczos steps that are held against each other
SAME_START = ("seed", "num_probes", "probe_kind")


def claims_on_resets(facts: list[Fact], bits: float) -> list[Claim]:
    """Return the claims on resets of the last baseline checkpoint, on each surface there is."""
    found = []
    for surface in ("ste", "quantized", "latent"):
        pairs = _pairs(facts, surface)
        if not pairs:
            continue
        fraction = next(iter(pairs.values()))[1].toward
        notes = () if surface == "latent" else (ONLY_MASK,)
        rises = (RISES,) if surface == "ste" else ()
        common = f"(surface {surface}, scales frozen)"
        claims = [
            compared(
                pairs,
                "spectral_norm",
                1,
                relative_to="no reset",
                key=f"reset_{surface}",
                statement=f"A reset of {fraction:g} raises the largest |λ| {common}",
                paper="max |λ| +84 % at 0.4, 2 bits",
                w_bits=bits,
                notes=(*notes, *rises),
            ),
            *near_zero_pairs(
                pairs,
                -1,
                unmasked=surface == "ste",
                key=f"reset_near_zero_{surface}",
                statement=f"A reset of {fraction:g} leaves fewer eigenvalues near zero {common}",
                paper="0.65 → 0.57 at 0.4, 2 bits",
                w_bits=bits,
                notes=notes,
            ),
        ]
        if surface != "latent":
            same = _unchanged(pairs, bits, surface)
            if same.verdict == "reproduced":
                claims = [
                    replace(claim, verdict="contradicted", notes=(*claim.notes, EQUAL))
                    for claim in claims
                ]
            claims.append(same)
        found += claims
    return found


def _pairs(facts: list[Fact], surface: str) -> Pairs:
    """Return for each seed the last baseline checkpoint as it is, and moved toward the grid."""
    pairs = {}
    for seed, series in along(facts, "baseline").items():
        last = series[-1]
        there = [
            fact
            for fact in facts
            if (fact.method, fact.seed, fact.step, fact.surface)
            == (last.method, seed, last.step, surface)
        ]
        plain = [f for f in there if f.in_place]
        moved_by_nothing = [f for f in there if f.toward == 0 and not (f.rederived or f.penalty)]
        still = next(iter(plain + moved_by_nothing), None)
        nearer = min(
            (f for f in there if f.toward and not f.rederived and not f.penalty),
            key=lambda f: abs((f.toward or 0.0) - RESET),
            default=None,
        )
        if still is not None and nearer is not None:
            pairs[seed] = (still, nearer)
    fractions = {pair[1].toward for pair in pairs.values()}
    if len(fractions) > 1:  # one claim is of one fraction: that of the first seed
        same = next(iter(pairs.values()))[1].toward
        return {seed: pair for seed, pair in pairs.items() if pair[1].toward == same}
    return pairs


def _unchanged(pairs: Pairs, bits: float, surface: str) -> Claim:
    values, sources = {}, []
    for seed, (still, moved) in pairs.items():
        change = coefficient_change(still.spectrum, moved.spectrum)
        if change is not None:
            values[seed] = change
            sources += [still.path, moved.path]
    return on_spectra(
        values,
        -1,
        key=f"reset_unchanged_{surface}",
        statement=f"A reset leaves the spectrum as it is (surface {surface}, scales frozen)",
        paper="ours, against the paper",
        w_bits=bits,
        quantity="largest change of a Lanczos coefficient, over 10 δ, less 1 (−1: none)",
        notes=(ONLY_MASK,),
        sources=sources,
    )


def coefficient_change(a: Spectrum, b: Spectrum) -> Interval | None:
    """Return the largest change of a coefficient over what rounding allows, less 1.

    None where the start vectors differ, as with another mask, whose coordinates they do not have:
    such runs cannot be held against each other; and where products are so wrong that equal is not
    told from different.
    """
    steps = same_start(a, b)
    if not steps or allowed(a, b) > POWER * float(np.abs(a.alphas).max()):
        return None
    change = max(
        float(np.abs(x[..., :steps] - y[..., :steps]).max())
        for x, y in ((a.alphas, b.alphas), (a.betas, b.betas))
    )
    beyond = change / allowed(a, b) - 1
    return beyond, beyond, beyond


def allowed(a: Spectrum, b: Spectrum) -> float:
    """Return how far coefficients of equal operators may be apart: some product errors add up."""
    known = max(a.measure.product_error, b.measure.product_error)
    return ERRORS * max(known, np.finfo(np.float64).eps * float(np.abs(a.alphas).max()), TINY)


def same_start(a: Spectrum, b: Spectrum) -> int:
    """Return the number of Lanczos steps that both took from one start vector, 0 if they did not.

    Early coefficients alone are held against each other: after a Ritz value has converged, later
    ones answer to rounding.
    """
    settings = [one.metadata.get("estimator", {}) for one in (a, b)]
    masked = masked_share(a.metadata)
    if masked != masked_share(b.metadata):
        return 0
    keys = (*SAME_START, "probe_space") if masked else SAME_START  # without a mask one space
    if a.alphas.shape[:2] != b.alphas.shape[:2] or any(
        settings[0].get(key) != settings[1].get(key) for key in keys
    ):
        return 0
    return min(STEPS, int(min(a.steps.min(), b.steps.min())))
