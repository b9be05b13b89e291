"""Traces from products alone: Hutchinson, Hutch++ and XTrace, each with an interval.

*Hutchinson*: tr A = E ωᵀAω for random ω with E ωωᵀ = I, here √n times a unit probe. The error of
the mean of s of them falls like ‖A‖_F/√s; the interval is that of spectra.linalg.trace_error, which
holds where few eigenvalues carry ‖A‖_F as well.

*Hutch++* (Meyer, Musco, Musco & Woodruff, arXiv 2010.09649): a third of the products sketch the
range, Q = orth(AΩ); tr A = tr QᵀAQ + tr (I − QQᵀ)A(I − QQᵀ), the first part exact, the second by
Hutchinson with fresh probes, and with its interval given Q.

Rademacher probes have no variance on a diagonal matrix, but may miss an eigenvector on two
coordinates, which every second of them sees: with fewer than `ENOUGH` test probes spherical ones
are taken unless Rademacher ones are asked for, and then no interval is given.

*XTrace* (Epperly, Tropp & Webber, arXiv 2301.07825) spends half of the products on a sketch AΩ,
Ω = [ω_1…ω_k], half on AQ, and uses every vector for both purposes. With Q_i an orthonormal basis of
AΩ without its column i,

    t_i = tr Q_iᵀAQ_i + ωᵢᵀ(I − Q_iQ_iᵀ) A (I − Q_iQ_iᵀ) ωᵢ,     tr A ≈ t̄ = Σ t_i / k,

the residual part rescaled by (n − k + 1)/‖(I − Q_iQ_iᵀ)ωᵢ‖² (normalization; each residual direction
is uniform in its (n − k + 1)-dimensional space). The k bases cost one QR: with AΩ = QR, column i of
R⁻ᵀ, normalized, is s_i with Q_iQ_iᵀ = Q(I − s_is_iᵀ)Qᵀ, so that everything follows from QᵀAQ, QᵀΩ
and (AQ)ᵀΩ. The authors' error estimate is √(Σ(t_i − t̄)²/(k(k − 1))), and is `stderr`. The t_i share
their probes and are positively correlated, so that it is too small: t at k − 1 degrees times it
held 77 to 95 % of 300 traces a spectrum (fewest where k is just below the number of large
eigenvalues), and would have held 95 % of each had it been up to 1.95, 1.83, 1.43 times as large for
k = 6, 12, 48. The interval takes 1.6 + 4/k times it.

*Rounding.* A product wrong by δ makes a trace wrong by nδ at most. Where the operator does not know
δ it is taken as `ROUNDING` units of its dtype times the largest norm of a product with a unit
vector. No interval is narrower than that, that of all n unit vectors included.

Products run on the operator's device and in its dtype; sketches and their QR are float64 there
(float32 on devices without it), three matrices of k × n for XTrace and two for Hutch++. All
matrices of size k × k are float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import scipy.linalg
import scipy.stats
import torch
from numpy.typing import NDArray

from spectra.errors import NumericalError, UsageError
from spectra.linalg.operator import SymmetricOperator
from spectra.linalg.probes import ProbeKind, probe
from spectra.linalg.trace_error import FormError
from spectra.quadrature import Estimate

Method = Literal["hutch++", "hutchinson", "xtrace"]
MINIMUM = {"hutchinson": 2, "hutch++": 6, "xtrace": 4}
CONFIDENCE = 0.95
CORRELATED = 1.6, 4.0  # a + b/k times XTrace's own error estimate
ENOUGH = 6  # Rademacher probes below which no interval is known
ROUNDING = 8.0  # units of the operator's dtype, where its product error is not known
ROW_BLOCK = 8  # products at once where the operator takes a matrix
NOT_FINITE = (
    "a product of the operator is not finite, so that its trace is not a number; try "
    "dtype=float64, or check the weights."
)
SKETCH, TEST = 0, 1  # `batch` index of the probes, so that the two sets are independent


def trace(
    operator: SymmetricOperator,
    *,
    method: Method = "hutch++",
    num_matvecs: int = 96,
    seed: int = 0,
    kind: ProbeKind | None = None,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Return an estimate of tr(A); divide by `operator.dim` for the mean eigenvalue.

    Args:
        operator: The operator A.
        method: "hutchinson" (spectra that decay slowly), "hutch++" or "xtrace" (fast decay).
        num_matvecs: Products to spend. As many as the dimension give the trace itself: the n
            unit vectors are used instead.
        seed: Of the probes.
        kind: "rademacher" or "sphere"; by default Rademacher, spherical for few products, and for
            XTrace, whose normalization needs them.
        confidence: Of the interval.

    Returns:
        The estimate; `stderr` is of the random part, the interval has the product error as well.
        See the module for each method's interval.

    Raises:
        UsageError: If the method is unknown or has too few products.
        NumericalError: If a product is not finite.
    """
    _check(method, num_matvecs, kind, confidence)
    products = _Products(operator)
    if num_matvecs >= operator.dim:
        value, stderr, ends, note = _exact(products), 0.0, (0.0, 0.0), "exact: all n products"
    else:
        note = f"{method}, {num_matvecs} products"
        tests = num_matvecs - 2 * (num_matvecs // 3) if method == "hutch++" else num_matvecs
        kind = kind or ("rademacher" if tests >= ENOUGH else "sphere")
        if method == "xtrace":
            value, stderr, ends = _xtrace(products, num_matvecs // 2, seed, confidence)
        else:
            sketch = num_matvecs // 3 if method == "hutch++" else 0
            value, stderr, ends = _hutchinson(products, sketch, tests, kind, seed, confidence)
        if method != "xtrace" and kind == "rademacher" and tests < ENOUGH:
            ends = math.inf, math.inf
            note += f"; no interval: fewer than {ENOUGH} Rademacher probes may miss an eigenvalue"
    if not math.isfinite(value):
        raise NumericalError(NOT_FINITE)
    rounding = products.rounding()
    lower, upper = value - ends[0] - rounding, value + ends[1] + rounding
    return Estimate(value, stderr, lower, upper, "batches", confidence, note=note)


def _check(method: str, products: int, kind: str | None, confidence: float) -> None:
    if method not in get_args(Method):
        raise UsageError(
            f"method={method!r} is not known; pass 'hutch++', 'hutchinson' or 'xtrace'."
        )
    if products < MINIMUM[method]:
        raise UsageError(
            f"num_matvecs={products} is too few for {method!r} to know its error; pass at least "
            f"{MINIMUM[method]}."
        )
    if method == "xtrace" and kind not in (None, "sphere"):
        raise UsageError(f"kind={kind!r} does not suit 'xtrace'; leave it out, or pass 'sphere'.")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence={confidence} is not a probability; pass e.g. 0.95.")


class _Products:
    """The products of an operator, and how wrong they are."""

    def __init__(self, operator: SymmetricOperator) -> None:
        self.operator, self.size = operator, 0.0

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return A applied to the rows, (k, n), in their dtype; products see unit vectors."""
        out = torch.empty_like(rows)
        tiny = torch.finfo(rows.dtype).tiny
        for start in range(0, rows.shape[0], ROW_BLOCK):
            block = rows[start : start + ROW_BLOCK]
            norms = block.norm(dim=1, keepdim=True).clamp_min(tiny)
            product = self.operator.matvecs((block / norms).to(self.operator.dtype))
            product = product.to(rows.dtype)
            largest = float(product.abs().max())
            if not math.isfinite(largest):
                raise NumericalError(NOT_FINITE)
            if largest > 0:  # scaled, so that no square overflows
                self.size = max(self.size, largest * float((product / largest).norm(dim=1).max()))
            out[start : start + ROW_BLOCK] = product * norms
        return out

    def rounding(self) -> float:
        """Return how wrong a trace may be for the error of its products, and never 0."""
        kind = torch.finfo(self.operator.dtype)
        known = self.operator.product_error
        assumed = ROUNDING * max(kind.eps * self.size, kind.tiny)
        floor = ROUNDING * float(np.finfo(float).eps) * self.size
        return self.operator.dim * (assumed if known is None else max(known, floor))


def _exact(products: _Products) -> float:
    """Return Σ e_iᵀAe_i, all n of them."""
    operator, total = products.operator, 0.0
    for start in range(0, operator.dim, ROW_BLOCK):
        count = min(ROW_BLOCK, operator.dim - start)
        E = torch.zeros(count, operator.dim, dtype=operator.dtype, device=operator.device)
        places = torch.arange(count, device=operator.device)
        E[places, start + places] = 1
        total += float(products(E)[places, start + places].double().sum())
    return total


def _probes(
    operator: SymmetricOperator, count: int, kind: ProbeKind, seed: int, batch: int
) -> Iterator[torch.Tensor]:
    """Yield blocks (≤ ROW_BLOCK, n) of probes of length √n, in the QR's dtype."""
    wide = _wide(operator.device)
    for start in range(0, count, ROW_BLOCK):
        rows = [
            probe(operator.dim, seed=seed, batch=batch, probe=i, kind=kind, dtype=torch.float64)
            for i in range(start, min(start + ROW_BLOCK, count))
        ]
        yield torch.stack(rows).mul_(math.sqrt(operator.dim)).to(operator.device, wide)


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _mean(samples: NDArray[np.float64]) -> tuple[float, float, int]:
    """Return mean, standard error and degrees of freedom of independent samples."""
    stderr = float(samples.std(ddof=1)) / math.sqrt(samples.size)
    return float(samples.mean()), stderr, samples.size - 1


def _hutchinson(
    products: _Products, sketch: int, tests: int, kind: ProbeKind, seed: int, confidence: float
) -> tuple[float, float, tuple[float, float]]:
    """Return the value, its standard error and how far it is off, after a sketch or without."""
    operator = products.operator
    rows: torch.Tensor | None = None
    inside = 0.0
    if sketch:
        blocks = _probes(operator, sketch, kind, seed, SKETCH)
        rows = _orthonormal(torch.cat([products(omega) for omega in blocks]))[0]
        inside = float((rows * products(rows)).sum().double())
    error = FormError(operator.dim, spherical=kind == "sphere")
    for omega in _probes(operator, tests, kind, seed, TEST):
        error.add(omega, _outside(products(_outside(omega, rows)), rows))
    value, stderr, _ = _mean(np.array(error.forms))
    return inside + value, stderr, error.ends(confidence)


def _outside(rows: torch.Tensor, basis: torch.Tensor | None) -> torch.Tensor:
    """Return the rows without their components along those of an orthonormal basis."""
    if basis is None:
        return rows
    for _ in range(2):
        rows = rows - (rows @ basis.T) @ basis
    return rows


def _orthonormal(sketch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an orthonormal basis of the sketch's rows, as rows (k, n), and R (k, k) of its QR."""
    if not bool(torch.isfinite(sketch).all()):
        raise NumericalError(NOT_FINITE)
    Q, R = torch.linalg.qr(sketch.T)
    return Q.T.contiguous(), R


def _xtrace(
    products: _Products, k: int, seed: int, confidence: float
) -> tuple[float, float, tuple[float, float]]:
    operator = products.operator
    n = operator.dim
    omega = torch.cat(list(_probes(operator, k, "sphere", seed, SKETCH)))
    rows, R = _orthonormal(products(omega))
    AQ = products(rows)
    W = _small(rows @ omega.T)  # QᵀΩ
    T = _small(AQ @ omega.T)  # (AQ)ᵀΩ
    H = _small(rows @ AQ.T)  # QᵀAQ
    S = _leave_one_out(_small(R))
    # Residual of ω_i against Q_i, through x_i = (I − s_is_iᵀ)Qᵀω_i: r_i = ω_i − Qx_i.
    X = W - S * np.sum(S * W, axis=0)
    inside = np.trace(H) - np.sum(S * (H @ S), axis=0)
    # ω_iᵀAω_i = ω_iᵀQQᵀAω_i = W_iᵀT_i, because AΩ lies in the span of Q.
    residual = np.sum(W * T, axis=0) - 2 * np.sum(X * T, axis=0) + np.sum(X * (H @ X), axis=0)
    lengths = n - np.sum(X * X, axis=0)  # ‖ω_i‖² = n
    factors = (n - k + 1) / np.maximum(lengths, np.finfo(float).tiny)
    value, stderr, degrees = _mean(inside + factors * residual)
    factor = CORRELATED[0] + CORRELATED[1] / k
    half = factor * float(scipy.stats.t.ppf(0.5 + confidence / 2, degrees)) * stderr
    return value, stderr, (half, half)


def _leave_one_out(R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the normalized columns of R⁻ᵀ, (k, k).

    A sketch without full rank (low-rank operator) has no unique Q_i; the columns are then those of
    R with its diagonal raised to rounding level, which changes AΩ by no more than rounding has.
    """
    scale = float(np.abs(np.diag(R)).max())
    if scale == 0.0:
        return np.eye(R.shape[0])
    floor = float(np.finfo(float).eps) * R.shape[0] * scale
    diagonal = np.diag(R)
    raised = np.where(np.abs(diagonal) < floor, np.where(diagonal < 0, -floor, floor), diagonal)
    S = scipy.linalg.solve_triangular(R - np.diag(diagonal - raised), np.eye(R.shape[0]), trans="T")
    result: NDArray[np.float64] = S / np.linalg.norm(S, axis=0)
    return result


def _small(matrix: torch.Tensor) -> NDArray[np.float64]:
    return matrix.double().cpu().numpy()
