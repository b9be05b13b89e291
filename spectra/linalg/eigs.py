"""Leading eigenpairs at one or both ends of the spectrum, by Lanczos with a kept basis.

After m steps the Ritz pairs (θ, Qy) have residual ‖HQy − θQy‖ = β_m|e_mᵀy| (Parlett, The Symmetric
Eigenvalue Problem, 13.2). Lanczos is extended until those of the wanted pairs are at most
tol·max|θ|; then one product with each Ritz vector gives the true residual, which is what is
returned and judged. A residual r places an eigenvalue of H within r of θ.

What a single start vector cannot know: it meets every eigenspace in one direction only, so a
multiple eigenvalue is returned once. Where an invariant subspace is used up (breakdown) before k
pairs are found, the pairs come from that subspace alone, and a warning says so. Nor do residuals
exclude that a pair of the same end was missed because the start vector is nearly orthogonal to it:
`spectra.quadrature.extremes` bounds the probability.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from spectra.errors import NumericalWarning, UsageError
from spectra.linalg.basis import BasisPolicy
from spectra.linalg.lanczos import Lanczos
from spectra.linalg.operator import SymmetricOperator
from spectra.linalg.probes import probe
from spectra.quadrature.gauss import jacobi_eigh

Which = Literal["both", "largest", "smallest"]
CHECK = 8  # steps between two looks at the residuals, at least


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues at the ends of a spectrum, with their vectors.

    Attributes:
        values: Ritz values, ascending, (k,) float64; (2k,) for both ends.
        vectors: Unit Ritz vectors as rows, (k, n), on the operator's device.
        residuals: ‖Hu − λu‖ of each pair, by a product made for it, (k,).
        steps: Lanczos steps taken; the products made are these and one for each pair.
        converged: Which residuals are at most tol·max|θ|, (k,) bool.
    """

    values: NDArray[np.float64]
    vectors: torch.Tensor
    residuals: NDArray[np.float64]
    steps: int
    converged: NDArray[np.bool_]


