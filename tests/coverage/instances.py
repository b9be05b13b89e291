"""Instances: Lanczos runs on operators with known spectra, many at once.

The spectral measure that a spherical probe sees does not depend on eigenvectors, so a diagonal
operator serves. In exact working (float64, basis kept) all instances of a family are one batched
recurrence in NumPy, which agrees with `spectra.linalg.Lanczos` (a test says so); every other
setting is run by `spectra.slq` itself, with the product error that it knows.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

import spectra
from spectra.linalg import SymmetricOperator
from spectra.quadrature import Measure, Run
from tests.coverage.families import spectrum

TOGETHER = 50  # instances of one batched recurrence: Q is (TOGETHER, steps, n)
BREAKDOWN = 4 * float(np.finfo(float).eps)


@dataclass(frozen=True)
class Setting:
    """How instances are run.

    Attributes:
        name: For the table.
        steps: Lanczos steps; fewer where the dimension is smaller.
        probes: On each operator.
        dtype: Of products and vectors.
        basis: "exact" for the batched recurrence; else a policy of `spectra.slq`.
        options: Further arguments of `spectra.slq`.
    """

    name: str
    steps: int = 50
    probes: int = 1
    dtype: str = "float64"
    basis: str = "exact"
    options: tuple[tuple[str, str], ...] = ()


SETTINGS = {
    one.name: one
    for one in (
        Setting("float64, 50 steps"),
        Setting("float64, 10 steps", steps=10),
        Setting("float64, 50 steps, 4 probes", probes=4),
        Setting("float64, no basis, 150 steps", steps=150, basis="none"),
        Setting("float32, basis, 50 steps", dtype="float32", basis="device"),
        Setting("float32, no basis, 150 steps", steps=150, dtype="float32", basis="none"),
    )
}
USUAL = "float64, 50 steps"


@cache
def measures(family: str, setting: str, instances: int, seed: int = 0) -> list[Measure]:
    """Return `instances` measures of one family; each has its own probes."""
    lam, how = spectrum(family), SETTINGS[setting]
    runs, error = probe_runs(lam, how, instances * how.probes, seed)
    rows = [tuple(runs[i : i + how.probes]) for i in range(0, len(runs), how.probes)]
    return [Measure((row,), lam.size, lam.size, product_error=error) for row in rows]


def probe_runs(lam: np.ndarray, how: Setting, count: int, seed: int) -> tuple[list[Run], float]:
    """Return runs of `count` probes on an operator with eigenvalues `lam`, and δ."""
    if how.basis == "exact":
        return batched_lanczos(lam, how.steps, count, seed), 0.0
    values = torch.from_numpy(lam).to(getattr(torch, how.dtype))
    operator = SymmetricOperator.from_matvec(lambda v: values * v, lam.size, dtype=values.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = spectra.slq(
            operator,
            num_probes=count,
            lanczos_steps=min(how.steps, lam.size),
            seed=seed,
            basis=how.basis,
            progress=False,
            **dict(how.options),
        )
    measure = found.measure
    return list(measure.runs[0]), measure.product_error


def batched_lanczos(lam: np.ndarray, steps: int, count: int, seed: int) -> list[Run]:
    """Return runs of `count` spherical probes on diag(lam), reorthogonalized twice a step."""
    n = lam.size
    rng = np.random.default_rng([seed, n])
    runs: list[Run] = []
    while len(runs) < count:
        size = min(TOGETHER, count - len(runs))
        start = rng.standard_normal((size, n))
        runs += _block(lam, start / np.linalg.norm(start, axis=1, keepdims=True), steps)
    return runs


def _block(lam: np.ndarray, q: np.ndarray, steps: int) -> list[Run]:
    size, n = q.shape
    m = min(steps, n)
    Q = np.zeros((size, m, n))
    alphas, betas = np.zeros((size, m)), np.zeros((size, m))
    length, running = np.zeros(size, dtype=int), np.ones(size, dtype=bool)
    previous, before = np.zeros_like(q), np.zeros(size)
    for j in range(m):
        Q[:, j] = q
        w = lam * q - before[:, None] * previous
        alphas[:, j] = np.einsum("tn,tn->t", q, w)
        w -= alphas[:, j, None] * q
        for _ in range(2):
            w -= np.einsum("tj,tjn->tn", np.einsum("tjn,tn->tj", Q[:, : j + 1], w), Q[:, : j + 1])
        betas[:, j] = np.linalg.norm(w, axis=1)
        length[running] += 1
        scale = np.maximum(np.abs(alphas[:, : j + 1]).max(1), betas[:, : j + 1].max(1))
        running &= betas[:, j] > BREAKDOWN * scale
        previous, before = q, betas[:, j]
        q = np.where(running[:, None], w / np.maximum(before, 1e-300)[:, None], 0.0)
    return [Run(alphas[t, :k], betas[t, :k]) for t, k in enumerate(length.tolist())]


def scaled(run: Run, factor: float) -> Run:
    """Return the run on the operator times `factor` > 0, from the same probe."""
    return Run(factor * run.alphas, factor * run.betas)


def side_by_side(rows: Sequence[Measure]) -> Measure:
    """Return the measure of several operators, one batch each."""
    runs = tuple(row.runs[0] for row in rows)
    error = max(row.product_error for row in rows)
    return dataclasses.replace(rows[0], runs=runs, product_error=error, _cache={})
