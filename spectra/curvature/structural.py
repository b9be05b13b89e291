"""Zeros that a Hessian has because of few tokens: a lower bound on their share.

A linear layer y = W x sees inputs X (T, in) and output gradients Δ (T, out), ∂L/∂W = Δᵀ X. Take
V = u wᵀ with X w = 0 and Δ u = 0. Moving W along V changes no output (V x = u (w·x) = 0), hence
nothing downstream and not Δ; it changes the gradient that goes upstream, Δ W, by Δ u wᵀ = 0. So no
component of the joint gradient moves: H V = 0, for every selection. Layers are different
coordinates, so the joint Hessian has at least

    Σ_layers (out − rank Δ)(in − rank X)

zeros. (X w = 0 alone does not do: layers before move X. It does for the Gauss-Newton matrix, whose
product only asks that no output moves: there out · (in − rank X).) Rows of an embedding that were
never looked up are zeros likewise, while nothing else uses the table.

Under a clip mask M (or a projector J) the matrix is M H M. The z zeros above span a subspace, and a
part of it of dimension at least z − m vanishes on the m masked coordinates (directions) of the
layer: there M H M V = 0 as well. So each layer counts max(0, z − m) zeros beside its masked
coordinates, and both counts add.
A proximal penalty moves the zeros of quantized weights to γ: there none are counted.

Where a layer quantizes its inputs, X is what it multiplies the weight with.

The bound must not be too high, so whatever is not certain counts as no zero: ranks are taken as too
large rather than too small; a weight counts only if its gradient is Δᵀ X of the calls seen (a
weight also used elsewhere, as a tied head, is not); T is every position up to the last one that
counts, as masked positions before it are inputs still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from spectra.curvature.family import Curvature
from spectra.curvature.loss import LanguageModelLoss, Loss
from spectra.curvature.operator import CurvatureOperator
from spectra.curvature.params import is_linear, is_transposed
from spectra.curvature.point import Point

_RANK_LIMIT = 1024  # beyond it a rank is taken as full: the bound stays one, the cost stays small
_ENOUGH = 2  # times min(in, out) tokens, and a layer counts as having full rank
_CERTAIN = 1e-10  # a Gram matrix this far from singular has full rank beyond doubt
_SAME = {torch.float64: 1e-9, torch.float32: 1e-4}  # relative; what equal numbers may differ by
_SAME_LOW = 5e-2


@dataclass(frozen=True)
class LayerZeros:
    """The zeros of one weight.

    Attributes:
        name: The parameter.
        size: Its number of coordinates.
        zeros: At least so many zero eigenvalues belong to it, masked coordinates aside.
        shape: (out, in) of a layer, (rows, width) of an embedding.
        ranks: (rank Δ, rank X), each at most min(T, size); (rows seen, width) of an embedding.
    """

    name: str
    size: int
    zeros: int
    shape: tuple[int, int]
    ranks: tuple[int, int]


@dataclass(frozen=True)
class StructuralZeros:
    """A lower bound on the zero eigenvalues of one operator, masked coordinates aside.

    Attributes:
        zeros: At least so many.
        dim: Of so many.
        tokens: Terms in the operator's mean.
        few_tokens: Whether that is fewer than min(in, out) of some selected layer.
        layers: What each weight that could be judged contributes.
    """

    zeros: int
    dim: int
    tokens: int
    few_tokens: bool
    layers: tuple[LayerZeros, ...]

    @property
    def fraction(self) -> float:
        """`structural_zero_fraction`: zeros / dim."""
        return self.zeros / self.dim


@dataclass
class _Seen:
    """What the modules of one selected weight met, over all batches."""

    modules: list[nn.Module]
    inputs: list[torch.Tensor] = field(default_factory=list)
    gradients: list[torch.Tensor] = field(default_factory=list)
    rows: torch.Tensor | None = None
    judged: bool = True

    @property
    def is_embedding(self) -> bool:
        return isinstance(self.modules[0], nn.Embedding)


class _Inputs(TorchFunctionMode):
    """Notes what each selected weight is multiplied with: a layer may quantize its input first."""

    def __init__(self, leaves: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._index = {id(leaf): index for index, leaf in enumerate(leaves)}
        self.last: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        if func is nn.functional.linear and len(args) > 1:
            for weight in (args[1], args[1]._base):
                if id(weight) in self._index:
                    self.last[self._index[id(weight)]] = args[0].detach()
        return func(*args, **(kwargs or {}))


def structural_zeros(operator: Curvature | CurvatureOperator) -> StructuralZeros:
    """Return a lower bound on the zero eigenvalues of `operator`, at one gradient a batch.

    Args:
        operator: A Hessian or Gauss-Newton operator; a family stands for its mean operator.
    """
    single = operator.mean if isinstance(operator, Curvature) else operator
    seen = _modules(single)
    loss = _observable(single, seen)
    terms = 0.0
    for piece in single.pieces:
        terms += _observe(single, loss, piece, seen)
    names = single.selection.names
    layers = tuple(
        _beside_the_mask(
            _judge(names[index], one, gauss_newton=single.kind == "GGN"), single.point, index
        )
        for index, one in seen.items()
    )
    narrow = [
        min(layer.shape) for layer in layers if not seen[names.index(layer.name)].is_embedding
    ]
    return StructuralZeros(
        zeros=sum(layer.zeros for layer in layers),
        dim=single.dim,
        tokens=round(terms),
        few_tokens=any(terms < size for size in narrow),
        layers=layers,
    )


def _beside_the_mask(layer: LayerZeros, point: Point, index: int) -> LayerZeros:
    surface = point.surface
    shifted = surface.proximal and surface.quantized[index]
    return replace(layer, zeros=0 if shifted else max(0, layer.zeros - surface.masked[index]))


def _modules(operator: CurvatureOperator) -> dict[int, _Seen]:
    """Return the linear layers or embeddings that own each selected weight, by its index."""
    model, found = operator.point.model, {}
    for index, aliases in enumerate(operator.selection.aliases):
        owners = [name.rpartition(".") for name in aliases]
        modules = [model.get_submodule(path) for path, _, _ in owners]
        all_weights = all(attribute == "weight" for _, _, attribute in owners)
        if all_weights and (
            all(map(is_linear, modules)) or all(isinstance(m, nn.Embedding) for m in modules)
        ):
            found[index] = _Seen(modules)
    return found


def _observable(operator: CurvatureOperator, seen: dict[int, _Seen]) -> Loss:
    """Return the operator's loss in a form that calls the modules and leaves idle positions out."""
    loss = operator.loss_function
    if not isinstance(loss, LanguageModelLoss):
        return loss
    head: Any = operator.point.model.get_output_embeddings()  # type: ignore[operator]
    if any(head in one.modules for one in seen.values()):
        loss = replace(loss, split=False)
    short, point = replace(loss, shorten=True), operator.point
    for piece in operator.pieces:
        whole, cut = (
            float(point.call(one, point.leaves(), piece, grad=False)[0]) for one in (loss, short)
        )
        if not abs(whole - cut) <= _same(operator.dtype) * abs(whole):
            return loss
    return short


