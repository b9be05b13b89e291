"""Ways to keep a long Lanczos run orthogonal: bytes, time, and what each costs in resolution.

Operators of n dimensions with 50 outliers 20 to 400 times the scale of the bulk, which is Gaussian
or piled up at zero; one probe, float32. Everything is told against full reorthogonalization in
float32: Wasserstein-1 of the two node distributions over the range, outliers counted, and the width
of the band of the mass within the median |λ|.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import scipy.stats
import torch
from numpy.typing import NDArray

from spectra.linalg import BasisPolicy, Lanczos, SymmetricOperator, probe
from spectra.quadrature import sharp_bounds

OUTLIERS, LARGEST, SMALLEST = 50, 400.0, 20.0
KINDS = ("Gaussian bulk", "bulk piled at zero")
Make = Callable[[SymmetricOperator, torch.Tensor, int], Lanczos]


def _whole(policy: BasisPolicy, passes: int = 2) -> Make:
    return lambda op, v, m: Lanczos(op, v, basis=policy, passes=passes).extend(m)


def _condensed(kept: int) -> Make:
    def run(op: SymmetricOperator, v: torch.Tensor, m: int) -> Lanczos:
        lanczos = Lanczos(op, v)
        lanczos.reserve(min(kept, m))
        lanczos.extend(min(kept, m))
        lanczos.condense()
        return lanczos.extend(m - kept)

    return run


POLICIES: dict[str, Make] = {
    "full, float32": _whole(BasisPolicy()),
    "full, bfloat16": _whole(BasisPolicy("device", torch.bfloat16)),
    "full, float16": _whole(BasisPolicy("device", torch.float16)),
    "200 vectors, then converged": _condensed(200),
    "100 vectors, then converged": _condensed(100),
    "none": _whole(BasisPolicy("none")),
}


def eigenvalues(kind: str, n: int) -> NDArray[np.float64]:
    """Return the eigenvalues of an operator of `KINDS`."""
    rng = np.random.default_rng(0)
    positive = OUTLIERS * 3 // 4
    top = np.geomspace(SMALLEST, LARGEST, positive)
    bottom = -np.geomspace(SMALLEST, LARGEST / 2, OUTLIERS - positive)
    bulk = rng.standard_normal(n - OUTLIERS)
    if kind == KINDS[1]:
        bulk *= np.exp(rng.normal(-4, 2, n - OUTLIERS))
    return np.concatenate([top, bottom, bulk])


def operator(lam: NDArray[np.float64]) -> SymmetricOperator:
    """Return an operator with these eigenvalues, its eigenvectors off the axes (a reflection)."""
    values = torch.from_numpy(lam).float()
    u = probe(lam.size, seed=99)

    def product(v: torch.Tensor) -> torch.Tensor:
        turned = values * (v - 2 * (u @ v) * u)
        return turned - 2 * (u @ turned) * u

    return SymmetricOperator.from_matvec(product, lam.size)


def measure(n: int, steps: int, chosen: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return a row for each kind and policy: all of them, or the first and those `chosen`."""
    rows = []
    for kind in KINDS:
        lam = eigenvalues(kind, n)
        op, start = operator(lam), probe(n, seed=0)
        tau, span = float(np.median(np.abs(lam))), float(lam.max() - lam.min())
        reference = None
        for name, make in POLICIES.items():
            if chosen and reference is not None and name not in chosen:
                continue
            started = time.perf_counter()
            run = make(op, start, steps)
            seconds = time.perf_counter() - started
            nodes = _nodes(run)
            reference = reference or nodes
            stored = run._bases[0].rows()
            rows.append(
                {
                    "operator": kind,
                    "dimension": n,
                    "steps": steps,
                    "policy": name,
                    "basis_bytes": _capacity(run) * n * stored.element_size(),
                    "seconds": seconds,
                    "orthogonality_loss": run.orthogonality_loss(),
                    "w1_over_range": _distance(reference, nodes) / span,
                    "outliers": int((np.abs(nodes[0]) > SMALLEST * 0.9).sum()),
                    "band": _band(run, tau),
                }
            )
    return rows


def _capacity(run: Lanczos) -> int:
    return int(run._bases[0]._rows.shape[0])


def _nodes(run: Lanczos) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    inner = run.betas[0, :-1]
    T = np.diag(run.alphas[0]) + np.diag(inner, 1) + np.diag(inner, -1)
    theta, vectors = np.linalg.eigh(T)
    return theta, vectors[0] ** 2


def _distance(a: tuple[Any, Any], b: tuple[Any, Any]) -> float:
    return float(scipy.stats.wasserstein_distance(a[0], b[0], a[1], b[1]))


def _band(run: Lanczos, tau: float) -> float:
    low, high = sharp_bounds(run.alphas[0], run.betas[0], np.array([-tau, tau]))
    return float(min(high[1] - low[0], 1.0) - max(low[1] - high[0], 0.0))
