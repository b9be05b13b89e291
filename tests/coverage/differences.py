"""Differences of two records: of equal spectra, and of spectra that differ.

Two equal spectra with probes of their own must not be called different more often than stated, in
any quantity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from spectra.quadrature import Difference, differences
from tests.coverage.cells import Cell, Tally
from tests.coverage.families import spectrum
from tests.coverage.instances import measures
from tests.quadrature.pairs import truth, turned

TAUS = (0.01, 0.1, 1.0)
CHEAP = (
    "rms_eigenvalue", "lambda_max", "lambda_min", "spectral_norm", "trace", "negative_mass",
    "near_zero_0.01", "near_zero_0.1", "near_zero_1",
)  # fmt: skip
EQUAL = (
    "rank 1", "rank 3", "rank 3, equal", "n = 10", "n = 10, rank 1", "n = 3, rank 1", "gaussian",
    "outliers", "atom", "1/k", "1/k²", "Cauchy", "one outlier 1e8", "identity less one",
)  # fmt: skip
PAIRS = {
    **{f"equal: {name}": (name, name) for name in EQUAL},
    "gaussian to one outlier 30": ("gaussian", "one outlier 30"),
    "gaussian to exponential": ("gaussian", "exponential"),
    "1/k to 1/k²": ("1/k", "1/k²"),
    "rank 1 to rank 3": ("rank 1", "rank 3"),
    "outliers to atom": ("outliers", "atom"),
}


def difference_cells(
    instances: int,
    pairs: Iterable[str] = tuple(PAIRS),
    setting: str = "float64, 50 steps",
    names: Iterable[str] | None = None,
    seed: int = 0,
) -> Iterator[Cell]:
    """Yield the cells of the differences that `spectra compare` prints."""
    for pair in pairs:
        first, second = PAIRS[pair]
        one = measures(first, setting, instances, seed)
        two = measures(second, setting, instances, seed + 1)
        tallies: dict[str, Tally] = {}
        for a, b in zip(one, two, strict=True):
            for row in differences(a, b, taus=TAUS, names=None if names is None else tuple(names)):
                key = row.name
                if key not in tallies:
                    tallies[key] = Tally("difference", key, pair, setting)
                exact = _exact(first, second, row)
                tallies[key].add(row.lower, row.upper, exact, row.resolved)
        for tally in tallies.values():
            yield tally.cell()


_KNOWN: dict[tuple, float] = {}


def _exact(first: str, second: str, row: Difference) -> float:
    key = first, second, row.name, row.tau
    if key not in _KNOWN:
        rng = np.random.default_rng(0)
        a, b = (turned(spectrum(name), rng) for name in (first, second))
        if np.isnan(row.lower):
            return np.nan
        _KNOWN[key] = float(truth([a], [b], row.name, row.tau))
    return _KNOWN[key]
