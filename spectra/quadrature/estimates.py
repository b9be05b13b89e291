"""`Estimate`: a number with its error, and the rules by which the error is found.

Let L_i and U_i be the resolution bounds (spectra.quadrature.radau) of the mass of an interval that
probe i sees, i = 1…P over all probes of all operators, n the dimension probes live in.

*These batches* (the operators are fixed, the probes random). For a spherical probe the mass of an
interval with k of n eigenvalues is Beta(k/2, (n − k)/2): mean F = k/n, variance
2F(1 − F)/(n + 2), and sub-Gaussian with proxy at most 1/(2(n + 2)). Hence with probability 1 − η

    mean L − h  ≤  F  ≤  mean U + h,      h = √(ln(2/η) / ((n + 2)P)),

a finite-sample statement, valid for P = 1, that estimates no variance. For all intervals at once,
or one chosen after looking, η is divided by N(N + 1)/2: the mean of B distribution functions of n
steps each has N = nB jumps at most, and an interval is told by its first and last.

*The population over data* (B ≥ 3 batches, drawn alike): mean_b L_b − t s_L/√B and
mean_b U_b + t s_U/√B with Student's t at B − 1 degrees and 1 − η/2.

Any linear functional Ψ(f) has variance 2(Φ(f²) − Φ(f)²)/(n + 2) for one probe (Dirichlet weights).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.stats

from spectra.errors import UsageError
from spectra.quadrature.gauss import Floats

Scope = Literal["batches", "population"]
CONFIDENCE = 0.95
MIN_POPULATION = 3  # batches below which nothing is said about other data
RESOLVED_WIDTH = 0.1  # a mass whose interval is wider than this is called not resolved


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    Attributes:
        value: The number; for masses the middle of the resolution band.
        stderr: Standard error of the random part (probes, or batches), without resolution.
        lower: Lower end of the interval that holds the true number with `confidence`.
        upper: Upper end.
        scope: "batches": the average over the batches used; "population": over data like them.
        confidence: Of the interval.
        node_sum: For masses, the sum of node weights, which other tools report; no error is known.
        note: What a reader must know, in words; empty when nothing.
    """

    value: float
    stderr: float
    lower: float
    upper: float
    scope: str = "batches"
    confidence: float = CONFIDENCE
    node_sum: float | None = None
    note: str = ""

    @property
    def width(self) -> float:
        """Width of the interval."""
        return self.upper - self.lower

    def __str__(self) -> str:
        text = f"{self.value:.4g} [{self.lower:.4g}, {self.upper:.4g}]"
        return f"{text} ({self.note})" if self.note else text


def check_confidence(confidence: float) -> None:
    """Raise UsageError unless 0 < confidence < 1."""
    if not 0 < confidence < 1:
        raise UsageError(f"confidence={confidence} is not a probability; pass e.g. 0.95.")


def check_scope(scope: str, batches: int) -> None:
    """Raise UsageError unless `scope` is known and possible with this many batches."""
    if scope not in ("batches", "population"):
        raise UsageError(f"scope={scope!r} is not known; pass 'batches' or 'population'.")
    if scope == "population" and batches < MIN_POPULATION:
        raise UsageError(
            f"scope='population' needs at least {MIN_POPULATION} batches to know their spread; "
            f"this record has {batches}: use scope='batches', or estimate on more batches."
        )


def probe_halfwidth(dim: int, probes: float, confidence: float, *, events: float = 1.0) -> float:
    """Return h = √(ln(2E/η)/((n + 2)P)) for E `events`: masses that are to hold at once.

    The mean of B distribution functions has nB jumps, so that many events make its whole curve.
    """
    return math.sqrt(math.log(2 * events / (1 - confidence)) / ((dim + 2) * probes))


def student_halfwidth(values: Floats, confidence: float) -> float:
    """Return t·s/√B for per-batch values (B,)."""
    quantile = float(scipy.stats.t.ppf(0.5 + confidence / 2, values.size - 1))
    return quantile * float(values.std(ddof=1)) / math.sqrt(values.size)


def normal_quantile(confidence: float) -> float:
    """Return the two-sided standard normal quantile."""
    return float(scipy.stats.norm.ppf(0.5 + confidence / 2))


def fraction_stderr(fraction: float, dim: int, probes: float) -> float:
    """Return √(2F(1 − F)/((n + 2)P)), the standard error of a mass seen by P probes."""
    inside = min(max(fraction, 0.0), 1.0)
    return math.sqrt(2 * inside * (1 - inside) / ((dim + 2) * probes))


def batch_means(values: list[list[float]]) -> Floats:
    """Return the mean over each batch's probes, (B,), of ragged per-probe values."""
    return np.array([np.mean(row) for row in values])
