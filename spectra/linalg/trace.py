"""Traces from products alone: Hutchinson, Hutch++ and XTrace, each with an interval.

*Hutchinson*: tr A = E ωᵀAω for random ω with E ωωᵀ = I. With ω = √n times a unit probe (Rademacher
or spherical) the samples ωᵀAω are independent; the interval is Student's t with their variance.
The error falls like ‖A‖_F/√s with s products.

*Hutch++* (Meyer, Musco, Musco & Woodruff, arXiv 2010.09649): a third of the products sketch the
range, Q = orth(AΩ); tr A = tr QᵀAQ + tr (I − QQᵀ)A(I − QQᵀ), the first part exact, the second by
Hutchinson with fresh probes. Given Q those samples are independent: Student's t again.

*XTrace* (Epperly, Tropp & Webber, arXiv 2301.07825) spends half of the products on a sketch AΩ,
Ω = [ω_1…ω_k], half on AQ, and uses every vector for both purposes. With Q_i an orthonormal basis of
AΩ without its column i,

    t_i = tr Q_iᵀAQ_i + ωᵢᵀ(I − Q_iQ_iᵀ) A (I − Q_iQ_iᵀ) ωᵢ,     tr A ≈ t̄ = Σ t_i / k,

the residual part rescaled by (n − k + 1)/‖(I − Q_iQ_iᵀ)ωᵢ‖² (normalization; each residual direction
is uniform in its (n − k + 1)-dimensional space). The k bases cost one QR: with AΩ = QR, column i of
R⁻ᵀ, normalized, is s_i with Q_iQ_iᵀ = Q(I − s_is_iᵀ)Qᵀ, so that everything follows from QᵀAQ, QᵀΩ
and (AQ)ᵀΩ. The authors' error estimate is √(Σ(t_i − t̄)²/(k(k − 1))). The interval is
t̄ ± t times it, t at k − 1 degrees. The t_i share their probes and are positively correlated, so
that it is too short: of nominal 95 % intervals 77 to 95 % held the trace on test spectra, the
fewest where k is just below the number of large eigenvalues. The value is the best of the three.

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
from spectra.quadrature import Estimate

Method = Literal["hutch++", "hutchinson", "xtrace"]
MINIMUM = {"hutchinson": 2, "hutch++": 6, "xtrace": 4}
CONFIDENCE = 0.95
ROW_BLOCK = 8  # products at once where the operator takes a matrix
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
        kind: "rademacher" or "sphere"; by default Rademacher, spherical for XTrace, whose
            normalization needs them.
        confidence: Of the interval.

    Returns:
        The estimate; `stderr` and the interval are of the random part, plus n times the
        operator's product error where that is known. See the module for each method's interval.

    Raises:
        UsageError: If the method is unknown or has too few products.
        NumericalError: If a product is not finite.
    """
    _check(method, num_matvecs, kind, confidence)
    n = operator.dim
    if num_matvecs >= n:
        return _estimate(operator, _exact(operator), 0.0, 1, confidence, "exact: all n products")
    if method == "hutchinson":
        samples = _quadratic_forms(operator, num_matvecs, kind or "rademacher", seed, None)
        value, stderr, degrees = _mean(samples)
    elif method == "hutch++":
        value, stderr, degrees = _hutch_plus_plus(operator, num_matvecs, kind or "rademacher", seed)
    else:
        value, stderr, degrees = _xtrace(operator, num_matvecs // 2, seed)
    note = f"{method}, {num_matvecs} products"
    if method == "xtrace":
        note += "; its error estimate is often too small"
    return _estimate(operator, value, stderr, degrees, confidence, note)


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


def _estimate(
    operator: SymmetricOperator,
    value: float,
    stderr: float,
    degrees: int,
    confidence: float,
    note: str,
) -> Estimate:
    if not math.isfinite(value):
        raise NumericalError(
            "a product of the operator is not finite, so that its trace is not a number; try "
            "dtype=float64, or check the weights."
        )
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2, degrees)) * stderr
    half += operator.dim * (operator.product_error or 0.0)
    return Estimate(value, stderr, value - half, value + half, "batches", confidence, note=note)


def _exact(operator: SymmetricOperator) -> float:
    """Return Σ e_iᵀAe_i, all n of them."""
    total = 0.0
    for start in range(0, operator.dim, ROW_BLOCK):
        count = min(ROW_BLOCK, operator.dim - start)
        E = torch.zeros(count, operator.dim, dtype=operator.dtype, device=operator.device)
        places = torch.arange(count, device=operator.device)
        E[places, start + places] = 1
        total += float(operator.matvecs(E)[places, start + places].double().sum())
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


def _products(operator: SymmetricOperator, rows: torch.Tensor) -> torch.Tensor:
    """Return A applied to the rows, (k, n), in their dtype; products see unit vectors."""
    out = torch.empty_like(rows)
    for start in range(0, rows.shape[0], ROW_BLOCK):
        block = rows[start : start + ROW_BLOCK]
        norms = block.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        product = operator.matvecs((block / norms).to(operator.dtype))
        out[start : start + ROW_BLOCK] = product.to(rows.dtype) * norms
    return out


def _quadratic_forms(
    operator: SymmetricOperator,
    count: int,
    kind: ProbeKind,
    seed: int,
    deflate: torch.Tensor | None,
) -> NDArray[np.float64]:
    """Return ωᵀAω for `count` test probes, their components along the rows of `deflate` removed."""
    samples = []
    for omega in _probes(operator, count, kind, seed, TEST):
        if deflate is not None:
            for _ in range(2):
                omega -= (omega @ deflate.T) @ deflate
        samples.append((omega * _products(operator, omega)).sum(dim=1))
    return torch.cat(samples).double().cpu().numpy()


def _mean(samples: NDArray[np.float64]) -> tuple[float, float, int]:
    """Return mean, standard error and degrees of freedom of independent samples."""
    stderr = float(samples.std(ddof=1)) / math.sqrt(samples.size)
    return float(samples.mean()), stderr, samples.size - 1


def _hutch_plus_plus(
    operator: SymmetricOperator, products: int, kind: ProbeKind, seed: int
) -> tuple[float, float, int]:
    third = products // 3
    sketch = torch.cat(
        [_products(operator, omega) for omega in _probes(operator, third, kind, seed, SKETCH)]
    )
    rows = _orthonormal(sketch)[0]
    inside = float((rows * _products(operator, rows)).sum().double())
    samples = _quadratic_forms(operator, products - 2 * third, kind, seed, rows)
    rest, stderr, degrees = _mean(samples)
    return inside + rest, stderr, degrees


def _orthonormal(sketch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an orthonormal basis of the sketch's rows, as rows (k, n), and R (k, k) of its QR."""
    if not bool(torch.isfinite(sketch).all()):
        raise NumericalError(
            "a product of the operator is not finite, so that its trace is not a number; try "
            "dtype=float64, or check the weights."
        )
    Q, R = torch.linalg.qr(sketch.T)
    return Q.T.contiguous(), R


def _xtrace(operator: SymmetricOperator, k: int, seed: int) -> tuple[float, float, int]:
    n = operator.dim
    omega = torch.cat(list(_probes(operator, k, "sphere", seed, SKETCH)))
    rows, R = _orthonormal(_products(operator, omega))
    AQ = _products(operator, rows)
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
    return _mean(inside + factors * residual)


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
