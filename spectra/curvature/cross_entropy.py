"""Cross-entropy of a linear head, with both derivatives in closed form and in chunks of rows.

For rows h_t (t = 1..N) with targets y_t, head weight W (V, d) and bias b (V,): logits
Z⁰ = h Wᵀ + 1 bᵀ, probabilities P = softmax(Z⁰), one-hot targets Y, and

    L = (1/N) Σ_t [logsumexp(Z⁰_t) − Z⁰_{t,y_t}],        R = (P − Y)/N = ∂L/∂Z⁰,
    G_h = g R W,   G_W = g Rᵀ h,   G_b = g Rᵀ 1           (g the upstream scalar).

The second backward has cotangents U_h, U_W, U_b and differentiates
S = ⟨U_h, G_h⟩ + ⟨U_W, G_W⟩ + ⟨U_b, G_b⟩ = g Σ R ∘ Z with Z = U_h Wᵀ + h U_Wᵀ + 1 U_bᵀ. Since
∂P_t = (diag P_t − P_t P_tᵀ) ∂Z⁰_t, with D = g P ∘ (Z − rowsum(P ∘ Z))/N,

    ∂S/∂h = D W + g R U_W,   ∂S/∂W = Dᵀ h + g Rᵀ U_h,   ∂S/∂b = Dᵀ 1,   ∂S/∂g = Σ R ∘ Z.

Autograd through log-softmax keeps about ten arrays of the size of the logits, (N, V). Here there is
one, P, while it fits `keep_bytes`, and none beyond that (the logits are then computed again, one
more product with the head); everything else lives in one chunk of rows. A head without gradient
costs two products with W a Hessian-vector product, as many as its share of a gradient.

The same P gives the Gauss-Newton product: J-tangents (T_h, T_W, T_b) map to cotangents (D W, Dᵀ h,
Dᵀ 1) with Z built from the tangents (`gauss_newton_head`).

Products with W run in the model's dtype, as the model's own head does; logits and P are at least
float32, the sum of the losses is float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

KEEP_BYTES = 2**30
CHUNK_BYTES = 2**26

Tensor = torch.Tensor
Maybe = torch.Tensor | None


@dataclass(frozen=True)
class Memory:
    """How much the head may hold: `keep_bytes` for P, `chunk_bytes` for one chunk of logits."""

    keep_bytes: int = KEEP_BYTES
    chunk_bytes: int = CHUNK_BYTES


def head_cross_entropy(
    h: Tensor, weight: Tensor, bias: Maybe, targets: Tensor, memory: Memory | None = None
) -> Tensor:
    """Return the mean cross-entropy of `targets` under softmax(h Wᵀ + b), a float64 scalar.

    Twice differentiable in `h`, `weight` and `bias`.

    Args:
        h: Rows, (N, d).
        weight: Head, (V, d).
        bias: (V,) or None.
        targets: (N,) int64.
        memory: What may be held; None is `Memory()`.
    """
    loss: Tensor = _apply(_MeanLoss, h, weight, bias, targets, memory or Memory())
    return loss


def _apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    return function.apply(*args)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _chunks(rows: int, weight: Tensor, memory: Memory) -> Iterator[slice]:
    row_bytes = weight.shape[0] * _wide(weight.dtype).itemsize
    step = max(16, memory.chunk_bytes // row_bytes)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _logits(h: Tensor, weight: Tensor, bias: Maybe) -> Tensor:
    z = h @ weight.T if bias is None else torch.addmm(bias, h, weight.T)
    return z.to(_wide(z.dtype))


class Probabilities:
    """P = softmax(h Wᵀ + b), (N, V): held whole where that fits, else by chunks from the norms."""

    def __init__(self, h: Tensor, weight: Tensor, bias: Maybe, targets: Tensor, memory: Memory):
        rows, wide = h.shape[0], _wide(h.dtype)
        self.memory, self.targets, self.rows = memory, targets, rows
        keep = rows * weight.shape[0] * wide.itemsize <= memory.keep_bytes
        self.kept = h.new_empty(rows, weight.shape[0], dtype=wide) if keep else None
        self.norms = h.new_empty(rows, 1, dtype=wide)
        total = h.new_zeros((), dtype=torch.float64)
        for part in _chunks(rows, weight, memory):
            z = _logits(h[part], weight, bias)
            norm = torch.logsumexp(z, 1, keepdim=True)
            total += (norm - z.gather(1, targets[part, None])).sum(dtype=torch.float64)
            self.norms[part] = norm
            if self.kept is not None:
                torch.exp(z.sub_(norm), out=self.kept[part])
        self.loss = total / rows

    def parts(self, h: Tensor, weight: Tensor, bias: Maybe) -> Iterator[tuple[slice, Tensor]]:
        """Yield each chunk of rows with its probabilities, (chunk, V); not to be written to."""
        for part in _chunks(self.rows, weight, self.memory):
            if self.kept is not None:
                yield part, self.kept[part]
            else:
                yield part, _logits(h[part], weight, bias).sub_(self.norms[part]).exp_()

    def residual(self, part: slice, P: Tensor) -> Tensor:
        """Return N R = P − Y on a chunk, as a new tensor."""
        R = P.clone()
        targets = self.targets[part, None]
        return R.scatter_add_(1, targets, R.new_full((1, 1), -1.0).expand_as(targets))


class _Sum:
    """A sum that starts as its first term: under vmap a term may have a hidden batch dimension."""

    def __init__(self) -> None:
        self.value: Maybe = None

    def add(self, term: Tensor) -> None:
        self.value = term if self.value is None else self.value + term


class _MeanLoss(torch.autograd.Function):
    """L(h, W, b)."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Maybe, targets: Tensor, memory: Memory
    ) -> Tensor:
        P = Probabilities(h, weight, bias, targets, memory)
        ctx.save_for_backward(h, weight, bias)
        ctx.P = P
        return P.loss.clone()  # returning P.loss would tie ctx -> P -> loss -> ctx into a cycle

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        h, weight, bias = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        gradients = _apply(_Gradient, cotangents[0], h, weight, bias, ctx.P, needs)
        return *gradients, None, None


