"""What each way to hold a graph costs: counted flops in gradients, bytes alive at the peak.

Counted operation by operation, so the rows are the same on every machine.
"""

from __future__ import annotations

from typing import Any

import torch

from spectra import curvature
from spectra.benchmarks.flops import flops
from spectra.benchmarks.live import peak_bytes
from spectra.benchmarks.subject import Subject


def measure(subject: Subject) -> list[dict[str, Any]]:
    """Return a row for each kind of curvature and each way."""
    gradient, rows = 0, []
    for build in (curvature.hessian, curvature.ggn):
        for graph in ("keep", "recompute", "blocks"):
            H = build(subject.model, list(subject.batches), graph=graph)
            v = torch.ones(H.dim, dtype=H.dtype, device=H.device)
            peak = peak_bytes(lambda H=H, v=v: H.matvec(v))  # type: ignore[misc]
            gradient = gradient or flops(lambda H=H: _gradient(H, subject))  # type: ignore[misc]
            product = flops(lambda H=H, v=v: H.matvec(v))  # type: ignore[misc]
            rows.append(
                {
                    "curvature": H.mean.kind,
                    "graph": graph,
                    "gradients_a_product": product / gradient,
                    "peak_bytes": peak,
                    "vector_bytes": v.nbytes,
                }
            )
            H.release()
    return rows


def _gradient(H: Any, subject: Subject) -> Any:
    point, leaves = H.point, H.point.leaves()
    return point.call(
        lambda model: torch.autograd.grad(H.loss_function(model, subject.batches[0])[0], leaves),
        leaves,
    )
