"""On which surface a model with fake-quantized layers is differentiated.

Let Q(W) be the quantized weights, M the 0/1 mask where the straight-through estimator passes the
gradient, and L the loss as a function of the weights that the layers multiply with:

    ste        M ∇²L(Q(W)) M    what double backward through the estimator gives
    quantized  ∇²L(Q(W))
    latent     ∇²L(W)           all quantizers off

Neither the estimator nor its autograd function is needed for this: the model runs with Q(W) in the
place of W and its weight quantizers bypassed, and the mask is multiplied outside autograd, before
and after a product. Q(W) and M are computed once, in the layer's own precision, and are the same
numbers in every precision that the operator is evaluated in. Quantizers of activations stay on
under `ste` and `quantized`: L is then itself differentiated straight through their rounding.

A masked coordinate is an exact eigenvalue 0 of `ste`; the share of them is counted, not sampled.

A quantizer may mask the coordinates of another orthonormal basis, R W (QuEST: a Hadamard rotation).
Then the estimator's derivative is the orthogonal projector J = Rᵀ M R, and in the place of M stands
J throughout: ste is J ∇²L(Q(W)) J, its probes live in the range of J, of dimension the ones in M,
and every other direction is an exact eigenvalue 0. See `projector`.

`proximal` γ adds γ/2 ‖W − Q(W)‖² to the loss, Q(W) held constant: γ on every quantized coordinate,
also on the masked ones, whose eigenvalue is then γ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from spectra.curvature.fake_quantized import FakeQuantized, fake_quantized, rotation_of
from spectra.curvature.projector import Projector, Rotation
from spectra.errors import UsageError

if TYPE_CHECKING:
    from spectra.curvature.params import Selection

SURFACES = ("ste", "quantized", "latent")


class Surface:
    """The values and the mask that a surface puts on a model's parameters; computed once.

    Changing latent weights or scales in place later is refused at the next forward.

    Attributes:
        name: "ste", "quantized" or "latent".
        proximal: γ.
        mask: Unmasked coordinates of the flat vector, (dim,) boolean; None where all are.
        projector: J, in the place of a product with `mask`; None where nothing is masked.
        masked: Masked coordinates of each selected parameter.
        quantized: Whether each selected parameter is a quantized weight.
    """

    def __init__(
        self,
        model: nn.Module,
        selection: Selection,
        name: str | None = None,
        *,
        proximal: float = 0.0,
    ) -> None:
        self._layers = fake_quantized(model)
        self.name = _check_name(name, bool(self._layers))
        parameters = dict(model.named_parameters(remove_duplicate=False))
        owners = {id(layer.weight): (n, layer) for n, layer in self._layers.items()}
        self.quantized = [id(parameters[name]) in owners for name in selection.names]
        self.proximal = self._check_proximal(proximal, selection)
        self._values: dict[int, torch.Tensor] = {}
        self.mask: torch.Tensor | None = None
        self.projector: Projector | None = None
        self.masked = [0] * len(selection.names)
        self._selection, self._rounds = selection, True
        self._taken = self._versions()
        if self.name != "latent":
            self._refuse_shared(model, parameters)
            self._values = {key: _quantized_weight(n, layer) for key, (n, layer) in owners.items()}
        if self.name == "ste":
            self._take_masks([owners.get(id(parameters[name])) for name in selection.names])

    @property
    def dim_unmasked(self) -> int:
        """Number of selected coordinates that are not masked."""
        return self._selection.dim - sum(self.masked)

    @property
    def keep(self) -> torch.Tensor | Projector | None:
        """What probes are confined to; outside of it the operator is zero.

        Coordinates, (dim,) boolean; the projector on a subspace, where a quantizer masks in another
        basis; None where nothing is masked, or a penalty moves the zeros.
        """
        if self.proximal or self.projector is None:
            return None
        return self.projector if self.projector.rotations else self.mask

    def value(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what stands in the place of the parameter or buffer `tensor`."""
        return self._values.get(id(tensor), tensor)

    @contextmanager
    def bypassed(self, what: str | None = None) -> Iterator[None]:
        """Run the layers as this surface asks ("weights" or "all" bypassed), or as told."""
        if self._values and self._versions() != self._taken:
            raise UsageError(
                "quantized weights or scales were changed in place after this operator was made; "
                "make it anew."
            )
        whole = self.name == "latent" or not self._rounds
        what = what or ("all" if whole else "weights")
        with ExitStack() as stack:
            for layer in self._layers.values():
                stack.enter_context(layer.bypassed(what))
            yield

    @contextmanager
    def activations_unrounded(self) -> Iterator[None]:
        """Leave inputs and outputs of the layers as they are, in what is evaluated meanwhile."""
        before, self._rounds = self._rounds, False
        try:
            yield
        finally:
            self._rounds = before

    def restrict(self, v: torch.Tensor) -> torch.Tensor:
        """Return J v, (..., dim), in most cases M v; `v` itself where nothing is masked."""
        return v if self.projector is None else self.projector(v)

    def restrict_(self, v: torch.Tensor) -> torch.Tensor:
        """Project `v`, (..., dim), in place: masked coordinates become zero."""
        return v if self.projector is None else self.projector.apply_(v)

    def shift_(self, result: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Add γ v on the quantized coordinates of `result`, both (..., dim), in place."""
        if self.proximal:
            pairs = zip(self._selection.slices(), self.quantized, strict=True)
            for place in (place for (_, place), there in pairs if there):
                result[..., place].add_(v[..., place], alpha=self.proximal)
        return result

    def _check_proximal(self, proximal: float, selection: Selection) -> float:
        if not check_penalty(proximal):
            return 0.0
        if self.name == "quantized":
            raise UsageError(
                f"proximal={proximal:g} penalizes the distance of the weights from Q(W), which is "
                "not defined where surface='quantized' differentiates in Q(W) itself; pass ste or "
                "latent."
            )
        if not any(self.quantized):
            raise UsageError(
                f"proximal={proximal:g} penalizes ‖W − Q(W)‖, and params={selection.params!r} "
                "selects no quantized weight, so Q is not defined there; select quantized weights, "
                "as params='linear' does, on a checkpoint with a quantizer."
            )
        return float(proximal)

    def _refuse_shared(self, model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        """Refuse a quantized weight that something else uses as it is, or with another scale."""
        places: dict[int, list[str]] = {}
        for name, parameter in parameters.items():
            places.setdefault(id(parameter), []).append(name)
        owners: dict[int, str] = {}
        for name, layer in self._layers.items():
            owner = owners.setdefault(id(layer.weight), name)
            names = places[id(layer.weight)]
            if owner != name or not all(_owns(layer, model, n) for n in names):
                raise UsageError(
                    f"the quantized weight of {name} is shared by {', '.join(names)} and would "
                    "need several values; untie them, or pass surface='latent'."
                )

    def _versions(self) -> list[int]:
        layers = (cast(nn.Module, layer) for layer in self._layers.values())
        tensors = (tensor for layer in layers for tensor in layer.parameters())
        return [0 if tensor.is_inference() else tensor._version for tensor in tensors]

    def _take_masks(self, owners: list[tuple[str, FakeQuantized] | None]) -> None:
        pieces, sizes = [], self._selection.sizes
        rotations: list[Rotation] = []
        for index, owner in enumerate(owners):
            if owner is None:
                piece = torch.ones(sizes[index], dtype=torch.bool, device=self._device)
            else:
                piece = _mask(*owner).reshape(-1)
                self.masked[index] = sizes[index] - int(piece.count_nonzero())
                rotations += self._rotation(index, owner[1]) if self.masked[index] else []
            pieces.append(piece)
        if not any(self.masked):
            return
        if self.dim_unmasked == 0 and not self.proximal:
            raise UsageError(
                f"all {self._selection.dim:,} selected weights are clipped by their quantizers, so "
                "that no gradient passes and the ste curvature is exactly zero; check the scales "
                "of the checkpoint, or pass surface='quantized'."
            )
        self.mask = torch.cat(pieces)
        self.projector = Projector(self.mask, tuple(rotations))

    def _rotation(self, index: int, layer: FakeQuantized) -> list[Rotation]:
        """Return where and how the weight of `layer` is rotated, nothing if it is not."""
        maps = rotation_of(layer)
        if maps is None:
            return []
        _, place = list(self._selection.slices())[index]
        return [Rotation(place, self._selection.shapes[index], *maps)]

    @property
    def _device(self) -> torch.device:
        return next(iter(self._layers.values())).weight.device


def check_penalty(proximal: float) -> float:
    """Return γ if it is a weight of a penalty.

    Raises:
        UsageError: If it is negative or not finite.
    """
    if not (math.isfinite(proximal) and proximal >= 0):
        raise UsageError(
            f"proximal={proximal!r} is no weight of a penalty; pass a number from 0, as 0.1."
        )
    return proximal


def _check_name(name: str | None, has_layers: bool) -> str:
    if name is None:
        return "ste" if has_layers else "latent"
    if name not in SURFACES:
        raise UsageError(f"surface={name!r} is not known; pass latent, ste or quantized.")
    if name != "latent" and not has_layers:
        raise UsageError(
            f"surface={name!r} needs quantized weights, and this checkpoint has no quantizer; "
            "pass surface='latent' or leave it out."
        )
    return name


def _owns(layer: FakeQuantized, model: nn.Module, name: str) -> bool:
    """Whether `name` is the weight of `layer`, under one of its names."""
    path, _, attribute = name.rpartition(".")
    return attribute == "weight" and model.get_submodule(path) is cast(nn.Module, layer)


def _quantized_weight(name: str, layer: FakeQuantized) -> torch.Tensor:
    with torch.no_grad():
        found = layer.quantized_weight().detach()
    return _fitting(name, "quantized_weight()", found, layer)


def _mask(name: str, layer: FakeQuantized) -> torch.Tensor:
    with torch.no_grad():
        found = layer.mask().detach()
    return _fitting(name, "mask()", found, layer).bool()


def _fitting(name: str, what: str, found: torch.Tensor, layer: FakeQuantized) -> torch.Tensor:
    if found.shape != layer.weight.shape:
        raise UsageError(
            f"{what} of {name} has shape {tuple(found.shape)}, its weight "
            f"{tuple(layer.weight.shape)}; the shapes must agree."
        )
    return found
