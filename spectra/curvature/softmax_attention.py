"""Softmax attention with both derivatives in closed form, block by block.

For one head with queries Q (T, d), keys K (S, d), values V (S, e), scale s and a mask:

    Z = s Q Kᵀ (+ mask),   P = softmax(Z) by rows,   O = P V.

Backward, from a cotangent G of O (and X of P, see below), with rowsum ⟨A, B⟩ over a row:

    Y = G Vᵀ + X,   r = ⟨P, Y⟩,   D = P ∘ (Y − r),
    G_V = Pᵀ G,   G_Q = s D K,   G_K = s Dᵀ Q.

Second backward, from cotangents U_Q, U_K, U_V of these, at X = 0: with C = G Vᵀ, r = ⟨P, C⟩,
Ẑ = s (U_Q Kᵀ + Q U_Kᵀ) (the tangent of Z), a = ⟨P, Ẑ⟩ and Ṗ = P ∘ (Ẑ − a) (that of P), the scalar
⟨U_Q, G_Q⟩ + ⟨U_K, G_K⟩ + ⟨U_V, G_V⟩ = ⟨Ṗ, C⟩ + ⟨P, G U_Vᵀ⟩ has the derivatives

    in G:  Ṗ V + P U_V        in Q:  s D U_K       in V:  Ṗᵀ G
    in P:  X = Ẑ ∘ (C − r) − a ∘ C + G U_Vᵀ        in K:  s Dᵀ U_Q,      D = P ∘ (C − r).

X goes back to the attention itself as the cotangent of P, which is therefore an output: there it
joins that of O, and one softmax backward serves both. Together 12 products of a (T, S) matrix, as
autograd makes through the separate steps, and one more for C, which is not kept.

Why not leave it to autograd: the derivative of softmax's backward alone is a dozen passes over
arrays of T·S numbers a head, two fifths of a Hessian-vector product of a small model on a CPU, and
three such arrays are kept. Here one is, P; the passes run on blocks of rows that stay in the cache;
and where the mask is causal, the columns that no row of a block may see are left out, about half of
everything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

Tensor = torch.Tensor
Maybe = torch.Tensor | None

ROWS = 128  # of a block under a causal mask on the CPU
ELEMENTS = 1 << 16  # of a block a thread on the CPU: a few of them stay in its cache
CUDA_ROWS = 256
CUDA_ELEMENTS = 1 << 27


_cotangents_alone = False  # the engine does not tell a function which derivatives are asked for


@contextlib.contextmanager
def cotangents_alone() -> Iterator[None]:
    """Compute, in second backwards of the body, the derivative in the cotangent G alone.

    For products with a Jacobian, which differentiate the first backward in its cotangent: the
    other derivatives would be computed and thrown away. Not for two threads at once.
    """
    global _cotangents_alone
    _cotangents_alone = True
    try:
        yield
    finally:
        _cotangents_alone = False


@dataclass(frozen=True)
class _Block:
    """Rows of some heads, and the columns they may see."""

    heads: slice
    rows: slice
    columns: slice


@dataclass(frozen=True)
class _Setup:
    """What is not differentiated: scale, mask, and how the work is cut."""

    scale: float
    mask: Maybe
    causal: bool
    blocks: tuple[_Block, ...]


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
    setup = _Setup(
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
) -> tuple[_Block, ...]:
    height, elements = CUDA_ROWS, CUDA_ELEMENTS
    if device.type == "cpu":
        height, elements = ROWS, ELEMENTS * torch.get_num_threads()
    height = min(rows, height if causal else max(height, elements // columns))
    together = max(1, elements // (height * columns))
    return tuple(
        _Block(
            slice(head, min(head + together, heads)),
            slice(row, min(row + height, rows)),
            slice(0, min(row + height, columns) if causal else columns),
        )
        for head in range(0, heads, together)
        for row in range(0, rows, height)
    )


def _probabilities(q: Tensor, k: Tensor, setup: _Setup, block: _Block) -> Tensor:
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
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, setup: _Setup) -> tuple[Tensor, ...]:
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
        return *_first_backward(G, X, q, k, v, ctx.setup, kept), None


def _first_backward(
    G: Maybe,
    X: tuple[Maybe, ...],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    setup: _Setup,
    kept: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (G_Q, G_K, G_V) from the cotangents of O and of P's blocks; one of them is there."""
    like = next(x for x in (G, *X) if x is not None)
    sums = _Sums(like, q, k, v)
    for block, P, x in zip(setup.blocks, kept, X, strict=True):
        h, r, c = block.heads, block.rows, block.columns
        Y = x
        if G is not None:
            g = _at(G, h, r)
            _at(sums.v, h, c).add_(P.mT @ g)
            Y = g @ v[h, c].mT
            if x is not None:
                Y += x
        if Y is None:
            continue
        D = P * Y
        D -= P * D.sum(-1, keepdim=True)
        D *= setup.scale
        _at(sums.q, h, r).add_(D @ k[h, c])
        _at(sums.k, h, c).add_(D.mT @ q[h, r])
    return sums.q, sums.k, sums.v