def eigenpairs(
    operator: SymmetricOperator,
    *,
    k: int = 1,
    which: Which = "both",
    tol: float = 1e-6,
    max_steps: int | None = None,
    seed: int = 0,
    basis: BasisPolicy | None = None,
) -> Eigenpairs:
    """Return the `k` leading eigenpairs at each end asked for.

    Args:
        operator: The operator H.
        k: Pairs at each end.
        which: "both", "largest" or "smallest" (algebraically).
        tol: Largest residual, relative to the largest |θ|.
        max_steps: Most Lanczos steps; default min(n, max(300, 20k)).
        seed: Of the start vector.
        basis: Where the basis is kept; "none" is refused, vectors are made of it.

    Raises:
        UsageError: If an argument is out of range.

    Warns:
        NumericalWarning: If a pair has not converged within `max_steps`, or fewer than asked for
            exist in the invariant subspace that the start vector generates.
    """
    policy = basis or BasisPolicy()
    most = _check(operator, k, which, tol, max_steps, policy)
    dtype = operator.dtype if operator.dtype.itemsize >= 4 else torch.float32
    start = probe(operator.dim, seed=seed, dtype=dtype, device=operator.device)
    lanczos = Lanczos(operator, start, basis=policy)
    wanted = k if which != "both" else 2 * k
    target = min(most, max(2 * wanted, CHECK))
    while True:
        lanczos.extend(target - lanczos.num_steps)
        theta, vectors = _ritz(lanczos)
        chosen = _ends(theta.size, k, which)
        scale = float(np.abs(theta).max())
        estimated = float(lanczos.betas[0, -1]) * np.abs(vectors[-1, chosen])
        done = lanczos.finished or lanczos.num_steps >= most
        if done or (chosen.size == wanted and (estimated <= tol * scale).all()):
            values, rows, residuals = _judge(lanczos, theta[chosen], vectors[:, chosen])
            converged = residuals <= tol * scale
            if done or converged.all() or _stalled(estimated, residuals, tol * scale):
                break
        target = min(most, lanczos.num_steps + max(CHECK, lanczos.num_steps // 4))
    _warn(converged, residuals, wanted, lanczos.num_steps, tol, scale)
    return Eigenpairs(values, rows, residuals, int(lanczos.steps[0]), converged)


def _check(
    operator: SymmetricOperator,
    k: int,
    which: str,
    tol: float,
    max_steps: int | None,
    policy: BasisPolicy,
) -> int:
    """Return the most steps to take, or raise UsageError."""
    n = operator.dim
    if which not in get_args(Which):
        raise UsageError(f"which={which!r} is not known; pass 'both', 'largest' or 'smallest'.")
    ends = 2 if which == "both" else 1
    if not 1 <= k * ends <= n:
        raise UsageError(
            f"k={k} at {ends} end(s) does not fit the operator's dimension {n}; pass 1 to "
            f"{n // ends}."
        )
    if not 0 < tol < 1:
        raise UsageError(f"tol={tol} is not a relative residual; pass a number between 0 and 1.")
    if policy.where == "none":
        raise UsageError("basis='none' keeps no vectors to return; pass 'device' or 'host'.")
    most = min(n, max(300, 20 * k)) if max_steps is None else min(n, max_steps)
    if most < k * ends:
        raise UsageError(
            f"max_steps={max_steps} is less than the {k * ends} pairs asked for; pass more."
        )
    return most


def _ritz(lanczos: Lanczos) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    m = int(lanczos.steps[0])
    return jacobi_eigh(lanczos.alphas[0, :m], lanczos.betas[0, : m - 1])


def _ends(size: int, k: int, which: str) -> NDArray[np.int64]:
    """Return the indices of the wanted Ritz values among `size` ascending ones."""
    low = np.arange(min(k, size)) if which != "largest" else np.arange(0)
    high = np.arange(max(size - k, 0), size) if which != "smallest" else np.arange(0)
    return np.unique(np.concatenate([low, high]))


def _judge(
    lanczos: Lanczos, theta: NDArray[np.float64], coefficients: NDArray[np.float64]
) -> tuple[NDArray[np.float64], torch.Tensor, NDArray[np.float64]]:
    """Return values, unit Ritz vectors (k, n) and true residuals, by one product with each.

    Values are the Rayleigh quotients of the vectors, whose error is second order in the residual.
    """
    operator, space = lanczos.operator, lanczos.space
    rows = lanczos.ritz_vectors(coefficients)
    values, residuals = theta.copy(), np.empty(theta.size)
    for i, row in enumerate(rows):
        row.div_(space.norm(row).to(row.dtype))
        product = operator.matvec(row.to(operator.dtype)).to(row.dtype)
        quotient = space.dot(row, product)
        space.axpy(-quotient, row, product)
        values[i], residuals[i] = float(quotient), float(space.norm(product))
    order = np.argsort(values, kind="stable")
    rows = space.whole(rows[torch.from_numpy(order).to(rows.device)])
    return values[order], rows, residuals[order]


def _stalled(estimated: NDArray[np.float64], residuals: NDArray[np.float64], bound: float) -> bool:
    """Whether further steps cannot help: the recurrence sees no residual, products' rounding is."""
    return bool(estimated.max() <= 1e-2 * bound < residuals.max())


def _warn(
    converged: NDArray[np.bool_],
    residuals: NDArray[np.float64],
    wanted: int,
    steps: int,
    tol: float,
    scale: float,
) -> None:
    if not converged.all():
        warnings.warn(
            f"{int((~converged).sum())} of {converged.size} eigenpairs have a residual above "
            f"tol={tol:g} (largest {residuals.max() / scale:.2g} of max|θ|) after {steps} steps: "
            "raise max_steps or tol, or use a higher precision.",
            NumericalWarning,
            stacklevel=3,
        )
    if converged.size < wanted:
        warnings.warn(
            f"only {converged.size} of {wanted} eigenpairs were found: the start vector's "
            f"invariant subspace ended after {steps} steps, and a multiple eigenvalue shows once: "
            "ask for fewer pairs.",
            NumericalWarning,
            stacklevel=3,
        )
