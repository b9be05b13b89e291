"""Runs out of the padded arrays of a record."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spectra.quadrature.eigenvalues import Eigenvalues
from spectra.quadrature.gauss import Floats
from spectra.quadrature.measure import LONG, Run


def as_runs(
    alphas: Floats,
    betas: Floats,
    steps: NDArray[np.int64],
    points: tuple[Floats, Floats] | None = None,
    *,
    exact: bool = False,
) -> tuple[tuple[Run, ...], ...]:
    """Return the finished probes of padded arrays (B, P, M) and counts (B, P), by operator.

    `points` are nodes and weights, (B, P, M) each, kept with them. With `exact` the alphas are the
    eigenvalues themselves.
    """

    def run(b: int, p: int, m: int) -> Run:
        if exact:
            return Eigenvalues(alphas[b, p, :m].copy(), betas[b, p, :m].copy())
        kept = None
        if points and m > LONG and not points[1][b, p, m:].any():  # else they are of more steps
            kept = points[0][b, p, :m].copy(), points[1][b, p, :m].copy()
        return Run(alphas[b, p, :m].copy(), betas[b, p, :m].copy(), kept)

    rows = []
    for b in range(steps.shape[0]):
        row = tuple(run(b, p, m) for p, m in enumerate(steps[b].tolist()) if m > 0)
        if row:
            rows.append(row)
    return tuple(rows)
