"""The name of a quantization: which quantizer, how many bits, which options.

A specification is a value: it compares, hashes, and goes through JSON and back unchanged, which is
how a checkpoint remembers it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from spectra.errors import CheckpointError, UsageError, nearest
from spectra.quant.activations import check_activation_bits
from spectra.quant.quantizer import FULL_BITS, TERNARY, Quantizer
from spectra.quant.registry import get_quantizer

_KEYS = ("quantizer", "w_bits", "a_bits", "kv_bits", "options")


@dataclass(frozen=True)
class QuantSpec:
    """A quantization of the linear layers; made by `spec`.

    Attributes:
        quantizer: Name of the weight quantizer.
        w_bits: Width of the weights; 1.58 is ternary, 16 full precision.
        a_bits: Width of the inputs of the quantized layers.
        kv_bits: Width of keys and values.
        options: Options of the quantizer, sorted pairs.
    """

    quantizer: str
    w_bits: float
    a_bits: int = FULL_BITS
    kv_bits: int = FULL_BITS
    options: tuple[tuple[str, Any], ...] = ()

    def build(self) -> Quantizer:
        """Return the weight quantizer with its options."""
        return get_quantizer(self.quantizer, **dict(self.options))

    def to_json(self) -> str:
        """Return the specification as JSON text."""
        fields = {key: getattr(self, key) for key in _KEYS}
        return json.dumps({**fields, "options": dict(self.options)}, indent=2)

    @staticmethod
    def from_json(text: str) -> QuantSpec:
        """Return the specification that `to_json` wrote.

        Raises:
            CheckpointError: If the text is no specification, or one that is not known here.
        """
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(
                f"the quantization is not JSON ({error}); write it with QuantSpec.to_json."
            ) from error
        if not isinstance(found, dict) or not isinstance(found.get("options", {}), dict):
            raise CheckpointError(
                f"the quantization is {text[:40]!r}, not an object with the keys "
                f"{', '.join(_KEYS)}; write it with QuantSpec.to_json."
            )
        for key in found:
            if key not in _KEYS:
                raise CheckpointError(
                    f"the quantization has the unknown key {key!r}{nearest(key, _KEYS)}; it takes "
                    f"{', '.join(_KEYS)}."
                )
        for key in ("quantizer", "w_bits"):
            if key not in found:
                raise CheckpointError(f"the quantization lacks {key!r}; a checkpoint must say it.")
        values = {key: value for key, value in found.items() if key != "options"}
        try:
            return spec(**values, **found.get("options", {}))
        except (UsageError, TypeError) as error:
            raise CheckpointError(f"the quantization of the checkpoint: {error}") from error


def spec(
    quantizer: str,
    *,
    w_bits: float,
    a_bits: float = FULL_BITS,
    kv_bits: float = FULL_BITS,
    **options: Any,
) -> QuantSpec:
    """Return a specification, checked.

    Args:
        quantizer: "paretoq", "lsq", "rtn", or another registered name.
        w_bits: Width of the weights, among those of the quantizer; 1.58 is ternary, 16 none.
        a_bits: Width of the inputs of the quantized layers, 2 to 8, or 16 for none.
        kv_bits: Width of keys and values, 2 to 8, or 16 for none.
        **options: Options of the quantizer.

    Raises:
        UsageError: If the quantizer, a width or an option is not known.
    """
    widths = {"w_bits": w_bits, "a_bits": a_bits, "kv_bits": kv_bits}
    for name, bits in widths.items():
        if isinstance(bits, bool) or not isinstance(bits, int | float) or not 0 <= bits < 1e3:
            raise UsageError(
                f"{name}={bits!r} is no width; pass a number of bits, such as 2 or 16."
            )
    built = get_quantizer(quantizer, **options)
    built.check_bits(w_bits)
    if not built.own_a_bits:
        check_activation_bits("a_bits", a_bits)
    elif a_bits not in (*built.own_a_bits, FULL_BITS):
        own = ", ".join(map(str, built.own_a_bits))
        raise UsageError(
            f"a_bits={a_bits:g} is not defined by the quantizer {quantizer!r}, which quantizes "
            f"activations itself; pass {own}, or {FULL_BITS} for none."
        )
    check_activation_bits("kv_bits", kv_bits)
    return QuantSpec(
        quantizer=quantizer,
        w_bits=w_bits if w_bits == TERNARY else int(w_bits),
        a_bits=int(a_bits),
        kv_bits=int(kv_bits),
        options=tuple(sorted(options.items())),
    )
