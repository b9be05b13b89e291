"""8-bit floating-point formats: HiF8 with its codes, FP8 by torch's types, and what they share."""

from spectra.quant.floats.format import FORMATS, Format, Rounding, get_format
from spectra.quant.floats.fp8 import round_e4m3, round_e5m2
from spectra.quant.floats.hif8 import decode, encode, round_hif8

__all__ = [
    "FORMATS",
    "Format",
    "Rounding",
    "decode",
    "encode",
    "get_format",
    "round_e4m3",
    "round_e5m2",
    "round_hif8",
]
