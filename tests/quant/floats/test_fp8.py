"""FP8 against its definition: nearest value, ties to the even code, saturation."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from spectra.errors import UsageError
from spectra.quant.floats import get_format, round_e4m3, round_e5m2
from spectra.quant.floats.fp8 import finite_values

CASES = [
    (round_e4m3, torch.float8_e4m3fn, 3, -6, 448.0),
    (round_e5m2, torch.float8_e5m2, 2, -14, 57344.0),
]
table = pytest.mark.parametrize(("rounded", "dtype", "places", "lowest", "largest"), CASES)


def built(places: int, lowest: int, largest: float) -> list[float]:
    """Non-negative values from the definition, in the order of their codes."""
    unit = 1 << places
    values = [m / unit * 2.0**lowest for m in range(unit)]
    exponent = lowest
    while values[-1] < largest:
        values += [(1 + m / unit) * 2.0**exponent for m in range(unit)]
        exponent += 1
    return [v for v in values if v <= largest]


@table
def test_the_values_are_those_of_the_definition(rounded, dtype, places, lowest, largest):
    positive = built(places, lowest, largest)
    assert [v for v in finite_values(dtype) if v >= 0] == positive
    assert len(finite_values(dtype)) == 2 * len(positive) - 1
    x = torch.tensor(finite_values(dtype), dtype=torch.float64)
    assert torch.equal(rounded(x), x)


@table
def test_rounding_is_to_nearest_ties_to_the_even_code(rounded, dtype, places, lowest, largest):
    positive = built(places, lowest, largest)
    for index, (a, b) in enumerate(pairwise(positive)):
        middle = torch.tensor((a + b) / 2)
        below, above = (torch.nextafter(middle, torch.tensor(end)) for end in (a, b))
        even = a if index % 2 == 0 else b
        assert rounded(torch.stack([below, middle, above])).tolist() == [a, even, b]
        assert rounded(-torch.stack([below, middle, above])).tolist() == [-a, -even, -b]


@table
def test_overflow_saturates_and_nan_stays(rounded, dtype, places, lowest, largest):
    x = torch.tensor([largest * 1.01, -1e30, math.inf, math.nan])
    found = rounded(x).tolist()
    assert found[:3] == [largest, -largest, largest]
    assert math.isnan(found[3])


def test_a_format_that_is_not_known():
    with pytest.raises(UsageError, match="format 'hif9' is not known; did you mean hif8"):
        get_format("hif9")
