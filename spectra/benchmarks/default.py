"""The default, a whole basis, against none with more steps: which resolves more in the same time.

One probe on one batch of a model. With the whole basis `steps` products are made; without one, and
with a basis condensed after a third of the steps, as many as the same seconds allow, timed in the
same turns. Told are seconds, products and the width of the interval of the mass within three
thresholds: quantiles of |λ| by the weights of the longest run's nodes.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from spectra import curvature
from spectra.benchmarks.subject import Subject
from spectra.linalg import BasisPolicy, Lanczos, probe
from spectra.quadrature import gauss_rule, sharp_bounds

QUANTILES = (0.5, 0.9, 0.99)


def measure(subject: Subject, steps: int) -> list[dict[str, Any]]:
    """Return a row a policy."""
    H = curvature.hessian(subject.model, [subject.batches[0]]).operator(0)
    H.prepare()
    start = probe(H.dim, seed=0, device=H.device)
    third = max(1, steps // 3)
    runs = {
        "whole": Lanczos(H, start),
        f"{third} vectors, then converged": Lanczos(H, start),
        "none": Lanczos(H, start, basis=BasisPolicy("none")),
    }
    runs["whole"].reserve(steps)
    spent = dict.fromkeys(runs, 0.0)
    for step in range(4 * steps):
        for name, run in runs.items():
            if (name == "whole" and step >= steps) or spent[name] > spent["whole"]:
                continue  # each has as long as the whole basis takes
            started = time.perf_counter()
            if run.num_steps == third and name not in ("whole", "none"):
                run.condense()
            run.extend(1)
            if H.device.type == "cuda":
                torch.cuda.synchronize(H.device)
            spent[name] += time.perf_counter() - started
        if step >= steps and all(spent[name] > spent["whole"] for name in spent if name != "whole"):
            break
    taus = _thresholds(max(runs.values(), key=lambda run: run.num_steps))
    rows = []
    for name, run in runs.items():
        row = {
            "policy": name,
            "parameters": H.dim,
            "basis_bytes": run._bases[0].rows().nbytes,
            "seconds": spent[name],
            "products": run.num_steps,
        }
        rows.append(row | {f"width_{q:g}": _width(run, tau) for q, tau in taus.items()})
    return rows


def _thresholds(run: Lanczos) -> dict[float, float]:
    rule = gauss_rule(run.alphas[0], run.betas[0])
    nodes, weights = rule.nodes, rule.weights
    order = np.argsort(np.abs(nodes))
    summed = np.cumsum(weights[order])
    at = np.minimum(np.searchsorted(summed, QUANTILES), nodes.size - 1)
    return dict(zip(QUANTILES, np.abs(nodes)[order][at].tolist(), strict=True))


def _width(run: Lanczos, tau: float) -> float:
    low, high = sharp_bounds(run.alphas[0], run.betas[0], np.array([-tau, tau]))
    return float(min(high[1] - low[0], 1.0) - max(low[1] - high[0], 0.0))
