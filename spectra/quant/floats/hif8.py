"""HiF8: one 8-bit floating-point format for both passes of training (arXiv 2409.16626).

A code is sign | dot | exponent | mantissa. The dot is a prefix code of 2 to 4 bits that says how
many exponent bits follow, so precision tapers away from 1:

    dot    exponent bits   exponent E      mantissa bits   positive codes
    11     4               ±8 … ±15        1               31, and Inf
    10     3               ±4 … ±7         2               32
    01     2               ±2, ±3          3               32
    001    1               ±1              3               16
    0001   0               0               3               8
    0000   –               M − 23          –               7, M = 1 … 7, and zero

The exponent is sign-magnitude: its first bit is the sign (1 is negative), the leading 1 of its
magnitude is not stored. A normal code is ±2^E · 1.M, a denormal one (dot 0000) ±2^{M−23}. There is
one zero, 0x00; 0x80 is NaN; the pattern that would be 1.5 · 2^15 is infinity: 0x6F, and 0xEF.
126 positive finite values, from 2^−22 to 2^15.

Rounding: to nearest, ties away from zero, with the mantissa width of the source's exponent (0 bits
below 2^−15). A carry into the next exponent lands on a value of that tier, so this is also the
nearest of all values. |x| ≥ 40960, the middle between 2^15 and where 1.5 · 2^15 would be, becomes
infinity, or 2^15 with `saturate`; |x| < 2^−23 becomes zero.

Gradients may be rounded by the hybrid rule: as above where |E| < 4, elsewhere stochastically, up
with probability f, the distance to the lower neighbour in units of the gap. It is unbiased up to
2^15 and down to 2^−23, below which everything still goes to zero.

Where sources differ: 2^−23 itself, half way between 0 and 2^−22, goes away from zero here, as the
rule says; the public CUDA kernel sends it to zero. The paper's stochastic rounding saves a
generator by comparing with the 14 low bits of the source's own mantissa, or with constants where
the source has 16 bits; here a seeded generator draws the thresholds.

Rounding works on the bits of float32 or float64 (narrower types are widened first): half a unit of
the last kept place is added to the magnitude, as an integer, and the places behind are cut off.
"""

from __future__ import annotations

from functools import cache

import torch

MAX = 2.0**15
OVERFLOW = 40960.0
UNDERFLOW = 2.0**-23
TOP_OF_3_BITS = 15.0
MIN_EXPONENT, MIN_NORMAL_EXPONENT = -22, -15
INF_CODE, NAN_CODE, SIGN = 0x6F, 0x80, 0x80

# (largest |E|, mantissa bits) of the tiers with normal numbers.
TIERS = ((3, 3), (7, 2), (15, 1))
NEAREST_BELOW = 4  # the hybrid rule rounds to nearest where |E| is smaller