def _observe(operator: CurvatureOperator, loss: Loss, batch: Any, seen: dict[int, _Seen]) -> float:
    """Run one batch forward and backward, add what the modules met; return its count."""
    leaves = operator.point.leaves()
    inputs = _Inputs(leaves)
    calls: list[tuple[int, nn.Module, torch.Tensor, torch.Tensor]] = []

    def record(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            calls.append((index, module, inputs.last.pop(index, args[0]).detach(), output))

        return hook

    handles = [
        module.register_forward_hook(record(index))
        for index, one in seen.items()
        for module in dict.fromkeys(one.modules)
    ]
    try:
        with inputs:
            mean, count = operator.point.call(loss, leaves, batch)
    finally:
        for handle in handles:
            handle.remove()
    outputs = [output for *_, output in calls]
    found = torch.autograd.grad(mean, [*leaves, *outputs], allow_unused=True)
    slopes = found[: len(leaves)]
    met: dict[int, list[tuple[nn.Module, torch.Tensor, torch.Tensor]]] = {i: [] for i in seen}
    for (index, module, x, output), delta in zip(calls, found[len(leaves) :], strict=True):
        met[index].append((module, x, torch.zeros_like(output) if delta is None else delta))
    for index, one in seen.items():
        slope = slopes[index]
        _add(one, met[index], torch.zeros_like(leaves[index]) if slope is None else slope)
    return count


def _add(
    one: _Seen, met: Sequence[tuple[nn.Module, torch.Tensor, torch.Tensor]], slope: torch.Tensor
) -> None:
    if not one.judged:
        return
    if one.is_embedding:
        looked_up = torch.zeros(len(slope), dtype=torch.bool, device=slope.device)
        for _, ids, _ in met:
            looked_up[ids.reshape(-1)] = True
        one.judged = not bool(slope[~looked_up].any())
        one.rows = looked_up if one.rows is None else one.rows | looked_up
        return
    total = torch.zeros_like(slope)
    for module, x, delta in met:
        X, D = x.flatten(0, -2).to(slope.dtype), delta.flatten(0, -2)
        total += X.T @ D if is_transposed(module) else D.T @ X
        one.inputs.append(X)
        one.gradients.append(D)
    one.judged = bool((total - slope).norm() <= _same(slope.dtype) * slope.norm())
    if not one.judged or sum(map(len, one.inputs)) >= _ENOUGH * min(slope.shape):
        one.inputs, one.gradients, one.judged = [], [], False


def _same(dtype: torch.dtype) -> float:
    return _SAME.get(dtype, _SAME_LOW)


def _judge(name: str, one: _Seen, *, gauss_newton: bool) -> LayerZeros:
    weight: Any = one.modules[0].weight
    if one.is_embedding:
        rows, width = weight.shape
        used = int(one.rows.sum()) if one.judged and one.rows is not None else rows
        return LayerZeros(name, rows * width, (rows - used) * width, (rows, width), (used, width))
    size_in, size_out = weight.shape if is_transposed(one.modules[0]) else weight.shape[::-1]
    rank_x, rank_d = size_in, size_out
    if one.judged:
        rank_x = _rank(one.inputs, size_in)
        # Where the inputs leave no room, the other rank is not needed.
        if rank_x < size_in:
            rank_d = _rank(one.gradients, size_out)
    free_out = size_out if gauss_newton else size_out - rank_d
    zeros = free_out * (size_in - rank_x)
    return LayerZeros(name, size_in * size_out, zeros, (size_out, size_in), (rank_d, rank_x))


def _rank(parts: Sequence[torch.Tensor], width: int) -> int:
    """Return the rank of the stacked rows, (T, width), or an upper bound on it."""
    if not parts:
        return 0
    rows = torch.cat(list(parts)).double()
    norms = rows.norm(dim=1)
    rows = rows[norms > 0] / norms[norms > 0, None]
    full = min(len(rows), width)
    if full == 0 or full > _RANK_LIMIT:
        return full
    gram = rows @ rows.T if len(rows) <= width else rows.T @ rows
    spread = torch.linalg.eigvalsh(gram)
    if spread[0] > _CERTAIN * spread[-1]:
        return full
    values = torch.linalg.svdvals(rows)
    # numpy's tolerance for one rounding of the entries; a value above it counts.
    tolerance = max(rows.shape) * torch.finfo(torch.float64).eps * values[0]
    return int((values > tolerance).sum())
