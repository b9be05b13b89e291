"""Hessian of a model whose weights are sharded: each block's are gathered while it is worked on.

The selected weights of a transformer block, laid out as one flat vector and padded to R equal
parts, are held in parts by R processes. A block f with hidden state x and weights W = gather(w) is
one node of the graph, and so is its backward:

    Block     (x, w)    -> y = f(x, gather(w))
    Backward  (x, w, λ) -> (f_xᵀ λ, scatter(f_Wᵀ λ))

where `gather` puts the parts together and `scatter` adds what the processes have and hands out the
parts. Both are linear and each is the other's adjoint, so the derivative of `Backward` takes the
cotangents (μ, v) to gather(v), differentiates ⟨f_xᵀλ, μ⟩ + ⟨f_Wᵀλ, gather(v)⟩ in x, W and λ, and
scatters the part in W. Each node rebuilds its block from x and gathers W anew; the graph that is
kept between products holds x, λ and w of every block and no whole weight. Each process works on
sequences of its own, so the sums in `scatter` are those over the data.

The order of gathers and scatters is that of a chain, the same on every process, because a node
needs what the one before it returns. All processes therefore make the same number of graphs; one
without data of its own repeats a sequence with weight zero.

Cost: 4 gradients a product (a kept graph 2, rebuilt whole 3; see the count below) and, for n
weights, 3 gathers of n, one of the vector, and 2 scatters of n. Of whole weights a process holds
those of one block at a time. What is not in a block (embedding, head, last norm) or not selected
(norms, biases) every process has for itself.

    up    Backward's derivative: rebuild 1/3, backward 2/3, second backward 2
    down  Block's derivative: rebuild 1/3, backward 2/3

*Why not FSDP2 or tensor parallelism.* `python -m spectra.benchmarks.engines` tries them on two
processes (torch 2.13). Under `fully_shard` hooks write the gradients outside the graph: they have
no second derivative. Never resharded, one can differentiate toward the gathered weights, exactly,
and all of them stay. Tensor parallelism by `parallelize_module` gives the gradient to 4e-16 and a
product that is wrong by a third, without a word. A DTensor that is redistributed on use is right to
3e-16, and the graph keeps every gathered weight for the second backward, whole. Checkpointing does
not change that: `torch.utils.checkpoint` may be differentiated twice, and the graph of the first
backward then holds what was recomputed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from spectra.curvature.attention import evaluation
from spectra.curvature.failures import refuse_truncated
from spectra.curvature.point import Point
from spectra.curvature.precision import working_precision
from spectra.curvature.shards import Shards
from spectra.errors import SpectraError

Tensor = torch.Tensor
_HIDDEN = "hidden_states"


class _Work:
    """One call of one block: everything but its hidden state and its sharded weights."""

    def __init__(
        self, model: GatheredModel, index: int, forward: Any, args: Any, kwargs: Any
    ) -> None:
        self.model, self.index, self.forward = model, index, forward
        self.args, self.kwargs = args, kwargs
        self.rest: tuple[Any, ...] | None = None
        self.checked = False

    def run(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Return the block's hidden state; must be called inside `GatheredModel.active`."""
        block = self.model.shards.blocks[self.index]
        values = {f"block.{k}": v for k, v in self.model.own_values(self.index).items()}
        named = zip(block.local_names, weights, strict=True)
        values |= {f"block.{name}": weight for name, weight in named}
        caller = _Caller(block.module, self.forward)
        args, kwargs = (x, *self.args), self.kwargs
        if _HIDDEN in self.kwargs:
            args, kwargs = self.args, self.kwargs | {_HIDDEN: x}
        point = self.model.point
        # Autograd calls this without the function modes of its caller, so they are entered here.
        with evaluation(block.module, point.attention), working_precision(point.dtype):
            result = torch.func.functional_call(caller, values, args, kwargs, tie_weights=False)
        if isinstance(result, tuple):
            self.rest = tuple(result[1:])
            result = result[0]
        if not isinstance(result, torch.Tensor):
            raise SpectraError(
                "a transformer block does not return a hidden state; its parameters "
                "cannot be sharded: pass --share vectors."
            )
        return result


