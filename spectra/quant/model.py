"""What one does to all quantized layers of a model at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import nn

from spectra.quant.noise import Noise, NoiseState
from spectra.quant.scaling import AmaxHistory
from spectra.quant.swap import quant_layers


class QuantizedWeight(NamedTuple):
    """A parameter as the forward sees it.

    Attributes:
        value: Q(W), the shape of the parameter, at least float32, without noise, detached.
        mask: Where the straight-through estimator passes the gradient, boolean, in the basis of
            the quantizer's grid.
    """

    value: torch.Tensor
    mask: torch.Tensor


@torch.no_grad()
def quantized_state(model: nn.Module) -> dict[str, QuantizedWeight]:
    """Return Q(W) and the clip mask of every quantized weight, by parameter name.

    The straight-through Hessian is M ∇²L(Q(W)) M: evaluate the model at these values under
    `bypassed(model)` and sandwich with the masks.
    """
    return {
        f"{name}.weight": QuantizedWeight(layer.quantized_weight().detach(), layer.mask())
        for name, layer in quant_layers(model).items()
    }


def reset_(model: nn.Module, fraction: float) -> None:
    """Move all quantized weights the `fraction` of the way toward the grid, in place.

    Scales stay. The number of resets that frozen noise depends on is the training loop's to set.
    """
    for layer in quant_layers(model).values():
        layer.reset_(fraction)


def set_noise(model: nn.Module, noise: Noise | None, state: NoiseState | None = None) -> NoiseState:
    """Give all quantized layers noise, or none.

    Args:
        model: A prepared model.
        noise: What is perturbed; None takes noise away.
        state: Where training stands; None keeps the model's own.

    Returns:
        The one state that all layers read, for the training loop to set.
    """
    layers = list(quant_layers(model).values())
    shared = layers[0].shared
    if state is not None:
        shared.noise = state
    for layer in layers:
        layer.shared = shared
        layer.set_noise(noise)
    return shared.noise


def amax_histories(model: nn.Module) -> dict[str, AmaxHistory]:
    """Return the amax histories of all quantized layers by name; empty without delayed scaling."""
    return {
        f"{name}.scaling.{kind}": history
        for name, layer in quant_layers(model).items()
        if layer.scaling is not None
        for kind, history in layer.scaling.histories().items()
    }


@torch.no_grad()
def advance_histories(
    model: nn.Module, reduce_: Callable[[torch.Tensor], object] | None = None
) -> None:
    """End an optimizer step for delayed scaling: its largest entries become the newest of history.

    Args:
        model: A prepared model.
        reduce_: Maximum over ranks, in place; called on one flat tensor, by every rank alike.
    """
    histories = list(amax_histories(model).values())
    if not histories:
        return
    if histories[0].scaling.window == "steps":
        flat = torch.stack([history.seen() for history in histories])
        if reduce_ is not None:
            reduce_(flat)
        for history, amax in zip(histories, flat, strict=True):
            history.advance(amax)
        return
    for history in histories:
        history.advance()
    if reduce_ is not None:  # entries are calls, as many on each rank
        flat = torch.cat([history.amax for history in histories])
        reduce_(flat)
        for history, entries in zip(histories, flat.split(len(histories[0].amax)), strict=True):
            history.amax.copy_(entries)


@contextmanager
def bypassed(model: nn.Module, what: str = "weights") -> Iterator[None]:
    """Run the model with its weights as they are, for the time of the context.

    Args:
        model: A prepared model.
        what: "weights" leaves activation quantizers on; "all" turns them off too.
    """
    with ExitStack() as stack:
        for layer in quant_layers(model).values():
            stack.enter_context(layer.bypassed(what))
        yield
