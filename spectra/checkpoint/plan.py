"""How a checkpoint is to be quantized on loading, decided before its weights are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from spectra.checkpoint.qat import Qat, Scales
from spectra.quant import QuantSpec
from spectra.quant.quantizer import FULL_BITS, TERNARY

NOT_HERE = "its weights are not on this machine, so whether its scales are stored is not known yet"


class Layer(NamedTuple):
    """What a packed layer holds.

    Attributes:
        weight: (out, in), floating point.
        scale: Its learned scales, None where its quantizer stores none.
        zero: Its zero points, the shape of `scale`, or None.
    """

    weight: torch.Tensor
    scale: torch.Tensor | None = None
    zero: torch.Tensor | None = None


@dataclass(frozen=True)
class Packed:
    """Layers stored otherwise than as a floating-point `weight`.

    Attributes:
        names: Layer -> names of its stored tensors.
        unpack: Layer and those tensors -> what it holds; raises CheckpointError for damage that
            only the contents show.
    """

    names: Mapping[str, tuple[str, ...]]
    unpack: Callable[[str, dict[str, torch.Tensor]], Layer]


@dataclass(frozen=True)
class Plan:
    """What `spectra.checkpoint.quantization` carries out.

    Attributes:
        qat: What the checkpoint then is.
        stored: Layer -> name of its stored scale; empty where `qat.scales` is not "stored".
        histories: Names of stored amax histories, of a quantizer with delayed scaling.
        zeros: Layer -> name of its stored zero points.
        ignored: Other stored tensors of a quantizer, which nothing needs.
        notes: Sentences for the record.
        why: What the format was recognised by.
        packed: Layers to be unpacked before transformers sees them.
        plain_config: Whether config.json's quantization_config is carried out here, and must not
            be by transformers; so for packed layers.
    """

    qat: Qat
    stored: dict[str, str] = field(default_factory=dict)
    zeros: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    histories: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    why: str = ""
    packed: Packed | None = None
    plain_config: bool = False

    def by_module(self, names: Callable[[], Callable[[str], str]]) -> Plan:
        """Return the plan with its layers under the names that the model gives them.

        Args:
            names: Gives the function from stored names to the model's, which is dear.
        """
        if not self.stored:
            return self
        name = names()

        def layers(entries: Mapping[str, str]) -> dict[str, str]:
            return {_layer(name, layer): stored for layer, stored in entries.items()}

        return replace(self, stored=layers(self.stored), zeros=layers(self.zeros))

    @property
    def expected(self) -> frozenset[str]:
        """Names of stored tensors that a stock model has no place for, and that are understood."""
        packed = self.packed.names.values() if self.packed else ()
        own = [*self.stored.values(), *self.zeros.values(), *self.histories, *self.ignored]
        return frozenset(own).union(*packed)


def learns_scale(spec: QuantSpec) -> bool:
    """Return whether the weights of `spec` come with learned scales."""
    return spec.w_bits != FULL_BITS and spec.build().learns_scale


def scales_of(spec: QuantSpec, *, stored: bool) -> Scales | None:
    """Return what `Qat.scales` says."""
    if not learns_scale(spec):
        return None
    return "stored" if stored else "initial"


def in_words(spec: QuantSpec) -> str:
    """Return as "paretoq, 2-bit weights, 8-bit activations"."""
    kind = "ternary" if spec.w_bits == TERNARY else f"{spec.w_bits:g}-bit"
    parts = [spec.quantizer, f"{kind} weights"]
    widths = {"activations": spec.a_bits, "keys and values": spec.kv_bits}
    return ", ".join(
        parts + [f"{bits}-bit {what}" for what, bits in widths.items() if bits != FULL_BITS]
    )


def _layer(name: Callable[[str], str], layer: str) -> str:
    """Return a layer's name in the model: that of its weight, as the mapping is of parameters."""
    return name(f"{layer}.weight").removesuffix(".weight")
