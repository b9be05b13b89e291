"""How the graph is to be held: the first way whose bytes fit, counted before anything is built.

keep costs 2 gradients a product, recompute 3, blocks 4, and each needs less memory than the one
before (`cost.count`). What is taken for granted here is only a plan: on a GPU that is full all the
same, the operator goes on with the next way (spectra.curvature.holder). On the CPU the system ends
a process that takes too much, so the plan is all there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from spectra.curvature.graphs import COSTS, GraphPolicy
from spectra.estimation.cost import Cost, ModelShape, count
from spectra.estimation.memory import available_bytes

SHARE = 0.7  # of the free memory, for graphs; the rest is for Lanczos vectors and basis
WAYS: tuple[GraphPolicy, ...] = ("keep", "recompute", "blocks")


@dataclass(frozen=True)
class GraphPlan:
    """A way to hold the graph, and what each way would take.

    Attributes:
        graph: The way.
        costs: Of each way.
        note: Why it is not the fastest; "" where it is, or was asked for.
    """

    graph: GraphPolicy
    costs: Mapping[GraphPolicy, Cost]
    note: str = ""

    @property
    def cost(self) -> Cost:
        """The cost of the way chosen."""
        return self.costs[self.graph]


def choose_graph(
    asked: GraphPolicy,
    shape: ModelShape,
    *,
    tokens: int,
    seq_len: int,
    piece: int,
    dtype: torch.dtype,
    device: torch.device,
    quantized: int = 0,
    kind: str = "Hessian",
    loaded: bool = True,
    limit: int | None = None,
) -> GraphPlan:
    """Return the first way that fits, or the one asked for.

    Args:
        asked: "auto", or a way.
        shape: The model.
        tokens: Tokens in an operator.
        seq_len: Tokens in a sequence.
        piece: Tokens that share a graph.
        dtype: Of the products.
        device: Where they are made.
        quantized: Number of fake-quantized weights.
        kind: "Hessian" or "GGN".
        loaded: Whether the weights are in memory already.
        limit: Bytes that may be used; None for what is free.
    """
    costs = {
        way: count(
            shape,
            tokens=tokens,
            seq_len=seq_len,
            itemsize=dtype.itemsize,
            graph=way,
            piece=piece,
            quantized=quantized,
            kind=kind,
        )
        for way in WAYS
    }
    if asked != "auto":
        return GraphPlan(asked, costs)
    free = available_bytes(device)
    free = free if limit is None else min(free, limit)
    room = SHARE * (free - (0 if loaded else costs["keep"].weight_bytes))
    price = COSTS[kind]
    # A graph rebuilt whole is as large as one that is kept, unless it is one of several.
    several = piece < tokens
    ways = [way for way in WAYS if way != "recompute" or several]
    fitting = [way for way in ways if costs[way].graph_bytes <= room]
    chosen = fitting[0] if fitting else min(ways, key=lambda way: costs[way].graph_bytes)
    if chosen == "keep":
        return GraphPlan(chosen, costs)
    how = "rebuilt in each product" if chosen == "recompute" else "rebuilt block by block"
    size = costs["keep"].graph_bytes
    return GraphPlan(
        chosen,
        costs,
        f"graphs of about {size / 1e9:.1f} GB do not fit the {max(room, 0) / 1e9:.1f} GB left for "
        f"them: {how}, at {price[chosen]:.3g} gradients a product instead of {price['keep']:.3g}",
    )
