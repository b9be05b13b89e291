"""A language model cut at its transformer blocks: x_0 -> block 1 -> x_1 -> ... -> x_L -> loss.

Whatever a block is called with beside its hidden state (positions, masks) must not depend on the
selected parameters, and a block must be given what the block before returned. Then the loss is a
chain, and the derivatives of one block after another give those of the whole. Both conditions are
checked while the chain is recorded; a model that breaks one is refused here and differentiated
whole instead.

Blocks before the first selected parameter are not differentiated and are no part of the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spectra.curvature.params import block_lists, is_language_model
from spectra.errors import SpectraError

Tensor = torch.Tensor
_HIDDEN = "hidden_states"


class NotAChainError(SpectraError):
    """A model is no chain of blocks."""


@dataclass
class Stage:
    """One call of one block.

    Attributes:
        block: The block.
        args: What it was called with, the hidden state left out.
        kwargs: Likewise.
        keyword: Whether the hidden state came as a keyword.
        rest: What it returned behind the hidden state; None where that came alone.
        x: The hidden state, detached.
        moving: Whether x depends on the selected parameters.
        out: What it returned, a leaf.
        slope: Gradient of the loss in `out`, once known.
    """

    block: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keyword: bool
    rest: tuple[Any, ...] | None
    x: Tensor
    moving: bool
    out: Tensor
    slope: Tensor | None = None

    def run(self, x: Tensor) -> Tensor:
        """Return the block's hidden state at `x`."""
        if self.keyword:
            return _first(self.block(*self.args, **self.kwargs, **{_HIDDEN: x}))
        return _first(self.block(x, *self.args, **self.kwargs))

    def input(self) -> Tensor:
        """Return x as a leaf, to be differentiated where it moves."""
        return self.x.detach().requires_grad_(self.moving)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks of a language model, in order; [] where none are known."""
    if not is_language_model(model):
        return []
    return [
        block
        for _, found in block_lists(model)
        if isinstance(found, nn.ModuleList)
        for block in found
    ]


class Recorder:
    """Runs every block without a graph and notes the chain of those that are differentiated."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.start: Tensor | None = None  # x_0, with the graph of the embedding

    def __call__(
        self, block: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Stand in for a block's forward."""
        x, keyword, args, kwargs = _taken(args, kwargs)
        moving = x.requires_grad
        others = [value for value in _tensors((args, kwargs)) if value.requires_grad]
        if others:
            raise NotAChainError(
                "a block is given more than its hidden state that depends on weights."
            )
        if moving and self.stages and x is not self.stages[-1].out:
            raise NotAChainError("the hidden state changes between two blocks.")
        with torch.no_grad():
            if keyword:
                result = forward(*args, **kwargs, **{_HIDDEN: x})
            else:
                result = forward(x, *args, **kwargs)
        active = moving or any(p.requires_grad for p in block.parameters())
        if not active:
            return result
        if isinstance(result, tuple) and any(t.is_floating_point() for t in _tensors(result[1:])):
            raise NotAChainError("a block returns more than its hidden state.")
        if not self.stages:
            self.start = x
        out = _first(result).detach().requires_grad_()
        rest = result[1:] if isinstance(result, tuple) else None
        self.stages.append(Stage(block, args, kwargs, keyword, rest, x.detach(), moving, out))
        return _with(out, rest)


class Skeleton:
    """Leaves the blocks out: the last one returns the recorded hidden state x_L, a fresh leaf."""

    def __init__(self, stages: list[Stage]) -> None:
        self.stages, self.end = stages, stages[-1].out.detach().requires_grad_()
        self.start: Tensor | None = None
        self._met = 0

    def __call__(
        self, block: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Stand in for a block's forward."""
        del forward
        x, *_ = _taken(args, kwargs)
        first = self.stages[0]
        if block is first.block and self.start is None:
            self.start = x
        if self.start is not None:
            self._met += 1
        return _with(self.end if self._met == len(self.stages) else x, first.rest)


class ReachedError(BaseException):  # no Exception: a model's own handlers must not swallow it
    """The first block was reached."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def stop_at(first: Stage) -> Callable[..., Any]:
    """Return a stand-in that raises `ReachedError` with the hidden state that `first` is given."""

    def stand_in(block: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        del forward
        x, *_ = _taken(args, kwargs)
        if block is first.block:
            raise ReachedError(x)
        return _with(x, first.rest)

    return stand_in


@contextmanager
def standing_in(blocks: list[nn.Module], stand_in: Callable[..., Any]) -> Iterator[None]:
    """Call `stand_in(block, forward, args, kwargs)` in the place of every block's forward."""

    def replaced(block: nn.Module) -> Callable[..., Any]:
        forward = block.forward

        def instead(*args: Any, **kwargs: Any) -> Any:
            return stand_in(block, forward, args, kwargs)

        return instead

    own = {id(block): block for block in blocks}.values()
    kept = [(block, block.__dict__.get("forward")) for block in own]
    try:
        for block in own:
            block.forward = replaced(block)
        yield
    finally:
        for block, before in kept:
            if before is None:
                block.__dict__.pop("forward", None)
            else:
                block.forward = before


def _taken(args: Any, kwargs: Any) -> tuple[Tensor, bool, tuple[Any, ...], dict[str, Any]]:
    if args and isinstance(args[0], torch.Tensor):
        return args[0], False, tuple(args[1:]), dict(kwargs)
    if isinstance(kwargs.get(_HIDDEN), torch.Tensor):
        rest = {key: value for key, value in kwargs.items() if key != _HIDDEN}
        return kwargs[_HIDDEN], True, tuple(args), rest
    raise NotAChainError("a block is not called with a hidden state.")


def _with(hidden: Tensor, rest: tuple[Any, ...] | None) -> Any:
    return hidden if rest is None else (hidden, *rest)


def _first(result: Any) -> Tensor:
    found = result[0] if isinstance(result, tuple) else result
    if not isinstance(found, torch.Tensor):
        raise NotAChainError("a block does not return a hidden state.")
    return found


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
