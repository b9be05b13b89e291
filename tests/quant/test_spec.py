"""Specifications, their JSON, and the registry behind them."""

import json
from dataclasses import dataclass

import pytest

from spectra.errors import CheckpointError, UsageError
from spectra.quant import QuantSpec, get_quantizer, quantizer_names, register, spec
from spectra.quant.quantizers.rtn import RTN
from tests.quant.cases import CASES


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_json_and_back_is_the_same(name, bits):
    one = spec(name, w_bits=bits, a_bits=8, kv_bits=4)
    assert QuantSpec.from_json(one.to_json()) == one
    assert hash(QuantSpec.from_json(one.to_json())) == hash(one)
    assert one.build() == get_quantizer(name)


def test_options_reach_the_quantizer_and_go_through_json():
    one = spec("paretoq", w_bits=1.58, ternary_outside="saturation")
    assert one != spec("paretoq", w_bits=1.58)
    back = QuantSpec.from_json(one.to_json())
    assert back == one
    assert back.build().ternary_outside == "saturation"


def test_the_json_has_the_words_of_the_flags():
    written = json.loads(spec("paretoq", w_bits=2.0).to_json())
    assert written == {
        "quantizer": "paretoq",
        "w_bits": 2,
        "a_bits": 16,
        "kv_bits": 16,
        "options": {},
    }
    assert isinstance(written["w_bits"], int)
    assert spec("paretoq", w_bits=2.0) == spec("paretoq", w_bits=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"quantizer": "paretoc"},
            "'paretoc' is not known; did you mean paretoq.*lsq, paretoq, .*rtn",
        ),
        ({"w_bits": 0}, "w_bits=0 .*ternary is 1.58.*1, 1.58, 2, 3, 4, or 16"),
        ({"w_bits": 5}, "w_bits=5 .*1, 1.58, 2, 3, 4, or 16"),
        ({"w_bits": -1}, "w_bits=-1 is no width"),
        ({"w_bits": "2"}, "w_bits='2' is no width"),
        ({"w_bits": True}, "w_bits=True is no width"),
        ({"w_bits": float("nan")}, "w_bits=nan is no width"),
        ({"a_bits": 1}, "a_bits=1 is not defined for activations.*2 to 8, or 16"),
        ({"kv_bits": 1.58}, "kv_bits=1.58 is not defined"),
        ({"ternary_outsid": "code"}, "no option 'ternary_outsid'; did you mean ternary_outside"),
        ({"ternary_outside": "paper"}, "ternary_outside='paper' is not known"),
    ],
)
def test_what_is_not_defined_is_refused_with_what_is(changes, message):
    with pytest.raises(UsageError, match=message):
        spec(**{"quantizer": "paretoq", "w_bits": 2, **changes})


def test_an_option_of_a_quantizer_without_any_is_refused():
    with pytest.raises(UsageError, match="'rtn' has no option 'group'; it has none"):
        spec("rtn", w_bits=4, group=128)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "not an object"),
        ('{"quantizer": "rtn", "w_bits": 2, "options": 3}', "not an object"),
        ('{"quantizer": "rtn"}', "lacks 'w_bits'"),
        ('{"w_bits": 2}', "lacks 'quantizer'"),
        ('{"quantizer": "rtn", "w_bit": 2}', "unknown key 'w_bit'; did you mean w_bits"),
        ('{"quantizer": "rtn", "w_bits": 1}', "of the checkpoint: w_bits=1 is not defined"),
        ('{"quantizer": "rtn", "w_bits": 2, "options": {"w_bits": 3}}', "of the checkpoint"),
    ],
)
def test_a_file_that_is_no_specification_is_refused(text, message):
    with pytest.raises(CheckpointError, match=message):
        QuantSpec.from_json(text)


def test_a_name_is_registered_once():
    assert register(RTN) is RTN
    assert "rtn" in quantizer_names()

    @dataclass(frozen=True)
    class Other(RTN):
        pass

    with pytest.raises(UsageError, match=r"'rtn' is taken by spectra.quant.quantizers.rtn.RTN"):
        register(Other)
