"""The point at which a model is differentiated: values for its parameters, never the model's own.

The user's model is not touched. A forward runs through `torch.func.functional_call` with a value
for every parameter and buffer: fresh leaves for the selected ones, detached values for the rest, so
that nothing of the embedding or the head is differentiated unless it was selected. A tied parameter
is one leaf under all its names. Values share storage with the model's parameters unless another
dtype was asked for; then they are cast once and shared by everything that uses the point.

`Point.value` is the one place that says at which value a parameter is evaluated: its own, or Q(W)
for a quantized weight on the surfaces `ste` and `quantized` (see `surface`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from spectra.curvature.attention import choose_attention, evaluation
from spectra.curvature.params import Selection
from spectra.curvature.precision import check_matmul_precision, working_precision
from spectra.curvature.surface import Surface
from spectra.errors import UsageError

T = TypeVar("T")


class _Caller(nn.Module):
    """Gives `functional_call` a forward that runs any function of the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return function(self.model, *args)


class Point:
    """A model, the selected parameters, and the values at which it is evaluated.

    Attributes:
        model: The caller's module, left as it is.
        selection: The parameters that are differentiated.
        dtype: dtype of the evaluation and of the flat vectors.
        surface: What stands in the place of quantized weights, and the mask.
        device: The one device of all parameters.
        attention: Attention implementation set during a forward, None to leave it.
        matmul_precision: Of float32 matrix products: "highest", "high" or "medium".
        notes: What a reader should know about the evaluation.

    Raises:
        UsageError: If parameters are offloaded or on several devices, or the selected ones have
            several dtypes and none was asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        selection: Selection,
        dtype: torch.dtype | None = None,
        *,
        surface: Surface | None = None,
        matmul_precision: str = "highest",
    ) -> None:
        self.model = model
        self.matmul_precision = check_matmul_precision(matmul_precision)
        self.selection = selection
        self.device = _one_device(model)
        self.surface = surface or Surface(model, selection)
        self.dtype = dtype or _one_dtype(model, selection)
        self.attention, note = choose_attention(model)
        self.notes: list[str] = [*selection.notes, *([note] if note else [])]
        self._cast: dict[int, tuple[torch.Tensor, int, torch.Tensor]] = {}

    def with_dtype(self, dtype: torch.dtype) -> Point:
        """Return the same point, with the same Q(W) and mask, evaluated in another dtype."""
        other = Point(
            self.model,
            self.selection,
            dtype,
            surface=self.surface,
            matmul_precision=self.matmul_precision,
        )
        other.attention = self.attention
        return other

    def value(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the value at which the parameter or buffer `tensor` is evaluated, detached."""
        tensor = self.surface.value(tensor)
        if not tensor.is_floating_point() or tensor.dtype == self.dtype:
            return tensor.detach()
        # The tensor is held so that its id stays its own; its version tells of changes in place.
        _, version, cast = self._cast.get(id(tensor), (None, None, None))
        if cast is None or version != tensor._version:
            cast = tensor.detach().to(self.dtype)
            self._cast[id(tensor)] = (tensor, tensor._version, cast)
        return cast

    def leaves(self) -> tuple[torch.Tensor, ...]:
        """Return a fresh leaf for each selected parameter, in the order of the selection."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return tuple(
            self.value(parameters[name]).detach().requires_grad_() for name in self.selection.names
        )

    def vector(self) -> torch.Tensor:
        """Return the selected parameters as one flat vector, (dim,)."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return torch.cat([self.value(parameters[n]).reshape(-1) for n in self.selection.names])

    def call(
        self,
        function: Callable[..., T],
        leaves: tuple[torch.Tensor, ...],
        *args: Any,
        grad: bool = True,
        bypass: str | None = None,
    ) -> T:
        """Return `function(model, *args)` with `leaves` in the place of the selected parameters.

        Args:
            function: Called with the model, whose parameters have the point's values meanwhile.
            leaves: One tensor for each selected parameter, from `leaves()`.
            args: Further arguments.
            grad: Whether a graph is recorded, whatever the caller's gradient mode.
            bypass: What of the quantizers is bypassed, "weights" or "all"; None as the surface has
                it.
        """
        values = {
            f"model.{name}": self.value(tensor)
            for named in (self.model.named_parameters, self.model.named_buffers)
            for name, tensor in named(remove_duplicate=False)
        }
        for aliases, leaf in zip(self.selection.aliases, leaves, strict=True):
            values.update({f"model.{name}": leaf for name in aliases})
        caller = _Caller(self.model)
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(grad),
            evaluation(self.model, self.attention),
            self.surface.bypassed(bypass),
            working_precision(self.dtype),
        ):
            result: T = torch.func.functional_call(
                caller, values, (function, args), tie_weights=False
            )
        return result


def _one_device(model: nn.Module) -> torch.device:
    devices = {tensor.device for tensor in model.parameters()}
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    if any(d.type == "meta" for d in devices) or any(getattr(h, "offload", False) for h in hooks):
        raise UsageError(
            f"{type(model).__name__} is offloaded by accelerate (weights on the meta device); load "
            "it whole on one device, without device_map."
        )
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise UsageError(
            f"the parameters are on {len(devices)} devices ({names}); load the model on one "
            "device, without device_map."
        )
    return devices.pop()


def _one_dtype(model: nn.Module, selection: Selection) -> torch.dtype:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    dtypes = {parameters[name].dtype for name in selection.names}
    if len(dtypes) > 1:
        raise UsageError(
            f"the selected parameters are stored as {' and '.join(sorted(map(str, dtypes)))}; a "
            "flat vector has one type: pass dtype='float32'."
        )
    return dtypes.pop()
