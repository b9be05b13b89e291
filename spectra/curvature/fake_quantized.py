"""Layers with fake-quantized weights, of whatever class: what makes one, and those of a model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeGuard, cast

import torch
from torch import nn

from spectra.errors import UsageError

_METHODS = ("quantized_weight", "mask", "bypassed")

Map = Callable[[torch.Tensor], torch.Tensor]


class FakeQuantized(Protocol):
    """A layer with fake-quantized weights, of whatever class: its methods are what counts.

    Any module that has these is recognised, so a QAT layer of one's own needs no base class. Its
    parameters other than `weight` and `bias` are taken to be the quantizer's own. One more method
    is optional: `rotation()`, the orthonormal maps to the basis of the mask and back, each from
    (..., *weight.shape) to the same shape, or None.
    """

    weight: nn.Parameter

    def quantized_weight(self) -> torch.Tensor:
        """Return Q(W), the shape of `weight`, as the forward in evaluation mode uses it."""

    def mask(self) -> torch.Tensor:
        """Return where the estimator passes the gradient, boolean, the shape of `weight`.

        In the basis of `rotation()`, where there is one.
        """

    def bypassed(self, what: str) -> AbstractContextManager[None]:
        """Use `weight` as it is ("weights"), and inputs and outputs as they are too ("all")."""


def is_fake_quantized(module: nn.Module) -> TypeGuard[FakeQuantized]:
    """Whether `module` has the methods of `FakeQuantized`."""
    return all(callable(getattr(module, name, None)) for name in _METHODS)


def fake_quantized(model: nn.Module) -> dict[str, FakeQuantized]:
    """Return the fake-quantized layers of `model` by name.

    Raises:
        UsageError: If one has no plain parameter `weight`.
    """
    found: dict[str, FakeQuantized] = {}
    for name, module in model.named_modules():
        if is_fake_quantized(module):
            if module._parameters.get("weight") is None:  # type: ignore[attr-defined]
                raise UsageError(
                    f"the fake-quantized layer {name} has no parameter 'weight'; its latent "
                    "weights must be a plain parameter of that name."
                )
            found[name] = module
    return found


def quantizer_parameters(model: nn.Module) -> set[int]:
    """Return the ids of what belongs to the quantizers: scales, standard deviations of noise."""
    own: set[int] = set()
    for layer in fake_quantized(model).values():
        for name, parameter in cast(nn.Module, layer).named_parameters():
            if name not in ("weight", "bias"):
                own.add(id(parameter))
    return own


def rotation_of(layer: FakeQuantized) -> tuple[Map, Map] | None:
    """Return the maps to the basis of the layer's mask and back; None where that is its own."""
    rotation = getattr(layer, "rotation", None)
    maps: tuple[Map, Map] | None = rotation() if callable(rotation) else None
    return maps
