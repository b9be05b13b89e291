"""Families of spectra: shapes that Hessians have, and shapes that broke intervals before.

Every family is one fixed set of eigenvalues, ascending; the instances of a family differ in their
probes. Eigenvalues are of order 1, so that absolute thresholds mean something, but for an outlier.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import scipy.stats

from tests.quadrature.prescribed import KINDS
from tests.quadrature.prescribed import eigenvalues as prescribed

N = 600


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([18, seed])


def _with_zeros(*values: float) -> np.ndarray:
    return np.concatenate([values, np.zeros(N - len(values))])


def _outlier(*values: float, seed: int = 0) -> np.ndarray:
    return np.concatenate([values, _rng(seed).standard_normal(N - len(values))])


FAMILIES: dict[str, Callable[[], np.ndarray]] = {
    **{kind: (lambda kind=kind: prescribed(kind, N, _rng(KINDS.index(kind)))) for kind in KINDS},
    "gaussian": lambda: _rng(10).standard_normal(N),
    "gaussian, n = 2000": lambda: _rng(11).standard_normal(2000),
    "exponential": lambda: _rng(12).exponential(size=N),
    "log-uniform": lambda: 10.0 ** _rng(13).uniform(-6, 0, N),
    "rank 1": lambda: _with_zeros(1.0),
    "rank 3": lambda: _with_zeros(1.0, 2.0, 5.0),
    "rank 3, equal": lambda: _with_zeros(1.0, 1.0, 1.0),
    "identity less one": lambda: 1 - _with_zeros(1.0),
    "atom at 1": lambda: np.concatenate([np.ones(N - 60), np.zeros(60)]),
    "one outlier 1e8": lambda: _outlier(1e8),
    "one outlier 30": lambda: _outlier(30.0),
    "outliers ±100": lambda: _outlier(100.0, -100.0),
    "outliers ±100 to ±70": lambda: _outlier(100.0, -90.0, 80.0, -70.0),
    "1/k": lambda: 1 / np.arange(1.0, N + 1),
    "1/k²": lambda: np.arange(1.0, N + 1) ** -2,
    "1/√k": lambda: np.arange(1.0, N + 1) ** -0.5,
    "±1/k": lambda: (-1.0) ** np.arange(N) / np.arange(1.0, N + 1),
    "2⁻ᵏ": lambda: 0.5 ** np.arange(N),
    "Cauchy": lambda: _rng(14).standard_cauchy(N),
    "Student, 2 degrees": lambda: scipy.stats.t.rvs(2, size=N, random_state=_rng(15)),
    "n = 2": lambda: np.array([-0.4, 1.3]),
    "n = 3": lambda: _rng(16).standard_normal(3),
    "n = 5": lambda: _rng(17).standard_normal(5),
    "n = 10": lambda: _rng(18).standard_normal(10),
    "n = 2, rank 1": lambda: np.array([0.0, 1.0]),
    "n = 3, rank 1": lambda: np.array([0.0, 0.0, 1.0]),
    "n = 10, rank 1": lambda: np.append(np.zeros(9), 1.0),
    "n = 10, two values": lambda: np.repeat([1.0, 2.0], 5),
}


@cache
def spectrum(name: str) -> np.ndarray:
    """Return the eigenvalues of a family, (n,), ascending."""
    return np.sort(FAMILIES[name]())
