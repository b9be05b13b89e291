"""What the arithmetic of a run adds to the error of its products, for records of any age.

δ is the absolute error of one product, as it was measured. Three things are not in that number.

*Vectors.* Lanczos vectors held in a coarser type than the products are made in are rounded at every
step: q + e with ‖e‖ ≤ ε_v, so that the product moves by ε_v‖H‖. Recurrence and orthogonalization
round a few times more: `VECTOR_UNITS` in all.

*No measurement.* Without checks, and without a declared error, a product is taken to be wrong by
`PRODUCT_UNITS` roundings of the operator's type, ε_o‖H‖ each; this is an assumption, and a record
says so.

*Lost orthogonality.* Where the basis is not kept whole, a Ritz value is inside the spectrum only up
to about m·ε_v‖H‖ after m steps (Paige 1976, 1980: the perturbation of the three-term recurrence
adds up over the steps). That concerns extreme eigenvalues, whose inner bound is a Ritz value.
Bounds of distribution functions are moved by the products' error alone; ghosts widen them.

‖H‖ is bounded by Gershgorin's circles of the Jacobi matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spectra.quadrature.gauss import Floats

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
VECTOR_UNITS = 4.0
PRODUCT_UNITS = 8.0


def norm_bound(alphas: Floats, betas: Floats) -> float:
    """Return a bound of ‖T‖ over all runs of padded arrays (B, P, M)."""
    if not alphas.size:
        return 0.0
    before = np.concatenate([np.zeros_like(betas[..., :1]), betas[..., :-1]], axis=-1)
    return float((np.abs(alphas) + np.abs(betas) + np.abs(before)).max())


def added_product_error(metadata: Mapping[str, Any], norm: float) -> float:
    """Return what is to be added to the measured product error δ.

    Args:
        metadata: Of the record.
        norm: Bound of ‖H‖.
    """
    estimator, checks = metadata.get("estimator") or {}, metadata.get("checks") or {}
    work, made = (EPS.get(str(estimator.get(key))) for key in ("vector_dtype", "dtype"))
    added = 0.0
    if work is not None and made is not None and work > made:
        added += VECTOR_UNITS * work * norm
    if checks.get("product_error") is None and made is not None:
        added += PRODUCT_UNITS * made * norm
    return added


def ritz_error(metadata: Mapping[str, Any], norm: float, steps: int) -> float:
    """Return how far a Ritz value may lie outside the spectrum for want of orthogonality."""
    estimator, checks = metadata.get("estimator") or {}, metadata.get("checks") or {}
    work = EPS.get(str(estimator.get("vector_dtype")))
    kept = estimator.get("basis") in ("device", "host") and not checks.get("condensed_error")
    stored = EPS.get(str(estimator.get("basis_dtype")), work)
    if work is None or estimator.get("exact") or estimator.get("basis") is None:
        return 0.0
    if kept:
        return VECTOR_UNITS * max(work, stored or 0.0) * norm if stored != work else 0.0
    return steps * work * norm
