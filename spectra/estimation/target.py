"""What an adaptive estimate is asked for: thresholds, a tolerance, a scope, a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spectra.errors import UsageError
from spectra.quadrature.estimates import CONFIDENCE

LADDER = tuple(float(f"{d}e{k}") for k in range(-20, 20) for d in (1, 2, 5))
Edge = Literal["soft", "sharp"]
EDGES = ("soft", "sharp")
SOFT, SHARP = "soft_share", "near_zero"  # names of asked shares
DEFAULT_MAX_HVPS = 1200  # a tenth of the 20 × 60 × 10 of the reference procedure


@dataclass(frozen=True)
class Target:
    """What an adaptive run is asked for.

    Attributes:
        tol: Half the width that every asked interval may have.
        tau: Thresholds τ of the asked masses of |λ| ≤ τ; None for the finest the products buy.
        negative_mass: Whether the mass of negative eigenvalues is asked for as well.
        scope: "batches" or "population".
        max_hvps: Products that may be spent.
        num_probes: Probes on each operator; None for what the probe error requires.
        edge: "soft": shares near zero with the weight 1/(1 + (λ/τ)⁴), which steps resolve
            exponentially fast; "sharp": the share of |λ| ≤ τ.

    Raises:
        UsageError: If one of them is out of range.
    """

    tol: float
    tau: tuple[float, ...] | None = None
    negative_mass: bool = False
    scope: Literal["batches", "population"] = "batches"
    max_hvps: int = DEFAULT_MAX_HVPS
    num_probes: int | None = None
    edge: Edge = "soft"

    def __post_init__(self) -> None:
        if not 0 < self.tol < 0.5:
            raise UsageError(
                f"tol={self.tol!r} is no half-width of a mass; pass a number between 0 and 0.5, "
                "as 0.02."
            )
        for tau in self.tau or ():
            if not 0 < tau < math.inf:
                raise UsageError(f"tau={tau!r} is no threshold; pass positive numbers, or 'auto'.")
        if self.scope not in ("batches", "population"):
            raise UsageError(f"scope={self.scope!r} is not known; pass batches or population.")
        if self.edge not in EDGES:
            raise UsageError(f"edge={self.edge!r} is not known; pass soft or sharp.")
        if self.max_hvps < 2:
            raise UsageError(f"max_hvps={self.max_hvps} is too small; pass at least 2 products.")

    @property
    def confidence(self) -> float:
        """Confidence of each interval: of one of a ladder so high that all hold with 95 %."""
        events = len(LADDER) if self.tau is None else 1
        return 1 - (1 - CONFIDENCE) / events

    def goals(self, delta: float, radius: float) -> list[Goal]:
        """Return the asked masses, by threshold.

        Args:
            delta: Error of a product: below it nothing is reportable.
            radius: Spectral radius, or a bound: of the ladder beyond it one threshold is enough.
        """
        taus = sorted(set(self.tau or ()))
        if self.tau is None:
            inside = [tau for tau in LADDER if delta <= tau < radius]
            taus = [*inside, next(tau for tau in (*LADDER, math.inf) if tau >= max(radius, delta))]
        name = SOFT if self.edge == "soft" else SHARP
        near_zero = [Goal(name, -tau, tau, tau) for tau in taus]
        return near_zero + (
            [Goal("negative_mass", -math.inf, -delta)] if self.negative_mass else []
        )

    def metadata(self) -> dict[str, Any]:
        """Return the `asked` part of a record's section `adaptive`."""
        return {
            "tol": self.tol,
            "tau": "auto" if self.tau is None else list(self.tau),
            "negative_mass": self.negative_mass,
            "scope": self.scope,
            "max_hvps": self.max_hvps,
            "confidence": self.confidence,
            **({"edge": self.edge} if self.edge != "sharp" else {}),  # records of before are sharp
        }


@dataclass(frozen=True)
class Goal:
    """One asked share: `SOFT` or `SHARP` (each with its τ), or "negative_mass", of [a, b]."""

    name: str
    a: float
    b: float
    tau: float | None = None


def parse_tau(tau: str | float | Sequence[float] | None) -> tuple[float, ...] | None:
    """Return thresholds from a number, several, "0.01,0.1", or None from "auto" and None.

    Raises:
        UsageError: If it is none of these.
    """
    if tau is None or tau == "auto":
        return None
    parts = tau.split(",") if isinstance(tau, str) else np.atleast_1d(np.asarray(tau)).tolist()
    try:
        return tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise UsageError(f"tau={tau!r} is not 'auto', a number, or a list as 0.01,0.1.") from None


def as_target(
    tol: float | None,
    *,
    tau: str | float | Sequence[float] | None,
    negative_mass: bool,
    scope: Literal["batches", "population"],
    max_hvps: int | None,
    num_probes: int | None,
    lanczos_steps: int | None,
    edge: Edge = "soft",
) -> Target | None:
    """Return what the arguments of `spectra.slq` ask for, None without `tol`.

    Raises:
        UsageError: If a value is out of range, or they contradict each other.
    """
    if tol is None:
        given = {
            "tau": tau is not None,
            "negative_mass": negative_mass,
            "max_hvps": max_hvps is not None,
            "scope": scope != "batches",
            "edge": edge != "soft",
        }
        for name in (name for name, there in given.items() if there):
            raise UsageError(f"{name} belongs to an adaptive estimate; pass tol with it, as 0.02.")
        return None
    if lanczos_steps is not None:
        raise UsageError(
            f"lanczos_steps={lanczos_steps} and tol={tol:g} contradict each other: tol decides the "
            "steps; pass max_hvps to bound the products."
        )
    most = DEFAULT_MAX_HVPS if max_hvps is None else max_hvps
    return Target(tol, parse_tau(tau), negative_mass, scope, most, num_probes, edge)
