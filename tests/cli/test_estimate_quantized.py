"""`spectra estimate` of quantized weights: flags, what is printed, what is refused."""

from __future__ import annotations

import pytest

import spectra
from spectra.cli.main import main

SIZES = ["--seq_len", "24", "--num_batches", "1", "--lanczos_steps", "6", "--no_figure"]


def run(capsys, checkpoint, tokens, output, *flags):
    places = ["--ckpt", str(checkpoint), "--data", str(tokens), "--output", str(output)]
    code = main(["estimate", *places, *SIZES, *map(str, flags)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_float_checkpoint_is_quantized_and_its_surface_named(
    checkpoint, tokens, tmp_path, capsys
):
    flags = ["--quantizer", "paretoq", "--w-bits", 1, "--a_bits", 8, "--kv_bits", 8]
    moved = ["--toward-grid", 0.4, "--rederive_scales", "--noisy_weights", 0.001]
    code, out, _ = run(capsys, checkpoint, tokens, tmp_path / "r", *flags, *moved)
    assert code == 0
    first = out.splitlines()[0]
    assert "W1A8" in first
    assert "surface ste" in first
    assert first.endswith("0.4 to the grid (scales derived anew), noise 0.001")
    found = spectra.load(tmp_path / "r").metadata
    assert f"masked zeros: {100 * found['masked_fraction']:.1f} % more" in out
    assert "of the unmasked" in out
    assert found["point"] == {
        "toward_grid": 0.4, "rederived_scales": True, "noisy_weights": 0.001, "proximal": None,
    }  # fmt: skip
    assert main(["table", str(tmp_path / "r")]) == 0
    assert "0.4 to the grid (scales derived anew), noise 0.001" in capsys.readouterr().out


@pytest.mark.parametrize("surface", ["ste", "quantized", "latent"])
@pytest.mark.parametrize(
    ("quantizer", "bits", "widths"),
    [
        ("quest", 2, ["--a_bits=8"]),
        ("bitnet", 1.58, ["--a_bits=8"]),
        ("llm-qat", 4, ["--kv_bits=8"]),
    ],
)
def test_every_quantizer_has_every_surface(
    quantizer, bits, widths, surface, checkpoint, tokens, tmp_path, capsys
):
    flags = [f"--quantizer={quantizer}", f"--w_bits={bits}", f"--surface={surface}", *widths]
    code, out, err = run(capsys, checkpoint, tokens, tmp_path / "r", *flags)
    assert code == 0, err
    assert f"surface {surface}" in out.splitlines()[0]
    found = spectra.load(tmp_path / "r").metadata
    assert (found["masked_fraction"] > 0) == (quantizer == "quest" and surface == "ste")


def test_a_figure_of_a_masked_record_is_drawn(checkpoint, tokens, tmp_path, capsys):
    flags = ["--quantizer=paretoq", "--w_bits=1.58", "--figure", "--proximal=0.1"]
    code, out, _ = run(capsys, checkpoint, tokens, tmp_path / "r", *flags)
    assert code == 0
    assert "penalty γ = 0.1" in out
    assert (tmp_path / "r" / "spectrum.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--surface=ste"], "this checkpoint has no quantizer"),
        (["--toward_grid=1.5"], "toward_grid=1.5 is outside [0, 1]"),
        (["--noisy_weights=-1"], "is no standard deviation"),
        (["--proximal=nan"], "is no weight of a penalty"),
        (["--proximal=0.1"], "selects no quantized weight"),
        (["--rederive_scales"], "pass toward_grid with it"),
        (["--quantizer=paretoq", "--w_bits=5"], "w_bits=5"),
        (["--quantizer=paretoq", "--w_bits=2", "--params=*.scale"], "belongs to a quantizer"),
    ],
)
def test_what_is_not_defined_is_one_sentence(flags, words, checkpoint, tokens, tmp_path, capsys):
    code, out, err = run(capsys, checkpoint, tokens, tmp_path / "r", *flags)
    assert code == 2
    assert out == ""
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists()
