"""The small file beside the weights: what is written is what is read, or one clear refusal."""

import json

import pytest

from spectra.errors import CheckpointError
from spectra.quant import SavedQuantization, read_saved, spec
from spectra.quant.saved import FILE, VERSION
from tests.quant.cases import CASES

RECIPE = {"reset_every": 20, "reset_fraction": 0.4, "noise": {"weight_std": 1e-3}, "list": [1, 2]}


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_written_and_read_is_the_same(tmp_path, name, bits):
    one = SavedQuantization(
        spec=spec(name, w_bits=bits, a_bits=8, kv_bits=4),
        method="winq",
        step=60,
        resets=3,
        steps_since_reset=0,
        recipe=RECIPE,
    )
    assert one.save(tmp_path) == tmp_path / FILE
    assert read_saved(tmp_path) == one


def test_nothing_trained_and_options(tmp_path):
    one = SavedQuantization(spec=spec("paretoq", w_bits=1.58, ternary_outside="saturation"))
    one.save(str(tmp_path))
    found = read_saved(str(tmp_path))
    assert found == one
    assert (found.method, found.step, found.resets, found.steps_since_reset) == (
        None,
        None,
        0,
        None,
    )
    assert found.recipe == {}


def test_a_directory_without_the_file(tmp_path):
    assert read_saved(tmp_path) is None
    assert read_saved(tmp_path / "nowhere") is None


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path):
    SavedQuantization(spec=spec("rtn", w_bits=2), step=1).save(tmp_path)
    SavedQuantization(spec=spec("rtn", w_bits=3), step=2).save(tmp_path)
    assert read_saved(tmp_path).step == 2
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_the_file_has_the_words_of_the_flags(tmp_path):
    SavedQuantization(spec=spec("lsq", w_bits=2), method="winq", step=4).save(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    assert content["version"] == VERSION
    assert content["quantization"]["quantizer"] == "lsq"
    assert content["quantization"]["w_bits"] == 2
    assert (content["method"], content["step"]) == ("winq", 4)


def changed(**changes):
    good = {"version": VERSION, "quantization": {"quantizer": "rtn", "w_bits": 2}, "step": 1}
    return json.dumps(good | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON; copy it again"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "has version 'list'; this release reads version 1"),
        ("{}", "has version None"),
        (changed(version=2), "has version 2; this release reads version 1"),
        (changed(quantization=None), f"{FILE}': the quantization is 'null'"),
        (changed(quantization={"quantizer": "rtn"}), f"{FILE}': the quantization lacks 'w_bits'"),
        (changed(quantization={"quantizer": "rtm", "w_bits": 2}), "did you mean rtn"),
        (changed(quantization={"quantizer": "rtn", "w_bits": 1}), "w_bits=1 is not defined"),
        (changed(step="4"), "has step='4', not of type int"),
        (changed(step=True), "has step=True"),
        (changed(step=1.5), "has step=1.5"),
        (changed(resets=[]), r"has resets=\[\]"),
        (changed(method=3), "has method=3, not of type str"),
        (changed(recipe=[1]), r"has recipe=\[1\], not of type dict"),
    ],
)
def test_damaged_files_are_refused(tmp_path, text, message):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_saved(tmp_path)
    assert str(tmp_path / FILE) in str(caught.value)


def test_bytes_that_are_no_text_and_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="is not JSON"):
        read_saved(tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_saved(tmp_path)
