"""FP8 with delayed scaling, as Transformer Engine has it: E4M3 forward, E5M2 for gradients.

    a = amax 2^margin / FMT_MAX,   FMT_MAX = 448 (E4M3), 57344 (E5M2)

What exceeds FMT_MAX is clipped to it, so here an underestimated amax does clip. Transformer
Engine's own history is 1024 entries long; here it is 64 unless asked otherwise, that of HiF8's
recipe, so that the two formats compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spectra.quant.floats.format import E4M3, E5M2, Format
from spectra.quant.registry import register
from spectra.quant.scaled_float import ScaledFloat


@register
@dataclass(frozen=True)
class FP8E4M3(ScaledFloat):
    """E4M3 weights and activations, E5M2 gradients."""

    name: ClassVar[str] = "fp8_e4m3"
    format: ClassVar[Format] = E4M3
    gradient_format: ClassVar[Format] = E5M2


@register
@dataclass(frozen=True)
class FP8E5M2(ScaledFloat):
    """E5M2 throughout."""

    name: ClassVar[str] = "fp8_e5m2"
    format: ClassVar[Format] = E5M2
    gradient_format: ClassVar[Format] = E5M2
