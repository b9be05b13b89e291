"""The checks of `spectra.curvature.checks` for an operator whose vectors are in parts.

Determinism, symmetry, a difference of gradients, and δ against float64, with the same limits. The
float64 operator holds its weights in parts as well.
"""

from __future__ import annotations

import math

import torch

from spectra.curvature.checks import DIFFERENCE, SHRINK, STEP, Checks
from spectra.curvature.sharded import ShardedHessian
from spectra.errors import NumericalError
from spectra.linalg.probes import probe

ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}
LOW_PRECISION = 0.2


def run_checks(operator: ShardedHessian, start: torch.Tensor, *, seed: int = 0) -> Checks:
    """Check `operator`, with this process's part of the unit vector `start`, (length,).

    Cost: 1 gradient and 2 products, and in float64 2 gradients, 2 products and their graphs.

    Raises:
        NumericalError: If it is not deterministic, not symmetric, or no derivative.
    """
    space, allowed = operator.space, ROUNDING.get(operator.dtype, LOW_PRECISION)
    loss, gradient = operator.loss, operator.gradient
    operator.release()
    operator.prepare()
    determinism = max(
        abs(operator.loss - loss) / (abs(loss) or 1.0),
        float(space.norm(operator.gradient - gradient)) / (operator.grad_norm or 1.0),
    )
    if not determinism <= allowed:
        raise NumericalError(
            f"loss or gradient changed by {determinism:.2g} (relative) between two evaluations; "
            "turn off dropout, noise and sampling in the model and the loss."
        )
    other = probe(operator.dim, seed=seed, batch=1, dtype=start.dtype)
    u, v = (x.to(operator.dtype) for x in (space.take(other).to(start.device), start))
    Hu, Hv = operator.matvec(u), operator.matvec(v)
    gap = abs(float(space.dot(u, Hv)) - float(space.dot(v, Hu)))
    norm = float(space.norm(Hv))
    scale = float(space.norm(Hu)) + norm
    symmetry = math.sqrt(operator.dim) * gap / scale if scale else 0.0
    if not symmetry <= allowed:
        raise NumericalError(f"the Hessian is not symmetric (relative asymmetry {symmetry:.2g}).")
    apart = _difference(operator, Hv.double() / norm if norm else v.double())
    return Checks(determinism, symmetry, apart, measure_product_error(operator, start))


def measure_product_error(operator: ShardedHessian, part: torch.Tensor) -> float:
    """Return δ for the direction of the vector of which `part` is held here, and record it."""
    space = operator.space
    q = part.to(operator.dtype)
    product = operator.matvec(q).double()
    operator.release()
    reference = operator.with_dtype(torch.float64).matvec(q.double())
    floor = torch.finfo(torch.float64).eps * float(space.norm(reference))
    delta = max(float(space.norm(product - reference)), floor) / (float(space.norm(q)) or 1.0)
    operator.product_error = max(operator.product_error or 0.0, delta)
    return delta


def _difference(operator: ShardedHessian, q: torch.Tensor) -> float:
    """Return the relative distance of a float64 product from a central difference."""
    space = operator.space
    operator.release()
    reference = operator.with_dtype(torch.float64).matvec(q)
    weights = torch.cat([part.double() for part in operator.parts])
    whole, scale = float(space.norm(weights)) or 1.0, float(space.norm(reference)) or 1.0
    error = math.inf
    for shrink in SHRINK:
        step = STEP * whole * shrink
        gradients = []
        for sign in (1, -1):
            moved = operator.with_dtype(torch.float64, offset=q * (sign * step))
            moved.prepare()
            gradients.append(moved.gradient)
        apart = (gradients[0] - gradients[1]).div_(2 * step).sub_(reference)
        error = min(error, float(space.norm(apart)) / scale)
        if error <= DIFFERENCE:
            return error
    raise NumericalError(
        f"a product with the Hessian is {error:.2g} (relative) away from a difference of "
        "gradients; an operation's second derivative is missing or wrong: replace custom or "
        "fused kernels by plain torch operations."
    )
