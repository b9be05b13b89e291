"""Traces from products alone, on rotated dense matrices, and on those that single probes miss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import torch

from spectra.linalg import SymmetricOperator, trace
from tests.coverage.cells import Cell, Tally, collect
from tests.linalg.dense import rotated

N = 200


def _first(*values: float) -> np.ndarray:
    return np.concatenate([values, np.zeros(N - len(values))])


_RNG = np.random.default_rng(18)
SPECTRA: dict[str, np.ndarray] = {
    "gaussian": _RNG.standard_normal(N),
    "exponential": _RNG.exponential(size=N),
    "0.8ᵏ": 0.8 ** np.arange(N),
    "step of 20": np.where(np.arange(N) < 20, 1.0, 1e-3),
    "rank 1": _first(1.0),
    "rank 3": _first(1.0, 2.0, 5.0),
    "one outlier 1e8": np.append(_RNG.standard_normal(N - 1), 1e8),
    "one outlier 30": np.append(_RNG.standard_normal(N - 1), 30.0),
    "outliers": np.append(0.05 * _RNG.standard_normal(N - 12), _RNG.uniform(1, 20, 12)),
    "outliers ±100": np.append(_RNG.standard_normal(N - 2), [100.0, -100.0]),
    "1/k": 1 / np.arange(1.0, N + 1),
    "1/k²": np.arange(1.0, N + 1) ** -2,
    "1/√k": np.arange(1.0, N + 1) ** -0.5,
    "Cauchy": _RNG.standard_cauchy(N),
    "atom": np.append(np.zeros(80), _RNG.standard_normal(N - 80)),
    "identity": np.ones(N),
    "zero": np.zeros(N),
}
# Eigenvectors along coordinates, or on few of them: the hard cases of Rademacher probes.
SPARSE = ("diagonal", "a pair", "many pairs", "blocks of 4")


def matrix(name: str) -> torch.Tensor:
    """Return the matrix of a family, (n, n) float64."""
    if name in SPECTRA:
        return rotated(SPECTRA[name])
    A = torch.zeros(N, N, dtype=torch.float64)
    if name == "diagonal":
        return torch.diag(torch.from_numpy(SPECTRA["exponential"]))
    if name == "a pair":  # seen by every second Rademacher probe
        A[:2, :2] = 1.0
        return A
    size, blocks = (2, 20) if name == "many pairs" else (4, 8)
    for i in range(blocks):
        A[i * size : (i + 1) * size, i * size : (i + 1) * size] = 1.0 / (i + 1)
    return A


WAYS = (
    ("hutchinson", 8), ("hutchinson", 32), ("hutchinson", 96), ("hutch++", 24), ("hutch++", 96),
    ("xtrace", 24), ("xtrace", 96),
)  # fmt: skip


def trace_cells(
    instances: int,
    families: Iterable[str] = (*SPECTRA, *SPARSE),
    ways: Iterable[tuple[str, int]] = WAYS,
    kinds: Iterable[str | None] = (None, "sphere"),
    seed: int = 0,
) -> Iterator[Cell]:
    """Yield the cells of the three trace estimators."""
    for family in families:
        A = matrix(family)
        operator, exact = SymmetricOperator.from_matrix(A), float(A.trace())
        for method, products in ways:
            for kind in kinds:
                if method == "xtrace" and kind is not None:
                    continue
                setting = f"{products} products, {kind or 'default'} probes"
                tally = Tally("trace", method, family, setting)
                for i in range(instances):
                    estimate = partial(
                        trace, operator, method=method, num_matvecs=products, kind=kind,
                        seed=seed * instances + i,
                    )  # fmt: skip
                    collect(tally, estimate, exact)
                yield tally.cell()
