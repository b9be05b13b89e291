"""The reference procedure of arXiv 2605.17471, as its notebooks run it, for comparison.

Model and Lanczos vectors in bfloat16, no reorthogonalization, one sequence of 2048 tokens a batch,
20 Gaussian probes × 60 steps × 10 batches. Near-zero mass is the node sum of |θ| < 1.5e-3 averaged
over the probes, reported as mean ± standard deviation over batches. λmin is the smallest node whose
weight exceeds 1e-8, λmax the median over probes of the largest node: two different definitions.
None of these numbers comes with a bound: nodes are not eigenvalues, and 1.5e-3 is thousands of
times below what 60 steps resolve.

Inner products are accumulated in float64 here; the reference lets them round to bfloat16.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spectra.record import Spectrum

LABEL = "reference procedure{}, not a bounded estimate"
TAU = 1.5e-3
SMALLEST_WEIGHT = 1e-8
SETTINGS: dict[str, Any] = {
    "dtype": "bfloat16",
    "vector_dtype": "bfloat16",
    "basis": "none",
    "seq_len": 2048,
    "batch_size": 1,
    "num_probes": 20,
    "lanczos_steps": 60,
    "num_batches": 10,
}


def reference_numbers(spectrum: Spectrum) -> dict[str, Any]:
    """Return the reference's own statistics of a record, each as mean and std over batches."""
    near_zero, low, high = [], [], []
    for b in range(spectrum.steps.shape[0]):
        finished = np.flatnonzero(spectrum.steps[b] > 0)
        if finished.size == 0:
            continue
        runs = [(p, int(spectrum.steps[b, p])) for p in finished]
        pairs = [(spectrum.nodes[b, p, :m], spectrum.weights[b, p, :m]) for p, m in runs]
        near_zero.append(np.mean([w[np.abs(x) < TAU].sum() for x, w in pairs]))
        low.append(min(x[w > SMALLEST_WEIGHT].min() for x, w in pairs))
        high.append(np.median([x.max() for x, _ in pairs]))
    if not near_zero:
        return {}
    changes = ", ".join(spectrum.metadata["estimator"].get("protocol_changes", []))
    return {
        "label": LABEL.format(f" with {changes}" if changes else ""),
        "tau": TAU,
        "near_zero_mean": float(np.mean(near_zero)),
        "near_zero_std": float(np.std(near_zero)),
        "lambda_min": float(np.mean(low)),
        "lambda_min_std": float(np.std(low)),
        "lambda_max": float(np.mean(high)),
        "lambda_max_std": float(np.std(high)),
    }
