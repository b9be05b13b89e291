"""What a quantized checkpoint is, and what the caller says about its quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from spectra.errors import UsageError
from spectra.quant import QuantSpec, get_quantizer, quantizer_names, spec
from spectra.quant.quantizer import FULL_BITS
from spectra.quant.registry import parse_options

DEFAULT_QUANTIZER = "paretoq"

Source = Literal[
    "spectra",
    "winq",
    "paretoq",
    "llm-qat",
    "efficientqat",
    "bitnet",
    "torchao",
    "compressed-tensors",
    "initial",
]
Scales = Literal["stored", "initial"]


@dataclass(frozen=True)
class Qat:
    """The quantization of a loaded checkpoint.

    Attributes:
        spec: Quantizer, widths, options.
        source: Whose file said so: "spectra" (this package), "winq" or "paretoq" (their public
            code), "llm-qat" (a configuration with widths, and no stored scales), "efficientqat",
            "bitnet", "torchao" or "compressed-tensors" (their formats), or "initial": a float
            checkpoint quantized on loading, the state before the first step of training.
        scales: "stored" with the checkpoint, "initial" (derived from its weights on loading), or
            None where the quantizer learns none.
        method: Training method, as "baseline", "winq" or "llm-qat"; None where nothing trained or
            the method is not known.
        step: Optimizer steps taken, if known.
        resets: Resets so far; None if not known.
        steps_since_reset: Steps since the last reset, 0 right after it; None if there was none or
            it is not known.
        recipe: Settings of the method as they were stored.
        packed_bits: Width of weights that are stored on their grid, and that `spec`, at 16 bits,
            leaves as they are; None elsewhere.
    """

    spec: QuantSpec
    source: Source
    scales: Scales | None
    method: str | None = None
    step: int | None = None
    resets: int | None = None
    steps_since_reset: int | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    packed_bits: float | None = None

    @property
    def w_bits(self) -> float:
        """Width of the weights that the model computes with."""
        return self.spec.w_bits if self.packed_bits is None else self.packed_bits

    def metadata(self) -> dict[str, Any]:
        """Return what a record keeps beside widths, quantizer, method and step."""
        return {
            "source": self.source,
            "scales": self.scales,
            "options": dict(self.spec.options),
            "resets": self.resets,
            "steps_since_reset": self.steps_since_reset,
            "recipe": self.recipe,
        }


@dataclass(frozen=True)
class Asked:
    """What the caller says about the quantization; None leaves it to the checkpoint.

    Attributes:
        quantizer: Name of the weight quantizer, with options as in "efficientqat:group_size=128".
        w_bits: Width of the weights.
        a_bits: Width of the inputs of the quantized layers.
        kv_bits: Width of keys and values.
        options: Options of the quantizer, of the name or beside it; empty leaves them to the
            checkpoint.
        initialize_scales: Whether scales that are not stored may be derived from the weights.

    Raises:
        UsageError: If a name or a width is not known, or the combination is incomplete.
    """

    quantizer: str | None = None
    w_bits: float | None = None
    a_bits: float | None = None
    kv_bits: float | None = None
    initialize_scales: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.quantizer is not None and ":" in self.quantizer:
            name, _, rest = self.quantizer.partition(":")
            object.__setattr__(self, "quantizer", name)
            object.__setattr__(self, "options", {**self.options, **parse_options(name, rest)})
        # What no quantizer knows is refused before any file is read.
        names = quantizer_names() if self.quantizer is None else (self.quantizer,)
        if self.quantizer is not None:
            get_quantizer(self.quantizer, **self.options)
        bits = FULL_BITS if self.w_bits is None else self.w_bits
        known = {FULL_BITS}.union(*(get_quantizer(name).supported_bits for name in names))
        one = DEFAULT_QUANTIZER if self.quantizer is None else self.quantizer
        spec(
            one,
            w_bits=FULL_BITS if self.quantizer is None and bits in known else bits,
            a_bits=FULL_BITS if self.a_bits is None else self.a_bits,
            kv_bits=FULL_BITS if self.kv_bits is None else self.kv_bits,
            **self.options,
        )

    def spec(self, **known: Any) -> QuantSpec:
        """Return the specification that is asked for, with `known` where nothing is said.

        Raises:
            UsageError: If a name or a width is not known, or no width of the weights is given.
        """
        widths = {"w_bits": self.w_bits, "a_bits": self.a_bits, "kv_bits": self.kv_bits}
        chosen = known | {name: bits for name, bits in widths.items() if bits is not None}
        quantizer = self.quantizer or chosen.pop("quantizer", DEFAULT_QUANTIZER)
        chosen.pop("quantizer", None)
        built = get_quantizer(quantizer)
        if len(built.supported_bits) == 1:  # an 8-bit format has no other width
            chosen.setdefault("w_bits", built.supported_bits[0])
        if built.own_a_bits and chosen.get("w_bits") != FULL_BITS:
            chosen.setdefault("a_bits", built.own_a_bits[0])
        if "w_bits" not in chosen:
            supported = ", ".join(f"{b:g}" for b in built.supported_bits)
            raise UsageError(
                f"the width of the weights is missing; pass --w_bits with one of {supported}, or "
                f"{FULL_BITS} for full precision."
            )
        for option, value in self.options.items():
            if chosen.setdefault(option, value) != value:
                raise UsageError(
                    f"{option}={value} is asked for, and the checkpoint has {option}="
                    f"{chosen[option]}; leave it out."
                )
        return spec(quantizer, **chosen)

    @property
    def anything(self) -> bool:
        """Whether a quantization is asked for at all."""
        named = (self.quantizer, self.w_bits, self.a_bits, self.kv_bits)
        return any(value is not None for value in named) or bool(self.options)

    def conflict(self, found: QuantSpec) -> str:
        """Return where `found` differs from what is asked, as "w_bits=2, not 3", or nothing."""
        differing = []
        for name in ("quantizer", "w_bits", "a_bits", "kv_bits"):
            wanted, stored = getattr(self, name), getattr(found, name)
            if wanted is not None and wanted != stored:
                differing.append(f"{name}={_plain(stored)}, not {_plain(wanted)}")
        if not differing:
            built = found.build()
            for option, value in self.options.items():
                if getattr(built, option) != value:
                    differing.append(f"{option}={getattr(built, option)}, not {value}")
        return " and ".join(differing)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"
