"""Intervals over data: batches drawn from a law, and the value of a quantity under that law.

An operator times c > 0 gives the run times c, so that a pool of runs on one spectrum serves batches
of every size. `BEYOND` names the effects that no interval from a few batches can hold, which the
head of every table says; they are in the table all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.stats

from spectra.quadrature import Measure
from tests.coverage.cells import Cell, Tally, collect
from tests.coverage.families import spectrum
from tests.coverage.instances import SETTINGS, USUAL, probe_runs, scaled
from tests.coverage.quantities import QUANTITIES, Quantity

GRID = 2000  # points of equal probability of a law
POOL = 400  # runs on each spectrum
RARE = 0.2  # share of batches of the rare kind


@dataclass(frozen=True)
class Law:
    """How batches differ: a factor c = `factor(u)`, u uniform, and a rare kind of batch.

    Attributes:
        base: Family of the spectrum.
        factor: Quantile function of the factor.
        rare: Family of one batch in five; "" for none.
        beyond: Whether no interval from a few batches can hold.
    """

    base: str
    factor: Callable[[np.ndarray], np.ndarray]
    rare: str = ""
    beyond: bool = False


def _normal(u: np.ndarray, spread: float) -> np.ndarray:
    return np.maximum(1 + spread * scipy.stats.norm.ppf(u), 1e-3)


def _lognormal(u: np.ndarray, spread: float) -> np.ndarray:
    return np.exp(spread * scipy.stats.norm.ppf(u))


LAWS = {
    "all alike": Law("gaussian", np.ones_like),
    "normal 15 %": Law("gaussian", partial(_normal, spread=0.15)),
    "lognormal 0.25": Law("gaussian", partial(_lognormal, spread=0.25)),
    "lognormal 0.5": Law("gaussian", partial(_lognormal, spread=0.5)),
    "lognormal 1": Law("gaussian", partial(_lognormal, spread=1.0)),
    "outliers, all alike": Law("outliers", np.ones_like),
    "outliers, lognormal 0.5": Law("outliers", partial(_lognormal, spread=0.5)),
    "rank 1, lognormal 0.5": Law("rank 1", partial(_lognormal, spread=0.5)),
    "one in five with an outlier": Law("gaussian", np.ones_like, "one outlier 30", beyond=True),
}
BATCHES = (3, 5, 10)


def population_cells(
    instances: int,
    batches: Iterable[int] = BATCHES,
    laws: Iterable[str] = tuple(LAWS),
    quantities: Iterable[Quantity] | None = None,
    seed: int = 0,
) -> Iterator[Cell]:
    """Yield the cells of one record's quantities for the population of data."""
    chosen = [q for q in quantities or QUANTITIES.values() if not q.slow]
    for name in laws:
        law = LAWS[name]
        rng = np.random.default_rng([seed, len(name)])
        exact = {q.name: _exact(q, law) for q in chosen}
        for count in batches:
            drawn = [_draw(law, count, rng) for _ in range(instances)]
            for quantity in chosen:
                tally = Tally("population", quantity.name, name, f"{count} batches")
                for measure in drawn:
                    estimate = partial(quantity.estimate, measure, "population")
                    collect(tally, estimate, exact[quantity.name])
                yield tally.cell()


def _pool(family: str) -> list:
    if family not in _POOLS:
        _POOLS[family] = probe_runs(spectrum(family), SETTINGS[USUAL], POOL, 7)[0]
    return _POOLS[family]


_POOLS: dict[str, list] = {}


def _draw(law: Law, count: int, rng: np.random.Generator) -> Measure:
    n = spectrum(law.base).size
    factors = law.factor(rng.random(count))
    kinds = [law.rare if law.rare and rng.random() < RARE else law.base for _ in range(count)]
    places = rng.choice(POOL, count, replace=False)
    rows = [
        (scaled(_pool(kind)[place], float(c)),)
        for kind, place, c in zip(kinds, places, factors, strict=True)
    ]
    return Measure(tuple(rows), n, n)


def _exact(quantity: Quantity, law: Law) -> float:
    """Return the quantity under the law; its mean, where it is not `pooled`."""
    u = (np.arange(GRID) + 0.5) / GRID
    factors = law.factor(u)
    # Midpoints miss the tail of a mean of c or c²: the quantities are homogeneous or bounded.
    value = _over(quantity, spectrum(law.base), factors)
    if law.rare:
        rare = _over(quantity, spectrum(law.rare), factors)
        if quantity.pooled:
            square = (1 - RARE) * value**2 + RARE * rare**2
            return float(np.sqrt(square))  # the root mean square is the only one of these
        return (1 - RARE) * value + RARE * rare
    return value


def _over(quantity: Quantity, lam: np.ndarray, factors: np.ndarray) -> float:
    if quantity.degree:
        power = quantity.degree * (2 if quantity.pooled else 1)
        mean = _moment(factors, power)
        return float(quantity.truth(lam)) * (np.sqrt(mean) if quantity.pooled else mean)
    return float(np.mean([quantity.truth(c * lam) for c in factors]))


def _moment(factors: np.ndarray, power: int) -> float:
    """Return the mean of c^power: of a lognormal factor in closed form, else of the points."""
    logs = np.log(factors)
    spread = float(logs.std())
    skewed = abs(float(np.mean((logs - logs.mean()) ** 3))) <= 1e-9 * max(spread, 1e-300) ** 3
    if spread > 0 and skewed:  # the logarithm is symmetric: lognormal
        normal = scipy.stats.norm.ppf((np.arange(GRID) + 0.5) / GRID).std()
        return float(np.exp(power * logs.mean() + (power * spread / normal) ** 2 / 2))
    return float(np.mean(factors**power))
