"""HiF8 (arXiv 2409.16626) with delayed tensor scaling (arXiv 2605.26189).

The largest entry of the window lands on 15, the top of HiF8's 3-bit tier. Nothing is clipped there:
an amax underestimated r-fold costs one mantissa bit at r > 1, the format's largest value is passed
at r = 2184, infinity would come at 2731. `saturate="target"` clips at 15 instead.

Where this differs from the public code of 2605.26189: the window counts optimizer steps, not calls
(`window="calls"` does what that code does), its maxima are over all ranks, it is saved with the
checkpoint, and overflow saturates (`saturate="none"` gives that code's infinity). The recipe
quantizes gate, up and down projections between the third and the last two blocks:
`only="*gate_proj,*up_proj,*down_proj", skip_first=3, skip_last=2`, with `g_bits=8`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spectra.quant.floats.format import HIF8, Format
from spectra.quant.registry import register
from spectra.quant.scaled_float import ScaledFloat


@register
@dataclass(frozen=True)
class HiF8(ScaledFloat):
    """HiF8 weights, activations and gradients."""

    name: ClassVar[str] = "hif8"
    format: ClassVar[Format] = HIF8
    gradient_format: ClassVar[Format] = HIF8
