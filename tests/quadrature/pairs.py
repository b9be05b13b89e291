"""Pairs of operators with known spectra, batch by batch, and the exact value of every difference.

B is A with its eigenvalues moved and its eigenvectors turned, as training does; what the two have
in common in a batch is there for pairing to cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch

from spectra.linalg import Lanczos, SymmetricOperator, probe
from spectra.quadrature import Measure, Run
from spectra.quadrature.windows import window
from tests.quadrature.prescribed import KINDS, eigenvalues

STRENGTHS = (0.0, 0.1, 0.5, -0.6)


@dataclass(frozen=True)
class Turned:
    """R diag(lam) R with R = I − 2uuᵀ: known eigenvalues, eigenvectors off the axes."""

    lam: np.ndarray
    u: np.ndarray

    def operator(self) -> SymmetricOperator:
        lam, u = torch.from_numpy(self.lam), torch.from_numpy(self.u)

        def turn(v: torch.Tensor) -> torch.Tensor:
            return v - 2 * (u @ v) * u

        return SymmetricOperator.from_matvec(
            lambda v: turn(lam * turn(v)), self.lam.size, dtype=torch.float64
        )


def turned(lam: np.ndarray, rng: np.random.Generator) -> Turned:
    """Return an operator with these eigenvalues and eigenvectors that are all turned."""
    u = rng.standard_normal(lam.size)
    return Turned(lam, u / np.linalg.norm(u))


def moved(lam: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Return eigenvalues with the ends stretched, some pulled near zero, some turned over."""
    size, share = np.abs(lam).max(), abs(strength)
    grown = lam * (1 + strength * (np.abs(lam) / size - 0.3))
    pulled = np.where(rng.random(lam.size) < 0.5 * share, 0.05, 1.0)
    sign = np.where(rng.random(lam.size) < 0.4 * share, -1.0, 1.0)
    inner = np.abs(lam) < 0.7 * size
    return np.where(inner, grown * pulled * sign, grown)


def operators(seed: int, batches: int, n: int) -> tuple[list[Turned], list[Turned]]:
    """Return operators of A and of B, one a batch; the shape goes with the seed."""
    kind, a, b = KINDS[seed % len(KINDS)], [], []
    strength = STRENGTHS[seed // len(KINDS) % len(STRENGTHS)]
    for batch in range(batches):
        rng = np.random.default_rng([seed, batch])
        lam = eigenvalues(kind, n, rng) * rng.uniform(0.7, 1.3)
        a.append(turned(lam, rng))
        b.append(turned(moved(lam, rng, strength), rng))
    return a, b


def measured(
    found: list[Turned], seed: int, steps: int, probes: int = 1, masked: int = 0
) -> Measure:
    """Return what `probes` probes see of every operator; `masked` exact zeros are added."""
    rows, n = [], found[0].lam.size
    for batch, one in enumerate(found):
        starts = [
            probe(n, seed=seed, batch=batch, probe=p, dtype=torch.float64) for p in range(probes)
        ]
        run = Lanczos(one.operator(), torch.stack(starts)).extend(steps)
        rows.append(
            tuple(
                Run(run.alphas[p, :m], run.betas[p, :m]) for p, m in enumerate(run.steps.tolist())
            )
        )
    return Measure(tuple(rows), dim=n + masked, dim_unmasked=n)


def value(found: list[Turned], name: str, tau: float | None, masked: int = 0) -> float:
    """Return the exact value of a quantity for the mean over batches."""
    lam = [np.append(one.lam, np.zeros(masked)) for one in found]
    every, n = np.concatenate(lam), lam[0].size
    size = np.abs(every)
    if name.startswith("soft_unmasked"):
        return float(np.mean(window(np.concatenate([one.lam for one in found]), tau, 2)))
    if name.startswith("soft"):
        return float(np.mean(window(every, tau, 2)))
    if name.startswith("near_zero"):
        return float(np.mean(size <= tau))
    if name.startswith("abs_quantile"):
        return float(np.quantile(size, float(name.rsplit("_", 1)[1]), method="inverted_cdf"))
    return {
        "rms_eigenvalue": lambda: np.sqrt(np.mean(every**2)),
        "mean_magnitude": lambda: size.mean(),
        "trace": lambda: n * every.mean(),
        "lambda_max": lambda: np.mean([one.max() for one in lam]),
        "lambda_min": lambda: np.mean([one.min() for one in lam]),
        "spectral_norm": lambda: np.mean([np.abs(one).max() for one in lam]),
        "negative_mass": lambda: np.mean(every < 0),
        "effective_rank": lambda: n * size.mean() ** 2 / np.mean(every**2),
    }[name]().item()


def truth(
    a: list[Turned], b: list[Turned], name: str, tau: float | None, masked: tuple[int, int] = (0, 0)
) -> float:
    """Return the exact difference, or distance."""
    if name != "wasserstein":
        return value(b, name, tau, masked[1]) - value(a, name, tau, masked[0])
    distances = [
        scipy.stats.wasserstein_distance(
            np.append(x.lam, np.zeros(masked[0])), np.append(y.lam, np.zeros(masked[1]))
        )
        for x, y in zip(a, b, strict=True)
    ]
    return float(np.mean(distances))
