"""What is printed, as (name, estimate from a measure, exact value from eigenvalues).

To add a quantity, register it:

    register("soft mass .1", lambda measure, scope: soft_mass(measure, 0.1, scope=scope),
             lambda lam: np.mean(1 / (1 + (lam / 0.1) ** 4)))

`truth` is given the eigenvalues of one operator; the value over several is the mean, or, with
`pooled`, that of all eigenvalues together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from spectra.quadrature import Estimate, Measure, extremes, mass, moment, quantile
from tests.coverage.families import spectrum

Estimator = Callable[[Measure, str], Estimate]
Truth = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Quantity:
    """A quantity of one record.

    Attributes:
        name: For the table.
        estimate: Of a measure and a scope.
        truth: Of the eigenvalues of one operator.
        pooled: Whether several operators count as one spectrum.
        printed: The key of the record's summary that shows it, "" where it is only asked for.
        slow: Whether it is too slow for all settings: then it is run in the usual one only.
        least: Fewest Lanczos steps it needs.
        degree: Power of c by which it grows when the operator is multiplied by c > 0, 0 if other.
    """

    name: str
    estimate: Estimator
    truth: Truth
    pooled: bool = False
    printed: str = ""
    slow: bool = False
    least: int = 1
    degree: int = 0

    def exact(self, spectra: Sequence[np.ndarray]) -> float:
        """Return the value over the operators with these eigenvalues."""
        if self.pooled:
            return self.truth(np.concatenate(spectra))
        return float(np.mean([self.truth(lam) for lam in spectra]))


QUANTITIES: dict[str, Quantity] = {}


def register(name: str, estimate: Estimator, truth: Truth, **options: object) -> None:
    """Add a quantity to the table."""
    if name in QUANTITIES:
        raise ValueError(f"{name!r} is in the table already")
    QUANTITIES[name] = Quantity(name, estimate, truth, **options)  # type: ignore[arg-type]


def _rank_quantile(lam: np.ndarray, p: float) -> float:
    return float(np.sort(lam)[int(np.ceil(p * lam.size)) - 1])


def _rms(measure: Measure, scope: str) -> Estimate:
    square = moment(measure, 2, scope=scope)
    ends = (np.sqrt(max(end, 0.0)) for end in (square.value, square.lower, square.upper))
    value, lower, upper = map(float, ends)
    return Estimate(value, np.nan, lower, upper, scope, square.confidence)


register(
    "mean",
    lambda m, s: moment(m, 1, scope=s),
    lambda lam: lam.mean(),
    printed="mean_eigenvalue",
    degree=1,
)
register(
    "mean square",
    lambda m, s: moment(m, 2, scope=s),
    lambda lam: np.mean(lam**2),
    printed="mean_square_eigenvalue",
    least=2,
    degree=2,
)
register("rms", _rms, lambda lam: np.sqrt(np.mean(lam**2)), pooled=True, least=2, degree=1)
register(
    "mean cube", lambda m, s: moment(m, 3, scope=s), lambda lam: np.mean(lam**3), least=3, degree=3
)
register("λmin", lambda m, s: extremes(m, scope=s)[0], np.min, printed="lambda_min", degree=1)
register("λmax", lambda m, s: extremes(m, scope=s)[1], np.max, printed="lambda_max", degree=1)
register(
    "mass < 0",
    lambda m, s: mass(m, -np.inf, -m.delta, closed=False, scope=s),
    lambda lam: np.mean(lam < 0),
    printed="negative_mass",
)
for tau in (0.01, 0.1, 1.0):
    register(
        f"mass |λ| ≤ {tau:g}",
        lambda m, s, tau=tau: mass(m, -tau, tau, scope=s),
        lambda lam, tau=tau: np.mean(np.abs(lam) <= tau),
        printed="near_zero",
    )
for p in (0.5, 0.99):
    register(
        f"quantile {p:g} of |λ|",
        lambda m, s, p=p: quantile(m, p, magnitude=True, scope=s),
        lambda lam, p=p: _rank_quantile(np.abs(lam), p),
        pooled=True,
        slow=True,
    )


def suits(quantity: Quantity, family: str) -> bool:
    """Whether a family's operators allow as many Lanczos steps as the quantity needs."""
    return len(np.unique(spectrum(family))) >= quantity.least
