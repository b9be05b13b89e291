"""Reorthogonalization against the memory stream: its time over that of reading its bytes."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from spectra.benchmarks.timing import in_turns
from spectra.linalg import Lanczos, SymmetricOperator, probe


def measure(n: int, steps: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of a run's passes over its basis, and of streaming the same bytes.

    One pass at step j reads the j vectors twice: for the inner products and for the subtraction.
    """
    op = SymmetricOperator.from_matvec(lambda v: v.roll(1) + v.roll(-1), n)
    start = probe(n, seed=0)
    run = Lanczos(op, start)
    run.reserve(steps)
    run.extend(steps)
    basis = run._bases[0]
    x = torch.randn(n)

    def passes() -> None:
        for j in range(1, steps + 1):
            basis.size = j
            basis.remove(basis.coefficients(x), x)

    def stream() -> None:
        for j in range(1, steps + 1):
            rows = basis._rows[:j]
            rows.sum()
            rows.sum()

    times = in_turns({"passes": passes, "stream": stream}, rounds, torch.device("cpu"))
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {
        "dimension": n,
        "steps": steps,
        "bytes": 2 * 4 * n * steps * (steps + 1) // 2,
        "seconds": medians["passes"],
        "stream_seconds": medians["stream"],
        "over_stream": medians["passes"] / medians["stream"],
    }
