"""Second backwards recorded as CUDA graphs: one launch a product in the place of thousands.

A product on a kept graph is the same kernels on the same addresses each time; only the vector
changes. Where kernels are short, launching them one by one costs more than running them. So the
second backward is captured once with a fixed vector, and a product copies its vector there and
replays.

A backward runs its kernels on the stream on which the forward ran, and a capture sees one stream:
the first-order graph is therefore built again on the stream of the capture, and takes the place of
the one that was there. It is tried where a product takes less than `LONG` seconds and a second
graph fits; it is kept if it is faster and its product is the eager one to rounding. Whatever fails
is noted, and products stay as they were.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from spectra.curvature.failures import free_bytes, give_back
from spectra.curvature.graphs import BatchGraph, Blocks
from spectra.curvature.several import seconds
from spectra.errors import SpectraError

if TYPE_CHECKING:
    from spectra.curvature.operator import CurvatureOperator

LONG = 0.25  # seconds a product, beyond which launches do not matter
SAME = 1e-6  # relative difference from the eager product in float32
WARM_UPS = 3

log = logging.getLogger(__name__)


class CapturedGraph:
    """A batch's graph whose product is replayed."""

    def __init__(self, graph: BatchGraph, vector: list[torch.Tensor], stream: torch.cuda.Stream):
        """Capture the product of `graph`, which was built on `stream`.

        Args:
            graph: A kept graph.
            vector: Tensors of the parameters' shapes, to be written to.
            stream: Where to capture.
        """
        self.graph, self.vector = graph, vector
        self.loss, self.count = graph.loss, graph.count
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                graph.product(vector, batched=False, last=False)
        torch.cuda.synchronize(stream.device)
        self.recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.recorded, stream=stream):
            self.result = graph.product(vector, batched=False, last=False)

    def gradient(self) -> Blocks:
        """Return the gradient of the batch's mean loss."""
        return self.graph.gradient()

    def product(self, blocks: Sequence[torch.Tensor], *, batched: bool, last: bool) -> Blocks:
        """Return the product; overwritten by the next one."""
        if batched:
            return self.graph.product(blocks, batched=True, last=last)
        for place, block in zip(self.vector, blocks, strict=True):
            place.copy_(block)
        self.recorded.replay()
        return self.result


def capture(operator: CurvatureOperator) -> list[BatchGraph]:
    """Return the graph of each piece of `operator`, built and captured on a stream of its own."""
    stream = torch.cuda.Stream(operator.device)
    found: list[BatchGraph] = []
    for position in range(len(operator.pieces)):
        stream.wait_stream(torch.cuda.current_stream(operator.device))
        with torch.cuda.stream(stream):
            graph = operator._graph(position, second_order=True)
            vector = [torch.zeros_like(leaf).detach() for leaf in operator.point.leaves()]
        found.append(CapturedGraph(graph, vector, stream))
    torch.cuda.synchronize(operator.device)
    return found


def faster_captured(operator: CurvatureOperator, v: torch.Tensor) -> list[BatchGraph] | None:
    """Return captured graphs in the place of the operator's own if they pay, else None.

    Args:
        operator: Prepared, its graphs kept on a CUDA device.
        v: A vector, (dim,).
    """
    eager = operator._graphs
    before = seconds(lambda: operator._attempt(v, batched=False), operator.device)
    if before > LONG or 2 * (operator.graph_bytes or 0) > free_bytes(operator.device):
        return None
    expected = operator._attempt(v, batched=False)
    try:
        operator._graphs = capture(operator)
        after = seconds(lambda: operator._attempt(v, batched=False), operator.device)
        gap = (operator._attempt(v, batched=False) - expected).norm() / expected.norm()
        same = float(gap) <= max(SAME, 4 * torch.finfo(operator.dtype).eps)
        captured = operator._graphs
    except (RuntimeError, SpectraError) as error:
        operator.notes.append(f"no CUDA graph of a product: {str(error).splitlines()[0][:120]}")
        return None
    finally:
        operator._graphs = eager
        give_back(operator.device)
    told = f"a product took {before:.3g} s, {after:.3g} s as a CUDA graph"
    if not same:
        operator.notes.append(f"{told}, which differs by {float(gap):.2g}: not used")
        return None
    log.info("%s: %s", told, "used" if after < before else "not used")
    if after < before:
        operator.notes.append("products are replayed CUDA graphs")
    return captured if after < before else None
