"""A linear layer whose weights are fake-quantized in the forward: y = x̂ Q(W)ᵀ + b.

`weight` is the latent W, stored as the plain layer stores it and under the same name; `scale` holds
one learned scale for each output row, or each group of a row. Q(W) is computed at least in float32,
outside autocast, whatever the dtype of the model, and then cast to the input's: rounding W/a in
bfloat16 would move weights across thresholds. Noise, if any, is added in training mode only.

A reset pulls the weights toward the grid, W ← (1−f) W + f Q(W), with the scales as they are; f = 1
lands on it. (The public WinQ callback's α is 1 − f.) Q(W) is the same before and after for every
quantizer with learned scales, and ‖W − Q(W)‖ shrinks by 1 − f.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from spectra.errors import UsageError
from spectra.quant.delayed import DelayedScaling
from spectra.quant.noise import Noise, What, draw
from spectra.quant.quantizer import FULL_BITS
from spectra.quant.shared import Shared, Version
from spectra.quant.spec import QuantSpec
from spectra.quant.start import first_scale, first_zero

Rotation = tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]

BYPASSES = ("none", "weights", "all")


class QuantLinear(nn.Linear):
    """A linear layer with fake-quantized weights; made by `from_linear`.

    Attributes:
        spec: What it does.
        quantizer: The weight quantizer of `spec`.
        weight: Latent weights, (out, in), or (in, out) where `transposed`.
        scale: (out, 1) or (out, groups), or None if the quantizer derives it or there is none.
        zero: Zero points, the shape of `scale`, or None if the quantizer has none.
        transposed: Whether the weight is stored as GPT-2's Conv1D stores it.
        original: Class of the plain layer.
        index: Number of the layer in the model, for the noise.
        output_bits: Width of the outputs: `kv_bits` in a key or value projection, else 16.
        noise: Noise in training mode, or None.
        shared: State in common with the other layers of the model.
        scaling: Histories of a floating-point quantizer, None for the others.
        bypass: "weights": weights are used as they are; "all": inputs and outputs too.
    """

    scale: nn.Parameter | None
    zero: nn.Parameter | None
    weight_noise_std: nn.Parameter | None
    scale_noise_std: nn.Parameter | None
    scaling: DelayedScaling | None

    def __init__(
        self,
        linear: nn.Module,
        spec: QuantSpec,
        scale: torch.Tensor | None,
        name: str,
        zero: torch.Tensor | None = None,
    ) -> None:
        transposed = _is_conv1d(linear)
        weight = linear._parameters["weight"]
        assert weight is not None
        out, width = weight.shape[::-1] if transposed else weight.shape
        super().__init__(width, out, bias=False, device="meta")
        self.transposed, self.original, self.name = transposed, type(linear), name
        self.spec, self.quantizer = spec, spec.build()
        self.weight = weight
        self.bias = linear._parameters["bias"]  # type: ignore[assignment]
        rows = weight.detach().T if transposed else weight.detach()
        self.scale = first_scale(spec, rows, scale, name, trainable=weight.requires_grad)
        self.zero = first_zero(spec, rows, self.scale, zero, name)
        self.scaling = self.quantizer.layer_state(weight, spec.w_bits, spec.a_bits)
        for parameter in ("weight_noise_std", "scale_noise_std"):
            self.register_parameter(parameter, None)
        self.index, self.output_bits, self.bypass = 0, FULL_BITS, "none"
        self.noise: Noise | None = None
        self.shared = Shared()
        self._checked: Version | None = None
        self.train(linear.training)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Module,
        spec: QuantSpec,
        *,
        scale: torch.Tensor | None = None,
        zero: torch.Tensor | None = None,
        name: str = "linear layer",
    ) -> QuantLinear:
        """Return the quantized twin of a plain layer, sharing its parameters.

        Args:
            linear: nn.Linear, or the Conv1D of GPT-2.
            spec: What the layer does.
            scale: Scales to begin with; None derives them from the weights.
            zero: Zero points likewise, where the quantizer has them.
            name: What messages call the layer.

        Raises:
            UsageError: If the layer is of another class, its weight is no plain floating-point
                parameter, its width does not fit, or the scales have another shape.
        """
        if type(linear) is not nn.Linear and not _is_conv1d(linear):
            raise UsageError(
                f"{name} is a {type(linear).__name__}, and only plain nn.Linear and Conv1D layers "
                "are quantized; load the model unquantized and without adapters."
            )
        weight = linear._parameters.get("weight")
        if weight is None or not weight.is_floating_point() or weight.numel() == 0:
            found = "computed from others" if weight is None else f"{weight.dtype} {weight.shape}"
            raise UsageError(
                f"the weight of {name} is {found}; quantization needs a floating-point parameter: "
                "load the model dequantized, without parametrizations."
            )
        if min(spec.w_bits, spec.a_bits) < FULL_BITS:
            spec.build().check_width(name, int(weight.shape[0 if _is_conv1d(linear) else 1]))
        return cls(linear, spec, scale, name, zero)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., out) for inputs (..., in)."""
        activations = self.bypass != "all"
        if activations:
            x = self._quantized_input(x)
        rows = self._quantized_rows(noise=True).to(x.dtype)
        y = nn.functional.linear(x, rows, self.bias)
        if activations and self.scaling is not None and self.training:
            y = self.scaling.quantize_gradients(y)
        return self.quantizer.quantize_keys_values(y, self.output_bits) if activations else y

    def quantized_weight(self, *, noise: bool = False) -> torch.Tensor:
        """Return Q(W), the shape of `weight`, at least float32, differentiable.

        Args:
            noise: Whether noise is added as in a forward.
        """
        return self._turn(self._quantized_rows(noise=noise))

    def mask(self) -> torch.Tensor:
        """Return the clip mask, boolean, the shape of `weight`, in the basis of the grid."""
        rows = self._turn(self.weight.detach())
        return self._turn(self.quantizer.mask(rows, self._scale_of(rows).detach(), self._bits))

    def rotation(self) -> Rotation | None:
        """Return the orthonormal maps of (..., *weight.shape) to the grid's basis and back.

        None where the grid lies in the basis of the weights, as most do.
        """
        if not self.quantizer.rotates or self._bits == FULL_BITS:
            return None
        rotate, unrotate = self.quantizer.rotate, self.quantizer.unrotate
        if self.transposed:
            return lambda v: rotate(v.mT).mT, lambda v: unrotate(v.mT).mT
        return rotate, unrotate

    @torch.no_grad()
    def codes(self) -> torch.Tensor:
        """Return the index of each weight's level, ascending from 0, uint8, the shape of `weight`.

        Without quantization there are no levels, and all indices are 0.
        """
        if self._bits == FULL_BITS:
            return torch.zeros_like(self.weight, dtype=torch.uint8)
        rows = self._turn(self.weight)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        level = self.quantizer.level(rows, self._scale_of(rows), self._bits)
        return self._turn(level.to(torch.uint8))

    @torch.no_grad()
    def reset_(self, fraction: float) -> None:
        """Move the weights toward their quantized values, in place: W ← (1−f) W + f Q(W).

        A quantizer that works in Hadamard space, Q(W) = Hᵀ q(HW), needs no case of its own: H is
        orthonormal, so this is W ← Hᵀ((1−f) HW + f q(HW)).

        Args:
            fraction: f, from 0 (nothing) to 1 (onto the grid).

        Raises:
            UsageError: If `fraction` is outside [0, 1].
        """
        if not 0 <= fraction <= 1:
            raise UsageError(
                f"reset_fraction={fraction!r} is outside [0, 1]; pass the fraction of the way "
                "toward the grid, such as 0.4."
            )
        goal = self.quantized_weight()
        # lerp never leaves the segment between its ends, so no weight crosses a threshold.
        self.weight.copy_(torch.lerp(self.weight.to(goal.dtype), goal, float(fraction)))

    @torch.no_grad()
    def set_codes_(self, codes: torch.Tensor) -> None:
        """Put the weights on the levels that `codes` returned, at the scales as they are now."""
        rows = self._turn(codes)
        values = self.quantizer.at_level(rows, self._scale_of(rows), self._bits)
        self.weight.copy_(self._turn(values))

    @torch.no_grad()
    def rederive_scale_(self) -> None:
        """Set learned scales and zero points to where training at these weights would start."""
        if self.scale is None:
            return
        rows = self._turn(self.weight)
        self.scale.copy_(self.quantizer.initial_scale(rows, self._bits))
        if self.zero is not None:
            self.zero.copy_(self.quantizer.initial_zero(rows, self.scale, self._bits))

    def set_noise(self, noise: Noise | None) -> None:
        """Give the layer noise, or none; standard deviations become parameters if trainable."""
        self.noise = noise
        self.weight_noise_std = self.scale_noise_std = None
        if noise is not None and noise.trainable:
            self.weight_noise_std = self._std(noise.weight_std)
            if self.scale is not None and noise.before:
                self.scale_noise_std = self._std(noise.scale_std)

    @contextmanager
    def bypassed(self, what: str = "weights") -> Iterator[None]:
        """Use the weights as they are ("weights"), and inputs and outputs too ("all")."""
        if what not in BYPASSES:
            raise UsageError(f"bypass={what!r} is not known; pass one of {', '.join(BYPASSES)}.")
        before, self.bypass = self.bypass, what
        try:
            yield
        finally:
            self.bypass = before

    def to_plain(self) -> nn.Module:
        """Return a plain layer of the original class that holds Q(W), in the weight's dtype."""
        with torch.no_grad():
            folded = self.quantized_weight().to(self.weight.dtype)
        with torch.device("meta"):
            if self.transposed:
                plain = self.original(self.out_features, self.in_features)
            else:
                plain = self.original(self.in_features, self.out_features, bias=False)
        plain.weight = nn.Parameter(folded.clone(), requires_grad=self.weight.requires_grad)
        plain.bias = self.bias
        return plain.train(self.training)

    def extra_repr(self) -> str:
        """Return what `print(model)` says of the layer."""
        spec = self.spec
        return (
            f"{super().extra_repr()}, {spec.quantizer}, w_bits={spec.w_bits:g}, "
            f"a_bits={spec.a_bits}, output_bits={self.output_bits}"
        )

    @property
    def _bits(self) -> float:
        return self.spec.w_bits

    def _turn(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return the matrix from rows of outputs to the stored orientation, or back."""
        return matrix.T if self.transposed else matrix

    def _quantized_rows(self, *, noise: bool) -> torch.Tensor:
        """Return Q(W), (out, in)."""
        if self.bypass != "none":
            return self._turn(self.weight)
        with torch.autocast(self.weight.device.type, enabled=False):
            rows = self._turn(self.weight)
            rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
            active = self.noise if noise and self.training else None
            if active is not None and active.before:
                rows = self._perturb(rows, active, What.WEIGHT)
            scale = self._steps_of(rows, record=noise and self.training)
            if self.scale is not None:
                floor = self.quantizer.scale_floor
                self._checked = self.shared.tell_floored(
                    self.name, self.scale, floor, self._checked
                )
            if active is not None and active.before and self.scale is not None:
                scale = self._perturb(scale, active, What.SCALE)
            quantized = self.quantizer.quantize(rows, self._with_zero(scale), self._bits)
            if active is not None and active.after:
                quantized = self._perturb(quantized, active, What.QUANTIZED)
            return quantized

    def _quantized_input(self, x: torch.Tensor) -> torch.Tensor:
        if self.scaling is None:
            return self.quantizer.quantize_activations(x, self.spec.a_bits)
        return self.scaling.quantize_inputs(x, record=self.training)

    def _scale_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Return what the quantizer takes for `scale`: steps, with zero points if it has them."""
        return self._with_zero(self._steps_of(rows))

    def _with_zero(self, steps: torch.Tensor) -> torch.Tensor:
        if self.zero is None:
            return steps
        return torch.stack(torch.broadcast_tensors(steps, self.zero.to(steps.dtype)))

    def _steps_of(self, rows: torch.Tensor, *, record: bool = False) -> torch.Tensor:
        """Return the learned scale, or the statistic of the given rows, not differentiated."""
        if self.scaling is not None and self.scaling.weights is not None:
            return self.scaling.weights.step(rows, record=record).expand(len(rows), 1)
        if self.scale is None:
            return self.quantizer.initial_scale(rows, self._bits)
        return self.scale.to(torch.promote_types(self.scale.dtype, torch.float32))

    def _perturb(self, value: torch.Tensor, noise: Noise, what: What) -> torch.Tensor:
        learned = self.scale_noise_std if what == What.SCALE else self.weight_noise_std
        std = noise.scale_std if what == What.SCALE else noise.weight_std
        if learned is None and std == 0:
            return value
        unit = draw(value, self.shared.noise, layer=self.index, what=what, frozen=noise.frozen)
        return value + unit * (std if learned is None else learned.to(value.dtype))

    def _std(self, value: float) -> nn.Parameter:
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        return nn.Parameter(torch.tensor(value, dtype=dtype, device=self.weight.device))


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")
