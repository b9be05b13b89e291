"""The ways to hold a graph, what each costs, and the next smaller one when memory runs out.

    keep       the first-order graph is kept: a product is the second backward alone, 2.0 gradients
    recompute  it is built and freed within each product: 3.0 gradients, the memory of one graph
               whatever the number of batches
    blocks     one transformer block at a time (`blockwise`): 4.0 gradients, the memory of one
               block's graph and of the hidden states between blocks

(4/3, 3.0 and 2 2/3 for the Gauss-Newton matrix, whose graph is dearer to build; all measured in
flops.) When memory ends: keep -> recompute, which frees all graphs but one; then half as many rows
a graph, again and again; then blocks. Halving the rows of kept graphs first would free nothing, as
all pieces are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch

GraphPolicy = Literal["auto", "keep", "recompute", "blocks"]
Blocks = Sequence[torch.Tensor | None]

COSTS = {
    "Hessian": {"keep": 2.0, "recompute": 3.0, "blocks": 4.0},
    "GGN": {"keep": 4 / 3, "recompute": 3.0, "blocks": 8 / 3},
}


class BatchGraph(Protocol):
    """One batch's loss, gradient and linear map."""

    loss: float
    count: float

    def gradient(self) -> Blocks:
        """Return the gradient of the batch's mean loss, a block for each selected parameter."""

    def product(self, blocks: Sequence[torch.Tensor], *, batched: bool, last: bool) -> Blocks:
        """Return the product with a vector given in blocks.

        Args:
            blocks: One tensor of each parameter's shape, or (k, *shape) when `batched`.
            batched: Whether k vectors come at once.
            last: Whether the graph may be freed.
        """


def smaller(graph: GraphPolicy, rows: int) -> tuple[GraphPolicy, int] | None:
    """Return the next way that takes less memory, None where there is none.

    Args:
        graph: The way now.
        rows: Rows (sequences) of the largest piece now; 1 if it cannot be cut.
    """
    if graph in ("auto", "keep"):
        return "recompute", rows
    if rows > 1:
        return graph, (rows + 1) // 2
    return ("blocks", rows) if graph == "recompute" else None
