"""HiF8: the table of all codes, rounding at every midpoint and beside it, boundaries, chance."""

from __future__ import annotations

import math

import pytest
import torch

from spectra.quant.floats import decode, encode, round_hif8
from spectra.quant.floats.hif8 import finite_values
from tests.quant.cases import gaussian

ALL = torch.arange(256)
WIDE = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def tabled() -> dict[float, int]:
    """Positive value -> code, laid out tier by tier from the white paper's table of fields."""
    table = {2.0 ** (m - 23): m for m in range(1, 8)}
    table |= {1 + m / 8: 0b0001 << 3 | m for m in range(8)}
    tiers = [(0b001, 1, 3, (1,)), (0b01, 2, 3, (2, 3)), (0b10, 3, 2, range(4, 8))]
    tiers.append((0b11, 4, 1, range(8, 16)))
    for dot, digits, width, exponents in tiers:
        for size in exponents:
            for sign in (1, -1):
                low = size - (1 << (digits - 1))  # the leading 1 is implicit
                field = (sign < 0) << (digits - 1) | low
                for m in range(1 << width):
                    value = 2.0 ** (sign * size) * (1 + m / (1 << width))
                    table[value] = (dot << digits | field) << width | m
    return {value: code for value, code in table.items() if value <= 2.0**15}


def neighbours(x: float, dtype: torch.dtype) -> tuple[float, float]:
    one = torch.tensor(x, dtype=dtype)
    lower, upper = (torch.nextafter(one, torch.tensor(end, dtype=dtype)) for end in (0.0, 1e9))
    return float(lower), float(upper)


def nearest_away(x: float, values: list[float]) -> float:
    """The nearest of `values` to x ≥ 0, the larger of two equally near; by exact arithmetic."""
    from fractions import Fraction

    return min(values, key=lambda v: (abs(Fraction(v) - Fraction(x)), -v))


def test_all_256_codes_decode_as_tabled() -> None:
    found, table = decode(ALL).tolist(), tabled()
    assert len(table) == 126
    for value, code in table.items():
        assert found[code] == value
        assert found[code | 0x80] == -value
    rest = set(range(256)) - {c | s for c in table.values() for s in (0, 0x80)}
    assert rest == {0x00, 0x80, 0x6F, 0xEF}
    assert (found[0x00], found[0x6F], found[0xEF]) == (0.0, math.inf, -math.inf)
    assert math.isnan(found[0x80])


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (0x08, 1.0),
        (0x0F, 1.875),
        (0x10, 2.0),
        (0x18, 0.5),
        (0x2F, 15.0),
        (0x3F, 0.234375),
        (0x70, 2.0**-8),
        (0x01, 2.0**-22),
        (0x6E, 2.0**15),
        (0x7E, 2.0**-15),
        (0x07, 2.0**-16),
    ],
)
def test_codes_that_are_known(code: int, value: float) -> None:
    assert float(decode(torch.tensor(code))) == value
    assert int(encode(torch.tensor(value))) == code


@pytest.mark.parametrize(
    ("x", "value"),
    [
        (0.3, 0.3125),
        (1.0625, 1.125),
        (17.0, 16.0),
        (15.9, 16.0),
        (100.0, 96.0),
        (300.0, 256.0),
        (1.5 * 2.0**-20, 2.0**-19),
        (40959.0, 32768.0),
        (40960.0, math.inf),
        (2.0**-23, 2.0**-22),
        (math.nextafter(2.0**-23, 0), 0.0),
        (math.inf, math.inf),
        (0.0, 0.0),
    ],
)
def test_values_that_are_known(x: float, value: float) -> None:
    one = torch.tensor([x, -x], dtype=torch.float64)
    assert round_hif8(one).tolist() == [value, -value]
    assert decode(encode(one)).tolist() == [value, -value]


def test_every_code_encodes_to_itself_in_every_type_that_holds_it() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(encode(decode(ALL, dtype)), ALL.to(torch.uint8))


@WIDE
def test_rounding_is_to_the_nearest_of_all_values_ties_away(dtype: torch.dtype) -> None:
    values = [v for v in finite_values() if v >= 0]
    # Infinity stands where 1.5 · 2^15 would be.
    points = [(a + b) / 2 for a, b in zip(values, [*values[1:], 1.5 * 2.0**15], strict=True)]
    assert len(points) == 127
    probes = [x for p in points for x in (*neighbours(p, dtype), p)] + values
    expected = [nearest_away(x, [*values, 1.5 * 2.0**15]) for x in probes]
    expected = [math.inf if v > 2.0**15 else v for v in expected]
    x = torch.tensor(probes, dtype=dtype)
    assert round_hif8(x).tolist() == expected
    assert round_hif8(-x).tolist() == [-v for v in expected]
    assert decode(encode(x)).tolist() == expected


