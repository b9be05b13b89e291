"""Memory of a device, and torch's failures told as one sentence with a cure."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Iterator, Sequence

import psutil
import torch

from spectra.errors import NumericalError, OutOfMemoryError, SpectraError
from spectra.parallel.launched import place

_NO_SECOND = (
    re.compile(r"derivative for '?(?:aten::)?(\w+)'? is not implemented"),
    re.compile(r"(\w+) does not support (?:double|higher[- ]order)"),
)
_CHANGED = (
    "a parameter or the data was changed in place while they were differentiated; Lanczos needs "
    "one fixed matrix: leave both alone until the estimate ends"
)
_REPLACE = (
    "replace the custom or fused kernel by plain torch operations (for attention: eager or sdpa)"
)
_CPU_FULL = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


def used_bytes(device: torch.device) -> int:
    """Return the bytes this process holds on `device` (its resident memory for the CPU)."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def free_bytes(device: torch.device) -> int:
    """Return the bytes still to be had on `device`: of a machine's memory, a process's share."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    return int(psutil.virtual_memory().available) // place().local_size


def give_back(device: torch.device) -> None:
    """Hand freed memory back: the GPU's cache to the driver, the heap's free pages to the system.

    Freed activations of one precision are of no use to the graph of another, and glibc keeps them.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own, absent in musl
        if trim is not None:
            trim(0)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn torch's failures in the body into this package's errors.

    Args:
        what: What was being computed, with its size, to begin the sentence.

    Raises:
        OutOfMemoryError: The device or the host is full.
        SpectraError: An operation has no second derivative.
        NumericalError: A parameter was changed in place under a kept graph.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _full(what) from error
    except RuntimeError as error:
        text = str(error)
        if any(sign in text for sign in _CPU_FULL):
            raise _full(what) from error
        if "modified by an inplace operation" in text:
            raise NumericalError(f"{what}: {_CHANGED}.") from error
        found = next((m for pattern in _NO_SECOND if (m := pattern.search(text))), None)
        if found is None:
            raise
        raise SpectraError(
            f"{what}: the operation {found.group(1)} has no second derivative; {_REPLACE}."
        ) from error


def refuse_truncated(gradients: Sequence[torch.Tensor | None], what: str) -> None:
    """Refuse a graph with a function marked `once_differentiable`.

    Such a function leaves a node that fails when differentiated, but that node is a leaf: a second
    backward toward the parameters never meets it and returns a product with terms missing.

    Raises:
        SpectraError: If the graph of `gradients` holds one.
    """
    waiting = [g.grad_fn for g in gradients if g is not None and g.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name().endswith("autograd::Error"):
            raise SpectraError(
                f"{what}: a custom function marked once_differentiable has no second derivative; "
                f"{_REPLACE}."
            )
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)


def _full(what: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"{what} does not fit in memory; lower seq_len or batch_size, select fewer parameters, or "
        "pass graph='recompute' where one operator covers several batches."
    )
