"""The transformer blocks of a model: what goes in, how each is called, what comes out.

All batches are of one shape, without padding, so a block is called alike in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from spectra.errors import UsageError
from spectra.quant import QuantLinear, quant_layers

Call = tuple[tuple[Any, ...], dict[str, Any]]


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a causal language model, in their order.

    Raises:
        UsageError: If they are not one list of modules that hold all quantized layers.
    """
    base = getattr(model, "base_model", model)
    lists = [module for module in base.children() if isinstance(module, nn.ModuleList)]
    inside = sum(len(list(layers_of(block))) for block in lists[0]) if lists else 0
    if len(lists) != 1 or inside != len(quant_layers(model)):
        raise UsageError(
            f"{type(model).__name__} has no single list of transformer blocks that holds all its "
            "quantized layers, which recipe='block-ap' goes through; pass --recipe baseline."
        )
    return list(lists[0])


class Runner:
    """Runs one block on batches of hidden states."""

    def __init__(self, block: nn.Module, call: Call, size: int, bf16: bool) -> None:
        self.block, self.size, self.bf16 = block, size, bf16
        self.rest, self.keywords = call
        self.device = next(block.parameters()).device

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the outputs for one batch, (batch, tokens, width)."""
        cast: AbstractContextManager[Any] = nullcontext()
        if self.bf16:
            cast = torch.autocast(self.device.type, dtype=torch.bfloat16)
        with cast:
            out = self.block(hidden.to(self.device), *self.rest, **self.keywords)
        first: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return first

    @torch.no_grad()
    def all(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the outputs for all of it, on the CPU."""
        return torch.cat([self(piece).float().cpu() for piece in hidden.split(self.size)])

    def error(self, hidden: torch.Tensor, target: torch.Tensor) -> float:
        """Return the mean square error over all of it."""
        return float((self.all(hidden) - target).double().square().mean())


def layers_of(block: nn.Module) -> Iterator[QuantLinear]:
    """Return the quantized layers of a block."""
    return (module for module in block.modules() if isinstance(module, QuantLinear))


class _Reached(Exception):  # noqa: N818
    """The first block was reached, and no more is wanted."""


@torch.no_grad()
def first_inputs(
    model: nn.Module, blocks: list[nn.Module], ids: torch.Tensor, size: int
) -> tuple[torch.Tensor, list[Call]]:
    """Return the hidden states before the first block, and how the model calls each block."""
    device = next(model.parameters()).device
    calls: list[Call] = []
    found: list[torch.Tensor] = []

    def remember(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        kept = {name: value for name, value in keywords.items() if name != "hidden_states"}
        calls.append((args[1:], kept))

    def take(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        found.append((args[0] if args else keywords["hidden_states"]).float().cpu())
        raise _Reached

    batches = [batch.to(device) for batch in ids.split(size)]
    with _hooked(blocks, remember):
        model(input_ids=batches[0], use_cache=False)
    with _hooked(blocks[:1], take):
        for batch in batches:
            try:
                model(input_ids=batch, use_cache=False)
            except _Reached:
                continue
    return torch.cat(found), calls


@contextmanager
def _hooked(blocks: list[nn.Module], hook: Any) -> Iterator[None]:
    handles = [block.register_forward_pre_hook(hook, with_kwargs=True) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