class _Sums:
    """Zeros like Q, K, V; where `like` is one of several vectors at once, they are as well."""

    def __init__(self, like: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
        self.q, self.k, self.v = (like.new_zeros(x.shape) for x in (q, k, v))


class _Gradient(torch.autograd.Function):
    """(G_Q, G_K, G_V) as a function of G, Q, K, V and P's blocks, at X = 0."""

    @staticmethod
    def forward(
        ctx: Any, G: Tensor, q: Tensor, k: Tensor, v: Tensor, setup: _Setup, *kept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(G, q, k, v, *kept)
        ctx.setup = setup
        return _first_backward(G, (None,) * len(kept), q, k, v, setup, list(kept))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Maybe) -> Any:
        G, q, k, v, *kept = ctx.saved_tensors
        given = [u for u in cotangents if u is not None]
        if not given:
            return (None,) * (5 + len(kept))
        work = _Second(given[0], G, q, k, v, ctx.setup)
        X = [
            work.block(block, P, *cotangents)
            for block, P in zip(ctx.setup.blocks, kept, strict=True)
        ]
        return work.G, work.q, work.k, work.v, None, *X


class _Second(_Sums):
    """The sums of a second backward, block by block."""

    def __init__(
        self, like: Tensor, G: Tensor, q: Tensor, k: Tensor, v: Tensor, setup: _Setup
    ) -> None:
        super().__init__(like, q, k, v)
        self.G, self.of, self.scale = like.new_zeros(G.shape), (G, q, k, v), setup.scale

    def block(self, block: _Block, P: Tensor, U_q: Maybe, U_k: Maybe, U_v: Maybe) -> Maybe:
        """Add a block's terms; return X, its derivative in P."""
        h, r, c = block.heads, block.rows, block.columns
        g, q, k, v = (_at(x, h, c if i > 1 else r) for i, x in enumerate(self.of))
        u_q, u_k, u_v = _part(U_q, h, r), _part(U_k, h, c), _part(U_v, h, c)
        Z, X = _tangent(q, k, u_q, u_k, self.scale), None
        if Z is not None:
            a = (P * Z).sum(-1, keepdim=True)
            P_dot = P * (Z - a)
            _at(self.G, h, r).add_(P_dot @ v)
            if not _cotangents_alone:
                _at(self.v, h, c).add_(P_dot.mT @ g)
                C = g @ v.mT
                centred = C - (P * C).sum(-1, keepdim=True)
                X = Z * centred
                X -= a * C
                D = P * centred
                D *= self.scale
                if u_k is not None:
                    _at(self.q, h, r).add_(D @ u_k)
                if u_q is not None:
                    _at(self.k, h, c).add_(D.mT @ u_q)
        if u_v is not None:
            _at(self.G, h, r).add_(P @ u_v)
            if not _cotangents_alone:
                along = g @ u_v.mT
                X = along if X is None else X + along
        return X


def _at(x: Tensor, heads: slice, rows: slice) -> Tensor:
    """Return x[heads, rows] as a view; indexing has no rule for several vectors at once."""
    x = x.narrow(0, heads.start, heads.stop - heads.start)
    return x.narrow(1, rows.start, rows.stop - rows.start)


def _part(u: Maybe, heads: slice, rows: slice) -> Maybe:
    return None if u is None else _at(u, heads, rows)


def _tangent(q: Tensor, k: Tensor, u_q: Maybe, u_k: Maybe, scale: float) -> Maybe:
    """Return Ẑ = s (U_Q Kᵀ + Q U_Kᵀ) on a block, None where both cotangents are zero."""
    Z = None if u_q is None else (u_q * scale) @ k.mT
    if u_k is None:
        return Z
    other = (q * scale) @ u_k.mT
    return other if Z is None else Z + other