class _Gradient(torch.autograd.Function):
    """(G_h, G_W, G_b) as a function of (g, h, W, b); entries that nobody needs are None."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        h: Tensor,
        weight: Tensor,
        bias: Maybe,
        P: Probabilities,
        needs: tuple[bool, bool, bool],
    ) -> tuple[Maybe, Maybe, Maybe]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, h, weight, bias)
        ctx.P = P
        scale = (g / P.rows).to(P.norms.dtype)
        G_h, G_W, G_b = [], _Sum(), _Sum()
        for part, probabilities in P.parts(h, weight, bias):
            R = P.residual(part, probabilities).mul_(scale)
            if needs[2]:
                G_b.add(R.sum(0).to(h.dtype))
            R = R.to(h.dtype)
            if needs[0]:
                G_h.append(R @ weight)
            if needs[1]:
                G_W.add(R.T @ h[part])
        return (torch.cat(G_h) if G_h else None), G_W.value, G_b.value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Maybe) -> Any:
        g, h, weight, bias = ctx.saved_tensors
        P: Probabilities = ctx.P
        U_h, U_W, U_b = cotangents
        if U_h is None and U_W is None and U_b is None:
            return None, None, None, None, None, None
        need_g, need_h, need_W, need_b = ctx.needs_input_grad[:4]
        scale = (g / P.rows).to(P.norms.dtype)
        S_g, S_h, S_W, S_b = _Sum(), [], _Sum(), _Sum()
        for part, probabilities in P.parts(h, weight, bias):
            Z = _tangent_logits(part, h, weight, U_h, U_W, U_b).to(probabilities.dtype)
            D = probabilities * (Z - (probabilities * Z).sum(-1, keepdim=True)) * scale
            if need_b:
                S_b.add(D.sum(0).to(h.dtype))
            D = D.to(h.dtype)
            if need_h:
                S_h.append(D @ weight)
            if need_W:
                S_W.add(D.T @ h[part])
            if not (need_g or U_W is not None or (need_W and U_h is not None)):
                continue
            R = P.residual(part, probabilities)
            if need_g:
                S_g.add((R * Z).sum(dtype=torch.float64) / P.rows)
            R = R.mul_(scale).to(h.dtype)
            if need_h and U_W is not None:
                S_h[-1] = S_h[-1] + R @ U_W
            if need_W and U_h is not None:
                S_W.add(R.T @ U_h[part])
        return S_g.value, (torch.cat(S_h) if S_h else None), S_W.value, S_b.value, None, None


def _tangent_logits(
    part: slice, h: Tensor, weight: Tensor, T_h: Maybe, T_W: Maybe, T_b: Maybe
) -> Tensor:
    """Return T_h Wᵀ + h T_Wᵀ + 1 T_bᵀ on a chunk of rows; at least one tangent is not None."""
    Z = _Sum()
    if T_h is not None:
        Z.add(T_h[part] @ weight.T)
    if T_W is not None:
        Z.add(h[part] @ T_W.T)
    if T_b is not None:
        Z.add(T_b.expand(h[part].shape[0], -1))
    assert Z.value is not None
    return Z.value


def gauss_newton_head(
    P: Probabilities,
    h: Tensor,
    weight: Tensor,
    bias: Maybe,
    tangents: tuple[Maybe, Maybe, Maybe],
) -> tuple[Maybe, Maybe, Maybe]:
    """Return (D W, Dᵀ h, Dᵀ 1): the mean loss's Hessian in the logits between two Jacobians.

    Args:
        P: Probabilities of (h, weight, bias).
        h: Rows, (N, d).
        weight: Head, (V, d).
        bias: (V,) or None.
        tangents: (T_h, T_W, T_b), each None where it is zero; an output for W or b is computed
            only where its tangent is given.
    """
    T_h, T_W, T_b = tangents
    if T_h is None and T_W is None and T_b is None:
        return None, None, None
    C_h, C_W, C_b = [], _Sum(), _Sum()
    for part, probabilities in P.parts(h, weight, bias):
        Z = _tangent_logits(part, h, weight, T_h, T_W, T_b).to(probabilities.dtype)
        D = probabilities * (Z - (probabilities * Z).sum(-1, keepdim=True)) / P.rows
        if T_b is not None:
            C_b.add(D.sum(0).to(h.dtype))
        D = D.to(h.dtype)
        C_h.append(D @ weight)
        if T_W is not None:
            C_W.add(D.T @ h[part])
    return torch.cat(C_h), C_W.value, C_b.value
