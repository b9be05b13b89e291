"""How a checkpoint is to be quantized on loading, decided before its weights are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from spectra.checkpoint.qat import Qat, Scales
from spectra.quant import QuantSpec
from spectra.quant.quantizer import FULL_BITS, TERNARY

NOT_HERE = "its weights are not on this machine, so whether its scales are stored is not known yet"


@dataclass(frozen=True)
class Plan:
    """What `spectra.checkpoint.quantization` carries out.

    Attributes:
        qat: What the checkpoint then is.
        stored: Layer -> name of its stored scale; empty where `qat.scales` is not "stored".
        histories: Names of stored amax histories, of a quantizer with delayed scaling.
        ignored: Other stored tensors of a quantizer, which nothing needs.
        notes: Sentences for the record.
    """

    qat: Qat
    stored: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    histories: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def expected(self) -> frozenset[str]:
        """Names of stored tensors that a stock model has no place for, and that are understood."""
        return frozenset([*self.stored.values(), *self.histories, *self.ignored])


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
