"""`spectra info` of quantized checkpoints: what they are, or why an estimate would refuse them."""

from __future__ import annotations

import pytest

from spectra.cli.main import main
from spectra.quant import SavedQuantization, prepare, spec
from tests.estimation.models import small_llama


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("run") / "checkpoint-40"
    model, two = small_llama(), spec("paretoq", w_bits=2, a_bits=8)
    prepare(model, two)
    model.save_pretrained(place)
    SavedQuantization(two, "winq", step=40, resets=2, steps_since_reset=3).save(place)
    return place


def info(capsys, *arguments):
    code = main(["info", *[str(a) for a in arguments], "--seq_len", "16", "--num_batches", "1"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def line(out, name):
    (found,) = [text for text in out.splitlines() if text.startswith(f"{name} ")]
    return found.removeprefix(name).strip()


def test_a_checkpoint_of_this_package(trained, capsys):
    code, out, _ = info(capsys, trained)
    assert code == 0
    quantized = "paretoq, 2-bit weights, 8-bit activations; scales stored"
    assert line(out, "quantized") == quantized
    assert line(out, "trained by") == "this package"
    assert line(out, "method") == "winq, step 40, 2 resets, 3 steps since the last reset"
    assert "an estimate of linear" in out


def test_a_float_checkpoint_with_and_without_flags(checkpoint, capsys):
    code, plain, _ = info(capsys, checkpoint)
    assert code == 0
    assert "quantized" not in plain
    code, out, _ = info(capsys, checkpoint, "--w_bits", "1.58", "--kv-bits", "8")
    assert code == 0
    quantized = line(out, "quantized")
    assert quantized.startswith("paretoq, ternary weights, 8-bit keys and values; scales")
    assert line(out, "trained by") == "nobody yet: a float checkpoint"
    assert line(out, "method") == "step 0"
    assert line(out, "model") == line(plain, "model")
    _, out, _ = info(capsys, checkpoint, "--quantizer", "rtn", "--w_bits", "4")
    assert line(out, "quantized") == "rtn, 4-bit weights; no learned scales"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--w_bits", "3"], "is quantized differently from what is asked"),
        (["--quantizer", "lsq"], "quantizer=paretoq, not lsq"),
    ],
)
def test_what_an_estimate_would_refuse(trained, capsys, flags, sentence):
    code, out, err = info(capsys, trained, *flags)
    assert (code, err) == (0, "")
    assert sentence in line(out, "refused")
    assert "an estimate of" not in out
    estimate = ["estimate", "--ckpt", str(trained), "--output", str(trained / "out"), *flags]
    assert main(estimate) == 2
    assert capsys.readouterr().err == f"spectra estimate: {line(out, 'refused')}\n"


def test_scales_that_are_lost(trained, checkpoint, tmp_path, capsys):
    import shutil

    place = shutil.copytree(checkpoint, tmp_path / "lost")
    SavedQuantization(spec("lsq", w_bits=4)).save(place)
    assert "pass --initialize_scales" in line(info(capsys, place)[1], "refused")
    out = info(capsys, place, "--initialize_scales")[1]
    assert line(out, "quantized").endswith("scales derived from the weights on loading")
    assert line(out, "method") == "unknown"


def test_flags_that_nothing_defines(checkpoint, capsys):
    for flags, sentence in (
        (["--w_bits", "5.5"], "w_bits=5.5 is not defined"),
        (["--quantizer", "paretoc"], "did you mean paretoq"),
    ):
        code, out, err = info(capsys, checkpoint, *flags)
        assert (code, out) == (2, "")
        assert sentence in err
