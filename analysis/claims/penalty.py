"""The claim behind the reset: a penalty γ/2 ‖W − Q(W)‖² adds γI to the Hessian.

The paper reads a reset by f as one proximal step on L + γ/2 ‖W − Q(W)‖² at rate η, where
f = ηγ/(1 + ηγ). With Q(W) held constant the penalty adds γ to the diagonal: in exact arithmetic
Lanczos from the same start vector finds α + γ and β. That is the Hessian of the penalized loss, not
of L: what a reset does to the Hessian of L is the matter of `analysis.claims.resets`.

Held against each other are records from one start vector. On the surface ste that takes a mask that
is empty: a penalty takes masked coordinates out of the null space.
"""

from __future__ import annotations

import numpy as np

from analysis.claims.facts import Fact
from analysis.claims.pairs import on_spectra
from analysis.claims.resets import POWER, allowed, same_start
from analysis.claims.rules import Claim, Interval
from spectra.record.spectrum import Spectrum


def claims_on_penalties(facts: list[Fact], bits: float) -> list[Claim]:
    """Return the claim for each surface on which a checkpoint was looked at with a penalty."""
    found = []
    for surface in ("ste", "latent"):
        plain = {f.place: f for f in facts if f.surface == surface and not f.penalty}
        values: dict[int, Interval] = {}
        sources, strengths = [], set()
        for fact in facts:
            partner = plain.get((*fact.place[:-1], None))
            if fact.surface != surface or not fact.penalty or partner is None:
                continue
            beyond = shift_beyond(partner.spectrum, fact.spectrum, fact.penalty)
            if beyond is None:
                continue
            values[fact.seed] = max(beyond, values.get(fact.seed, beyond))  # of all the worst
            strengths.add(fact.penalty)
            sources += [partner.path, fact.path]
        if values:
            shown = ", ".join(f"{gamma:g}" for gamma in sorted(strengths))
            found.append(
                on_spectra(
                    values,
                    -1,
                    key=f"penalty_{surface}",
                    statement=f"A penalty γ/2 ‖W − Q(W)‖² shifts the spectrum by γ = {shown} and "
                    f"changes nothing else (surface {surface})",
                    paper="Hessian gains γI",
                    w_bits=bits,
                    quantity="largest change of a Lanczos coefficient beyond γ, over 10 δ, less 1",
                    notes=("of the penalized loss; the Hessian of the loss itself has no such γI",),
                    sources=sources,
                )
            )
    return found


def shift_beyond(plain: Spectrum, penalized: Spectrum, gamma: float) -> Interval | None:
    """Return how far coefficients are from a shift by γ, over what rounding allows, less 1."""
    steps = same_start(plain, penalized)
    if not steps or abs(gamma) < 1 / POWER * allowed(plain, penalized):
        return None  # so small a shift is not told from none
    a, b = (one.alphas[..., :steps] for one in (plain, penalized))
    c, d = (one.betas[..., :steps] for one in (plain, penalized))
    change = max(float(np.abs(b - a - gamma).max()), float(np.abs(d - c).max()))
    beyond = change / allowed(plain, penalized) - 1
    return beyond, beyond, beyond
