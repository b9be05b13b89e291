"""Operators with known spectra, what a probe exactly sees of them, and Lanczos runs on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch

from spectra.linalg import Lanczos, SymmetricOperator, probe
from spectra.quadrature import Measure, Run

KINDS = ("outliers", "atom", "flat", "clusters", "indefinite", "repeated")


def eigenvalues(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n eigenvalues, ascending, of one of the shapes Hessians are known to have."""
    if kind == "outliers":
        bulk = 0.05 * rng.standard_normal(n - n // 50)
        lam = np.concatenate([bulk, rng.uniform(1, 20, n // 50)])
    elif kind == "atom":
        zeros = np.zeros(int(0.4 * n))
        lam = np.concatenate([zeros, rng.standard_normal(n - zeros.size)])
    elif kind == "flat":
        lam = 10.0 ** rng.uniform(-6, 0, n) * np.where(rng.random(n) < 0.3, -1, 1)
    elif kind == "clusters":
        lam = np.where(rng.random(n) < 0.6, -1, 2) + 1e-3 * rng.standard_normal(n)
    elif kind == "indefinite":
        lam = scipy.stats.semicircular.ppf(rng.random(n)) - 0.3
    elif kind == "repeated":
        lam = rng.integers(-3, 8, n).astype(float) * 0.37
    else:
        raise AssertionError(kind)
    return np.sort(lam)


def diagonal(lam: np.ndarray) -> SymmetricOperator:
    """Return the operator diag(lam), float64."""
    values = torch.from_numpy(np.ascontiguousarray(lam))
    return SymmetricOperator.from_matvec(lambda v: values * v, lam.size, dtype=torch.float64)


@dataclass(frozen=True)
class Seen:
    """Ψ_v of one probe: eigenvalues ascending and the masses (v·u)² the probe gives them."""

    lam: np.ndarray
    masses: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        """Return Ψ_v(x)."""
        return self._sums[np.searchsorted(self.lam, x, side="right")]

    def before(self, x: np.ndarray) -> np.ndarray:
        """Return Ψ_v(x−)."""
        return self._sums[np.searchsorted(self.lam, x, side="left")]

    @property
    def _sums(self) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(self.masses)])


def run_lanczos(lam: np.ndarray, steps: int, seed: int, index: int = 0) -> tuple[Run, Seen]:
    """Run Lanczos on diag(lam) from one spherical probe."""
    v = probe(lam.size, seed=seed, probe=index, dtype=torch.float64)
    lanczos = Lanczos(diagonal(lam), v).extend(steps)
    m = int(lanczos.steps[0])
    return Run(lanczos.alphas[0, :m], lanczos.betas[0, :m]), Seen(lam, v.numpy() ** 2)


def measure_of(lam: np.ndarray, steps: int, seed: int, probes: int = 1, **facts: float) -> Measure:
    """Return the measure of `probes` probes on the one operator diag(lam)."""
    runs = tuple(run_lanczos(lam, steps, seed, p)[0] for p in range(probes))
    return Measure((runs,), dim=lam.size, dim_unmasked=lam.size, **facts)


def share(lam: np.ndarray, a: float, b: float) -> float:
    """Return the share of eigenvalues in [a, b]."""
    return float(np.mean((lam >= a) & (lam <= b)))
