"""Both backwards of softmax attention, block by block.

For one head, with Z = s Q Kᵀ (+ mask), P = softmax(Z) by rows, O = P V (`softmax_attention`), and
rowsum ⟨A, B⟩ over a row:

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
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

Tensor = torch.Tensor
Maybe = torch.Tensor | None

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
class Block:
    """Rows of some heads, and the columns they may see."""

    heads: slice
    rows: slice
    columns: slice


@dataclass(frozen=True)
class Setup:
    """What is not differentiated: scale, mask, and how the work is cut."""

    scale: float
    mask: Maybe
    causal: bool
    blocks: tuple[Block, ...]


def first_backward(
    G: Maybe,
    X: tuple[Maybe, ...],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    setup: Setup,
    kept: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (G_Q, G_K, G_V) from the cotangents of O and of P's blocks; one of them is there."""
    like = next(x for x in (G, *X) if x is not None)
    sums = Sums(like, q, k, v)
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


class Sums:
    """Zeros like Q, K, V; where `like` is one of several vectors at once, they are as well."""

    def __init__(self, like: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
        self.q, self.k, self.v = (like.new_zeros(x.shape) for x in (q, k, v))


class Second(Sums):
    """The sums of a second backward, block by block."""

    def __init__(
        self, like: Tensor, G: Tensor, q: Tensor, k: Tensor, v: Tensor, setup: Setup
    ) -> None:
        super().__init__(like, q, k, v)
        self.G, self.of, self.scale = like.new_zeros(G.shape), (G, q, k, v), setup.scale

    def block(self, block: Block, P: Tensor, U_q: Maybe, U_k: Maybe, U_v: Maybe) -> Maybe:
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