class _Caller(nn.Module):
    def __init__(self, block: nn.Module, forward: Any) -> None:
        super().__init__()
        self.block, self.function = block, forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: _Work, x: Tensor, w: Tensor) -> Tensor:
        ctx.work = work
        ctx.save_for_backward(x, w)
        return work.run(x, work.model.shards.gather(work.index, w))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        x, w = ctx.saved_tensors
        along_x, along_w = _backward(ctx.work, x, w, slope, ctx.needs_input_grad[1])
        return None, along_x if ctx.needs_input_grad[1] else None, along_w


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, work: _Work, x: Tensor, w: Tensor, slope: Tensor, moving: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.work, ctx.moving = work, moving
        ctx.save_for_backward(x, w, slope)
        inputs, y = _rebuilt(work, x, w, moving)
        found = torch.autograd.grad(y, inputs, slope)
        whole = found[1:] if moving else found
        along_w = work.model.shards.scatter(work.index, whole)
        return (found[0] if moving else x.new_zeros(())), along_w

    @staticmethod
    def backward(ctx: Any, mu: Tensor, v: Tensor) -> Any:
        x, w, slope = ctx.saved_tensors
        work, shards = ctx.work, ctx.work.model.shards
        inputs, y = _rebuilt(work, x, w, ctx.moving)
        slope = slope.detach().requires_grad_()
        with torch.enable_grad():
            found = torch.autograd.grad(y, inputs, slope, create_graph=True)
        if not work.checked:
            refuse_truncated(found, "a block")
            work.checked = True
        along = shards.gather(work.index, v)
        cotangents = [mu, *along] if ctx.moving else list(along)
        second = torch.autograd.grad(
            found, (slope, *inputs), cotangents, allow_unused=True, materialize_grads=True
        )
        whole = second[2:] if ctx.moving else second[1:]
        along_w = shards.scatter(work.index, whole)
        return None, second[1] if ctx.moving else None, along_w, second[0], None


_block: Any = _Block.apply
_backward: Any = _Backward.apply


def _rebuilt(work: _Work, x: Tensor, w: Tensor, moving: bool) -> tuple[list[Tensor], Tensor]:
    """Return the block's inputs as leaves, and its hidden state in a graph of its own."""
    weights = [part.requires_grad_() for part in work.model.shards.gather(work.index, w)]
    x = x.detach().requires_grad_(moving)
    with torch.enable_grad():
        y = work.run(x, weights)
    return ([x, *weights] if moving else weights), y


class GatheredModel:
    """A model at a point, the weights of its blocks in shards.

    Attributes:
        point: Values of what is not sharded.
        shards: The weights that are.
    """

    def __init__(self, point: Point, shards: Shards) -> None:
        self.point, self.shards = point, shards

    def own_values(self, index: int) -> dict[str, Tensor]:
        """Return what block `index` has beside its sharded weights, by its own names."""
        block = self.shards.blocks[index]
        return {
            name: self.point.value(tensor)
            for named in (block.module.named_parameters, block.module.named_buffers)
            for name, tensor in named(remove_duplicate=False)
            if name not in block.local_names
        }

    @contextmanager
    def active(self) -> Iterator[None]:
        """Be in the state in which blocks are evaluated."""
        point = self.point
        with ExitStack() as stack:
            stack.enter_context(evaluation(point.model, point.attention))
            stack.enter_context(point.surface.bypassed())
            stack.enter_context(working_precision(point.dtype))
            yield

    def loss(self, function: Any, batch: Any, parts: Sequence[Tensor]) -> tuple[Tensor, float]:
        """Return mean and count of a batch's loss, in the graph of `parts`."""
        model, sharded = self.point.model, self.shards.names
        values = {
            f"block.{name}": self.point.value(tensor)
            for named in (model.named_parameters, model.named_buffers)
            for name, tensor in named(remove_duplicate=False)
            if name not in sharded
        }

        def run() -> tuple[Tensor, float]:
            found: tuple[Tensor, float] = function(model, batch)
            return found

        with torch.enable_grad(), self._standing_in(parts):
            result: tuple[Tensor, float] = torch.func.functional_call(
                _Caller(model, run), values, (), tie_weights=False
            )
        return result

    @contextmanager
    def _standing_in(self, parts: Sequence[Tensor]) -> Iterator[None]:
        """Call the nodes above in the place of the blocks' forwards."""
        modules = [block.module for block in self.shards.blocks]
        try:
            for index, module in enumerate(modules):
                module.forward = self._instead(index, module.forward, parts[index])
            yield
        finally:
            for module in modules:
                del module.forward  # the class has its own

    def _instead(self, index: int, forward: Any, part: Tensor) -> Any:
        def instead(*args: Any, **kwargs: Any) -> Any:
            x = kwargs.get(_HIDDEN)
            if x is None:
                x, *args = args  # type: ignore[assignment]
            work = _Work(self, index, forward, tuple(args), kwargs)
            y = _block(work, x, part)
            return y if work.rest is None else (y, *work.rest)

        return instead