def decode(codes: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the values of HiF8 codes.

    Args:
        codes: Integers from 0 to 255, any shape.
        dtype: Type of the result; float16 and wider, and bfloat16, hold every value exactly.
    """
    table = torch.tensor(_values(), dtype=dtype, device=codes.device)
    return table[codes.long()]


def encode(x: torch.Tensor, *, saturate: bool = False, nan_to_zero: bool = False) -> torch.Tensor:
    """Return the HiF8 codes of `x`, rounded to nearest, ties away; uint8, the shape of `x`.

    Args:
        x: Any floating-point type.
        saturate: Whether what overflows becomes ±2^15 instead of ±Inf; Inf itself too.
        nan_to_zero: Whether NaN becomes zero.
    """
    rounded = round_hif8(x, saturate=saturate, nan_to_zero=nan_to_zero)
    values, codes = _positive()
    size = rounded.abs().nan_to_num(nan=0.0, posinf=torch.inf)
    grid = torch.tensor(values, dtype=size.dtype, device=x.device)
    code = torch.tensor(codes, dtype=torch.int16, device=x.device)[torch.bucketize(size, grid)]
    code = torch.where(rounded < 0, code | SIGN, code)
    return torch.where(rounded.isnan(), NAN_CODE, code).to(torch.uint8)


def round_hif8(
    x: torch.Tensor,
    *,
    saturate: bool = False,
    nan_to_zero: bool = False,
    hybrid: torch.Generator | None = None,
) -> torch.Tensor:
    """Return the HiF8 values nearest to `x`, at least in float32, the shape of `x`.

    Args:
        x: Any floating-point type.
        saturate: Whether what overflows becomes ±2^15 instead of ±Inf; Inf itself too.
        nan_to_zero: Whether NaN becomes zero.
        hybrid: Draws the thresholds of the hybrid rule, on the device of `x`; None rounds to
            nearest everywhere.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    size = wide.abs()
    # The working range, in which exponents and carries are those of the format.
    inner = size.nan_to_num(nan=0.0, posinf=OVERFLOW).clamp(UNDERFLOW / 2, OVERFLOW)
    integer, places, bias = _layout(wide.dtype)
    bits = inner.view(integer)
    exponent = (bits >> places) - bias
    cut = places - _mantissa_bits(exponent)
    half = torch.ones_like(bits) << (cut - 1)
    added = half if hybrid is None else _thresholds(half, cut, exponent, hybrid)
    rounded = (((bits + added) >> cut) << cut).view(wide.dtype)
    # Between 2^−23 and 2^−22 the only values are 0 and 2^−22.
    rounded = torch.where(size < UNDERFLOW, 0.0, rounded.clamp_min(2.0**MIN_EXPONENT))
    if hybrid is not None:
        rounded = torch.where(exponent < MIN_EXPONENT, _lowest(size, hybrid), rounded)
    rounded = torch.where(size >= OVERFLOW, torch.inf, rounded.clamp_max(MAX))
    if saturate:
        rounded = rounded.clamp_max(MAX)
    rounded = torch.where(wide < 0, 0.0 - rounded, rounded)  # zero has no sign
    return torch.where(wide.isnan(), 0.0 if nan_to_zero else torch.nan, rounded)


@cache
def finite_values() -> tuple[float, ...]:
    """Return all 253 finite values, ascending."""
    found = {value for value in _values() if abs(value) <= MAX}
    return tuple(sorted(found))


def _lowest(size: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Round |x| < 2^−22 to 0 or 2^−22 by chance, below 2^−23 to 0."""
    chance = torch.rand(size.shape, generator=generator, dtype=size.dtype, device=size.device)
    up = (chance < size / 2.0**MIN_EXPONENT) & (size >= UNDERFLOW)
    return torch.where(up, 2.0**MIN_EXPONENT, 0.0).to(size.dtype)


def _thresholds(
    half: torch.Tensor, cut: torch.Tensor, exponent: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Return what is added before places are cut off: half a unit, or any of 0 … 2^cut − 1."""
    places = 52 if half.dtype == torch.int64 else 23
    drawn = torch.randint(
        1 << places, half.shape, generator=generator, dtype=half.dtype, device=half.device
    )
    return torch.where(exponent.abs() < NEAREST_BELOW, half, drawn >> (places - cut))


def _mantissa_bits(exponent: torch.Tensor) -> torch.Tensor:
    size = exponent.abs()
    kept = torch.zeros_like(exponent)
    for largest, bits in reversed(TIERS):
        kept = torch.where(size <= largest, bits, kept)
    return kept


def _layout(dtype: torch.dtype) -> tuple[torch.dtype, int, int]:
    """Return the integer type of the same width, the mantissa bits and the exponent's bias."""
    return (torch.int64, 52, 1023) if dtype == torch.float64 else (torch.int32, 23, 127)


@cache
def _positive() -> tuple[list[float], list[int]]:
    """Return zero, the positive finite values and infinity, ascending, and their codes."""
    pairs = sorted((value, code) for code, value in enumerate(_values()) if value >= 0)
    return [value for value, _ in pairs], [code for _, code in pairs]


@cache
def _values() -> tuple[float, ...]:
    """Return the value of each code, read off its bits."""
    return tuple(_value(code) for code in range(256))


def _value(code: int) -> float:
    sign, rest = (-1.0 if code & SIGN else 1.0), code & ~SIGN
    if rest == 0:
        return 0.0 if code == 0 else float("nan")
    if rest == INF_CODE:
        return sign * float("inf")
    for dot, width, digits in ((0b11, 2, 4), (0b10, 2, 3), (0b01, 2, 2), (0b001, 3, 1)):
        if rest >> (7 - width) == dot:
            mantissa_bits = 7 - width - digits
            field = rest >> mantissa_bits & ((1 << digits) - 1)
            top = 1 << (digits - 1)  # where the sign is stored stands the implicit leading 1
            size = field & (top - 1) | top
            exponent = -size if field & top else size
            mantissa = rest & ((1 << mantissa_bits) - 1)
            return sign * 2.0**exponent * (1 + mantissa / (1 << mantissa_bits))
    mantissa = rest & 0b111
    if rest >> 3:
        return sign * (1 + mantissa / 8)
    return sign * 2.0 ** (mantissa - 23)