@WIDE
def test_rounding_is_monotone_odd_and_done_once(dtype: torch.dtype) -> None:
    x = (gaussian(4000, dtype=dtype) * 10 ** (4 * gaussian(4000, seed=1, dtype=dtype))).sort()[0]
    q = round_hif8(x)
    assert bool((q[1:] >= q[:-1]).all())
    assert torch.equal(round_hif8(q), q)
    assert torch.equal(round_hif8(-x), -q)
    assert q.dtype == dtype


@pytest.mark.parametrize(
    ("low", "high", "bound"),
    [
        (2.0**-3, 2.0**4, 1 / 16),
        (2.0**-7, 2.0**-3, 1 / 8),
        (2.0**4, 2.0**8, 1 / 8),
        (2.0**-15, 2.0**-7, 1 / 4),
        (2.0**8, 2.0**15, 1 / 4),
        (2.0**-22, 2.0**-15, 1 / 2),
    ],
)
def test_the_relative_error_of_a_tier_is_half_a_unit_and_reaches_it(
    low: float, high: float, bound: float
) -> None:
    x = torch.logspace(math.log2(low), math.log2(high), 20001, base=2, dtype=torch.float64)[:-1]
    error = (round_hif8(x) - x).abs() / x
    assert float(error.max()) <= bound
    worst = low * (1 + bound)  # the middle of the first gap
    reached = abs(float(round_hif8(torch.tensor(worst, dtype=torch.float64))) - worst) / worst
    assert reached == pytest.approx(bound / (1 + bound))


def test_narrow_types_round_as_float32_does() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        x = gaussian(500, dtype=dtype) * 8
        assert torch.equal(round_hif8(x), round_hif8(x.float()))


def test_saturation_and_nan() -> None:
    x = torch.tensor([40960.0, -1e30, math.inf, -math.inf, math.nan, 3.0])
    assert round_hif8(x, saturate=True, nan_to_zero=True).tolist() == [
        *(32768.0, -32768.0, 32768.0, -32768.0, 0.0, 3.0)
    ]
    assert encode(x).tolist() == [0x6F, 0xEF, 0x6F, 0xEF, 0x80, int(encode(torch.tensor(3.0)))]
    assert encode(x, saturate=True, nan_to_zero=True).tolist()[:5] == [0x6E, 0xEE, 0x6E, 0xEE, 0]
    assert math.isnan(float(round_hif8(x)[4]))


def test_zero_has_no_sign() -> None:
    q = round_hif8(torch.tensor([-0.0, -1e-9, 0.0]))
    assert not torch.signbit(q).any()
    assert encode(q).tolist() == [0, 0, 0]


@WIDE
def test_the_hybrid_rule_is_nearest_near_one_and_unbiased_elsewhere(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    near = gaussian(3000, dtype=dtype).clamp(-15.9, 15.9)
    near = near[near.abs() >= 2.0**-3]
    assert torch.equal(round_hif8(near, hybrid=generator), round_hif8(near))
    count = 40000
    for x, low, high in (
        (17.0, 16.0, 20.0),
        (-300.0, -256.0, -384.0),
        (0.0051, 0.00390625, 0.005859375),
        (1.2 * 2.0**-20, 2.0**-20, 2.0**-19),
        (1.4 * 2.0**-23, 0.0, 2.0**-22),
    ):
        q = round_hif8(torch.full((count,), x, dtype=dtype), hybrid=generator)
        assert set(q.tolist()) == {low, high}
        share = (x - low) / (high - low)
        spread = math.sqrt(share * (1 - share) / count)
        found = float((q == high).double().mean())
        assert abs(found - share) < 5 * spread
    values = torch.tensor(finite_values(), dtype=dtype)
    assert torch.equal(round_hif8(values, hybrid=generator), values)


def test_the_hybrid_rule_keeps_the_boundaries_and_its_seed() -> None:
    def draw(seed: int) -> torch.Tensor:
        return round_hif8(x, hybrid=torch.Generator().manual_seed(seed))

    x = gaussian(1000) * 100
    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    x = torch.tensor([40959.0, 40960.0, 0.99 * 2.0**-23, math.nan] * 200)
    q = draw(0)[:4].tolist()
    assert q[:3] == [32768.0, math.inf, 0.0]
    assert math.isnan(q[3])
    assert set(draw(0)[0::4].tolist()) == {32768.0}
