"""Cotangents pulled back through a graph, and their sums, where None stands for zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Tensor = torch.Tensor
Maybe = Tensor | None


class Totals:
    """A sum of blocks, None where nothing was added."""

    def __init__(self, count: int) -> None:
        self.values: list[Maybe] = [None] * count

    def add(self, blocks: Sequence[Maybe]) -> None:
        """Add a block or None for each parameter."""
        for index, block in enumerate(blocks):
            self.values[index] = plus(self.values[index], block)


def pull(
    out: Tensor,
    x: Maybe,
    leaves: tuple[Tensor, ...],
    cotangent: Maybe,
    total: Totals,
    *,
    last: bool,
) -> Maybe:
    """Add the cotangent pulled back to `leaves` to `total`; return what arrives at `x`.

    Args:
        out: Where the cotangent is given.
        x: The hidden state before it, or None.
        leaves: The selected parameters.
        cotangent: None stands for zero.
        total: The sum so far.
        last: Whether the graph may be freed.
    """
    if cotangent is None or not out.requires_grad:
        return None
    moving = x is not None and x.requires_grad
    inputs = leaves if x is None or not moving else (x, *leaves)
    found = torch.autograd.grad(out, inputs, cotangent, retain_graph=not last, allow_unused=True)
    total.add(found[-len(leaves) :])
    return found[0] if moving else None


def pull_second(
    backward: Sequence[Maybe],
    tangents: Sequence[Maybe],
    inputs: tuple[Tensor, ...],
    *,
    last: bool,
    batched: bool = False,
) -> Sequence[Maybe]:
    """Return ∂Σ⟨b, t⟩/∂inputs over the pairs of a first backward's results b and tangents t.

    Args:
        backward: What the first backward gave; None, or without a graph, where it is constant.
        tangents: None stands for zero.
        inputs: What to differentiate with respect to.
        last: Whether the graph may be freed.
        batched: Whether tangents have a leading axis of several vectors.
    """
    pairs = [
        (b, t)
        for b, t in zip(backward, tangents, strict=True)
        if b is not None and t is not None and b.requires_grad
    ]
    if not pairs:
        return [None] * len(inputs)
    outputs, given = zip(*pairs, strict=True)
    return torch.autograd.grad(
        outputs,
        inputs,
        given,
        retain_graph=not last,
        allow_unused=True,
        is_grads_batched=batched,
    )


def plus(a: Maybe, b: Maybe) -> Maybe:
    """Return a + b."""
    return b if a is None else a if b is None else a + b


def stacked(column: Sequence[Maybe], vector: Tensor) -> Tensor:
    """Return the blocks of several vectors as one, each of the shape of `vector[0]`."""
    return torch.stack([torch.zeros_like(vector[0]) if t is None else t for t in column])
