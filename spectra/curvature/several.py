"""Several vectors at once or one at a time: a short measurement on the spot.

One call with k vectors makes fewer and larger kernels, and holds k times the temporaries. On two
CPU cores it was slower for k = 2, 4, 8 (2.2–2.3 gradients a vector against 2.0), on a GPU it
depends on sizes; so there the first k vectors are multiplied both ways.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from spectra.errors import OutOfMemoryError

if TYPE_CHECKING:
    from spectra.curvature.operator import CurvatureOperator

log = logging.getLogger(__name__)


def faster_at_once(operator: CurvatureOperator, V: torch.Tensor) -> bool:
    """Return whether one product with `V`, (k, dim), is faster than k; both are warmed up first.

    The answer is noted in `operator.notes`; failing is slower than any.
    """

    def at_once() -> object:
        return operator._attempt(V, batched=True)

    def alone() -> object:
        return operator._each_alone(V)

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*performance drop.*")
            together = seconds(at_once, operator.device)
    except (RuntimeError, OutOfMemoryError) as error:
        reason = str(error).splitlines()[0][:120]
        operator.notes.append(f"several vectors at once failed ({reason}); one at a time")
        return False
    apart = seconds(alone, operator.device)
    chosen = "at once" if together < apart else "one at a time"
    log.info("%d vectors took %.3g s at once and %.3g s one at a time", len(V), together, apart)
    operator.notes.append(f"several vectors share a product: {chosen}, by measurement")
    return together < apart


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the second of two calls, the device's queue included."""
    for _ in range(2):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
