"""Softmax attention with both derivatives in closed form, block by block.

For one head with queries Q (T, d), keys K (S, d), values V (S, e), scale s and a mask:

    Z = s Q Kᵀ (+ mask),   P = softmax(Z) by rows,   O = P V.

`softmax_derivatives` has both backwards; P is an output beside O, so that the cotangents that
the second backward sends to either meet in one softmax backward.

Why not leave it to autograd: the derivative of softmax's backward alone is a dozen passes over
arrays of T·S numbers a head, a large part of a Hessian-vector product of a small model, and
three such arrays are kept. Here one is, P; the passes run on blocks of rows that stay in the cache;
and where the mask is causal, the columns that no row of a block may see are left out, about half of
everything.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from spectra.curvature.softmax_derivatives import Block, Second, Setup, first_backward

Tensor = torch.Tensor
Maybe = torch.Tensor | None

ROWS = 128  # of a block under a causal mask on the CPU
ELEMENTS = 1 << 16  # of a block a thread on the CPU: a few of them stay in its cache
CUDA_ROWS = 256
CUDA_ELEMENTS = 1 << 27


def softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Maybe = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return softmax(s Q Kᵀ + mask) V, twice differentiable in `query`, `key` and `value`.

    As `torch.nn.functional.scaled_dot_product_attention` defines it, rows that see nothing being 0;
    half-precision inputs are computed in float32, as its math kernel does.

    Args:
        query: (..., T, d).
        key: (..., S, d), leading dimensions as the query's.
        value: (..., S, e).
        mask: Boolean (True: may be seen) or added to the scores; broadcast to (..., T, S).
        causal: Whether row t sees columns 0..t only.
        scale: s; 1/√d if None.

    Returns:
        (..., T, e) in the type of `query`.
    """
    lead, wide = query.shape[:-2], _wide(query.dtype)
    q, k, v = (x.to(wide).reshape(-1, *x.shape[-2:]) for x in (query, key, value))
    if mask is not None:
        mask = mask.expand(*lead, q.shape[1], k.shape[1]).reshape(-1, q.shape[1], k.shape[1])
    setup = Setup(
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        mask=mask,
        causal=causal,
        blocks=_blocks(q.shape[0], q.shape[1], k.shape[1], causal, q.device),
    )
    apply: Any = _Attention.apply
    out: Tensor = apply(q, k, v, setup)[0]
    return out.reshape(*lead, *out.shape[-2:]).to(query.dtype)


def columns_seen(columns: int) -> int:
    """Return how many columns of a square causal matrix are computed a row, on average."""
    return min(columns, (columns + ROWS) // 2)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.itemsize >= 4 else torch.float32


def _blocks(
    heads: int, rows: int, columns: int, causal: bool, device: torch.device
) -> tuple[Block, ...]:
    height, elements = CUDA_ROWS, CUDA_ELEMENTS
    if device.type == "cpu":
        height, elements = ROWS, ELEMENTS * torch.get_num_threads()
    height = min(rows, height if causal else max(height, elements // columns))
    together = max(1, elements // (height * columns))
    return tuple(
        Block(
            slice(head, min(head + together, heads)),
            slice(row, min(row + height, rows)),
            slice(0, min(row + height, columns) if causal else columns),
        )
        for head in range(0, heads, together)
        for row in range(0, rows, height)
    )


def _probabilities(q: Tensor, k: Tensor, setup: Setup, block: Block) -> Tensor:
    """Return P on a block, (heads, rows, columns)."""
    h, r, c = block.heads, block.rows, block.columns
    Z = (q[h, r] * setup.scale) @ k[h, c].mT
    if setup.causal:
        corner = Z[..., r.start :]  # columns before it are seen by every row of the block
        hidden = torch.ones(corner.shape[-2:], dtype=torch.bool, device=Z.device).triu_(1)
        corner.masked_fill_(hidden, -torch.inf)
    if setup.mask is not None:
        mask = setup.mask[h, r, c]
        Z = Z.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else Z.add_(mask)
    P = torch.softmax(Z, -1)
    return P if setup.mask is None else P.masked_fill_(torch.isnan(P), 0.0)


class _Attention(torch.autograd.Function):
    """(O, P of each block) of (Q, K, V)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, setup: Setup) -> tuple[Tensor, ...]:
        out = q.new_empty(q.shape[0], q.shape[1], v.shape[2])
        kept = []
        for block in setup.blocks:
            P = _probabilities(q, k, setup, block)
            out[block.heads, block.rows] = P @ v[block.heads, block.columns]
            kept.append(P)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.setup = setup
        return out, *kept

    @staticmethod
    def backward(ctx: Any, *cotangents: Maybe) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        G, X = cotangents[0], cotangents[1:]
        if torch.is_grad_enabled():  # the first backward of two
            assert G is not None
            assert all(x is None for x in X)
            apply: Any = _Gradient.apply
            return *apply(G, q, k, v, ctx.setup, *kept), None
        if G is None and all(x is None for x in X):
            return None, None, None, None
        return *first_backward(G, X, q, k, v, ctx.setup, kept), None


class _Gradient(torch.autograd.Function):
    """(G_Q, G_K, G_V) as a function of G, Q, K, V and P's blocks, at X = 0."""

    @staticmethod
    def forward(
        ctx: Any, G: Tensor, q: Tensor, k: Tensor, v: Tensor, setup: Setup, *kept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(G, q, k, v, *kept)
        ctx.setup = setup
        return first_backward(G, (None,) * len(kept), q, k, v, setup, list(kept))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Maybe) -> Any:
        G, q, k, v, *kept = ctx.saved_tensors
        given = [u for u in cotangents if u is not None]
        if not given:
            return (None,) * (5 + len(kept))
        work = Second(given[0], G, q, k, v, ctx.setup)
        X = [
            work.block(block, P, *cotangents)
            for block, P in zip(ctx.setup.blocks, kept, strict=True)
        ]
        return work.G, work.q, work.k, work.v, None, *X
