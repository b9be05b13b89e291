"""Every eigenvalue: the dense matrix by products, and its symmetric eigenvalues.

For n selected coordinates, n products with unit vectors give the matrix column by column. Masked
coordinates are exact zeros and are left out, as elsewhere; where zeros lie along directions and not
along coordinates (a projector), the whole matrix is made, and as many eigenvalues nearest to zero
are taken away. LAPACK gives the eigenvalues of the symmetric part.

*What is left as an error*, δ. By Weyl no eigenvalue moves by more than ‖E‖₂, E the error of the
matrix. The error of products is seen twice: against float64 on the first vector, and as the
asymmetry A − Aᵀ, which is zero for exact products. A matrix of independent errors of root mean
square e has ‖E‖₂ ≈ 2e√n and leaves ‖A − Aᵀ‖_F = √2·e·n; its symmetric part has half of the variance
off the diagonal. So δ = product error + ‖A − Aᵀ‖_F/√n + n·ε₆₄·‖A‖₂ for the eigensolver.

Memory: n² numbers of 8 bytes, twice while LAPACK reduces the matrix. It is the referee of all
bounds, for up to `LARGEST` coordinates.
"""

from __future__ import annotations

import logging
import math
import time

import numpy as np
import scipy.linalg
import torch

from spectra.errors import UsageError
from spectra.estimation.memory import available_bytes
from spectra.estimation.progress import ProductBar
from spectra.estimation.runner import Runner
from spectra.linalg import SymmetricOperator
from spectra.quadrature.gauss import Floats

log = logging.getLogger(__name__)

LARGEST = 20_000  # coordinates
COPIES = 2  # of the matrix, at the peak
SHARE = 0.7  # of the free memory: the rest of the machine lives too
NOTHING: Floats = np.zeros(0)


def check_size(room: int, limit: int | None) -> int:
    """Return the bytes that the dense matrix of `room` coordinates takes at the peak.

    Args:
        room: Coordinates that are not masked.
        limit: Memory the plan may use; None for what is free.

    Raises:
        UsageError: If there are more than `LARGEST`, or they do not fit the memory.
    """
    cure = "select fewer with --params (globs over names), or estimate --per layer"
    if room > LARGEST:
        raise UsageError(
            f"exact=True is for up to {LARGEST:,} selected parameters, and {room:,} are selected; "
            f"{cure}, or leave --exact out."
        )
    free = available_bytes(torch.device("cpu")) if limit is None else limit
    need = COPIES * 8 * room**2
    allowed = free if limit is not None else int(SHARE * free)
    if need > allowed:
        raise UsageError(
            f"the dense matrix of {room:,} parameters takes {need / 1e9:.1f} GB with its "
            f"eigenvalues, and {allowed / 1e9:.1f} GB may be used; {cure}."
        )
    return need


class ExactRunner(Runner):
    """Fills the places of probes with all eigenvalues of each operator."""

    def run(self) -> None:
        """Make every spectrum that is missing."""
        room = self.store.alphas.shape[2]
        need = check_size(room, self.settings.max_memory)
        log.info(
            "exact: %s products an operator, a dense matrix of %.2f GB, then its eigenvalues",
            f"{room:,}",
            need / COPIES / 1e9,
        )
        super().run()

    def _block(
        self, operator: SymmetricOperator, batch: int, probes: list[int], bar: ProductBar
    ) -> None:
        room = self.store.alphas.shape[2]
        matrix = _dense(operator, room, bar)
        self.cost["hvps"] += len(matrix)
        lower = matrix.T  # a view
        asymmetry = _difference(matrix)
        started = time.monotonic()
        matrix += lower.copy()
        matrix *= 0.5
        values = scipy.linalg.eigvalsh(matrix, overwrite_a=True, check_finite=False)
        log.info("eigenvalues of %s: %.0f s", f"{room:,}", time.monotonic() - started)
        values = _without_zeros(np.sort(values), room)
        size = float(np.abs(values).max(initial=0.0))
        n = max(len(matrix), 1)
        rounding = n * float(np.finfo(np.float64).eps) * size
        section = self.store.metadata["checks"]
        section["matrix_asymmetry"] = max(
            float(section.get("matrix_asymmetry") or 0.0), asymmetry / math.sqrt(n)
        )
        section["eigensolver_error"] = max(float(section.get("eigensolver_error") or 0.0), rounding)
        for index in probes:
            self.store.put(batch, index, values, np.zeros_like(values))


def _dense(operator: SymmetricOperator, room: int, bar: ProductBar) -> Floats:
    """Return the operator on the coordinates that are not masked, (n, n) float64."""
    keep = getattr(operator, "keep", None)
    whole = torch.arange(operator.dim)
    index = whole[keep.cpu()] if isinstance(keep, torch.Tensor) else whole
    if isinstance(keep, torch.Tensor) and len(index) != room:
        index = whole
    matrix = np.empty((len(index), len(index)))
    unit = torch.zeros(operator.dim, dtype=operator.dtype, device=operator.device)
    chosen = index.to(operator.device)
    for row, place in enumerate(index.tolist()):
        unit[place] = 1.0
        column = operator.matvec(unit)
        unit[place] = 0.0
        matrix[row] = column[chosen].double().cpu().numpy()
        bar.advance(1, NOTHING, NOTHING)
    return matrix


def _difference(matrix: Floats, rows: int = 512) -> float:
    """Return ‖A − Aᵀ‖_F, some rows at a time."""
    total = 0.0
    for first in range(0, len(matrix), rows):
        part = matrix[first : first + rows] - matrix[:, first : first + rows].T
        total += float(np.einsum("ij,ij->", part, part))
    return math.sqrt(total)


def _without_zeros(values: Floats, room: int) -> Floats:
    """Take away the eigenvalues nearest to zero beyond `room`: those of projected directions."""
    if values.size <= room:
        return values
    away = np.argsort(np.abs(values), kind="stable")[: values.size - room]
    return np.delete(values, away)
