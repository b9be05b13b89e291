"""The verbs, called as from a shell: what they print, what they write, how they refuse."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pandas
import pytest

import spectra
from spectra.cli.main import VERBS, main


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_lists_every_verb(capsys):
    for arguments in ([], ["--help"], ["help"]):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert all(f"  {verb} " in out for verb in VERBS)
    assert run(capsys, "--version")[1] == f"spectra {spectra.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert "usage: spectra " + verb in capsys.readouterr().out


def test_estimate_prints_intervals_and_where_things_are(result):
    output, printed = result
    assert f"record  {output}" in printed
    assert (output / "spectrum.png").read_bytes().startswith(b"\x89PNG")
    for word in ("λmin", "λmax", "share near zero", "structural zeros", "product error"):
        assert word in printed
    assert spectra.load(output).complete


def test_exact_prints_every_eigenvalue(checkpoint, tokens, tmp_path, capsys):
    common = ("estimate", "--ckpt", checkpoint, "--data", tokens, "--seq_len", "16", "--exact")
    chosen = ("--params", "*layers.0.self_attn.q_proj.weight", "--num_batches", "2")
    code, printed, _ = run(capsys, *common, *chosen, "--output", tmp_path / "exact")
    assert code == 0
    assert "2 batches, exact: all " in printed
    found = spectra.load(tmp_path / "exact")
    assert found.exact
    assert found.metadata["estimator"]["dtype"] == "float64"
    shares = [line for line in printed.splitlines() if line.startswith("share near zero, τ")]
    assert shares
    for line in shares:
        low, high = re.search(r"\[(\S+), (\S+)\]", line).groups()
        assert float(high) - float(low) < 1e-3
    code, printed, _ = run(capsys, *common, *chosen, "--output", tmp_path / "exact", "--resume")
    assert code == 0
    code, _, err = run(capsys, *common, "--tol", "0.1", "--output", tmp_path / "no")
    assert code == 2
    assert "has no use for tol=0.1" in err
    code, _, err = run(capsys, *common, "--max_memory_gb", "1e-5", "--output", tmp_path / "no")
    assert code == 2
    assert "may be used" in err


def test_table_and_csv(result, tmp_path, capsys):
    output, _ = result
    code, out, _ = run(capsys, "table", output)
    assert code == 0
    assert "run" in out
    code, out, _ = run(capsys, "table", output, "--csv", "-")
    row = pandas.read_csv(io.StringIO(out)).iloc[0]
    assert row["lambda_max"] == pytest.approx(spectra.load(output).extremes()[1].value)
    code, out, _ = run(capsys, "table", output, "--csv", tmp_path / "t.csv")
    assert len(pandas.read_csv(out.strip())) == 1


def test_plot_writes_the_asked_format(result, tmp_path, capsys):
    output, _ = result
    for name, style in (("a.png", "spectra"), ("b.pdf", "spectra"), ("c.svg", "winq")):
        code, out, err = run(capsys, "plot", output, "--output", tmp_path / name, "--style", style)
        assert code == 0, err
        assert (tmp_path / name).stat().st_size > 1000
        assert str(tmp_path / name) in out


def test_info_counts_without_running(checkpoint, capsys):
    code, out, _ = run(capsys, "info", checkpoint, "--lanczos_steps", 20, "--num_batches", 3)
    ckpt = spectra.load_checkpoint(str(checkpoint))
    dim = sum(p.numel() for n, p in ckpt.model.named_parameters() if "proj" in n)
    assert code == 0
    assert f"{dim:,} parameters" in out
    assert "3 operators × 1 probes × 20 steps = 60" in out
    for word in ("weights", "graph", "basis", "memory", "time"):
        assert word in out


def test_config_file_gives_defaults_that_flags_override(checkpoint, tokens, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(
        f"ckpt: {checkpoint}\ndata: {tokens}\noutput: {tmp_path / 'r'}\nseq-len: 16\n"
        "num_batches: 2\nlanczos_steps: 6\nfigure: false\n"
    )
    code, _, err = run(capsys, "estimate", "--config", config, "--num_batches", 1)
    assert code == 0, err
    found = json.loads((tmp_path / "r" / "spectrum.json").read_text())
    assert found["data"]["seq_len"] == 16
    assert found["estimator"]["num_batches"] == 1
    assert not (tmp_path / "r" / "spectrum.png").exists()
    config.write_text("seqlen: 3\n")
    code, _, err = run(capsys, "estimate", "--config", config)
    assert (code, "config key 'seqlen'" in err) == (2, True)


def test_several_checkpoints_go_on_past_a_broken_one(checkpoint, tokens, tmp_path, capsys):
    code, _, err = run(
        capsys, "estimate", "--ckpt", tmp_path / "absent", checkpoint, "--data", tokens,
        "--output", tmp_path / "all", "--no_figure", "--seq_len", 16, "--num_batches", 1,
        "--lanczos_steps", 4,
    )  # fmt: skip
    assert code == 1
    assert "1 of 2 checkpoints failed" in err
    assert spectra.load(tmp_path / "all" / checkpoint.name).complete


def test_steps_of_a_run(checkpoint, tokens, tmp_path, capsys):
    import shutil

    for step in (200, 400):
        shutil.copytree(checkpoint, tmp_path / "run" / f"checkpoint-{step}")
    code, _, err = run(
        capsys, "estimate", "--ckpt", tmp_path / "run", "--steps", "all", "--data", tokens,
        "--output", tmp_path / "out", "--no_figure", "--seq_len", 16, "--num_batches", 1,
        "--lanczos_steps", 4,
    )  # fmt: skip
    assert code == 0, err
    for step in (200, 400):
        found = spectra.load(tmp_path / "out" / "run" / f"step-{step}")
        assert found.metadata["checkpoint"]["step"] == step
    code, _, err = run(capsys, "estimate", "--ckpt", tmp_path / "run", "--steps", "300")
    assert (code, "200, 400" in err) == (2, True)


def wrong_inputs(checkpoint, tokens, place):
    short, foreign = place / "short.npy", place / "foreign.npy"
    np.save(short, np.arange(5))
    np.save(foreign, np.full(5000, 99))
    (place / "text.txt").write_text("some text " * 1000)
    (place / "empty").mkdir()
    base = ["--ckpt", checkpoint, "--data", tokens, "--output", place / "out"]
    return {
        "no verb": (["estimte"], 2, "did you mean estimate"),
        "no checkpoint": (["estimate"], 2, "--ckpt is missing"),
        "unknown flag": (["estimate", *base, "--lanczos_step", "3"], 2, "did you mean --lanczos"),
        "bad number": (["estimate", *base, "--seed", "x"], 2, "invalid int value"),
        "absent checkpoint": (["estimate", "--ckpt", place / "nowhere"], 1, "nowhere"),
        "empty checkpoint": (["estimate", "--ckpt", place / "empty"], 1, "empty"),
        "absent data": (["estimate", *base, "--data", place / "none.txt"], 1, "none.txt"),
        "short data": (["estimate", *base, "--data", short], 1, "fewer than one block"),
        "foreign ids": (["estimate", *base, "--data", foreign], 1, "token id 99"),
        "no tokenizer": (["estimate", *base, "--data", place / "text.txt"], 1, "tokenizer"),
        "no parameters": (["estimate", *base, "--params", "*.k_prj.*"], 2, "k_p"),
        "no CUDA": (["estimate", *base, "--device", "cuda"], None, "cuda"),
        "bad dtype": (["estimate", *base, "--dtype", "float31"], 2, "float32"),
        "bad surface": (["estimate", *base, "--surface", "ste"], 2, "quantizer"),
        "no record": (["table", place / "empty"], 1, "empty"),
        "no such figure": (["plot", place / "empty"], 1, "empty"),
        "bad info": (["info", place / "nowhere"], 1, "nowhere"),
    }


CASES = [
    "no verb",
    "no checkpoint",
    "unknown flag",
    "bad number",
    "absent checkpoint",
    "empty checkpoint",
    "absent data",
    "short data",
    "foreign ids",
    "no tokenizer",
    "no parameters",
    "no CUDA",
    "bad dtype",
    "bad surface",
    "no record",
    "no such figure",
    "bad info",
]


def test_every_wrong_input_is_a_case(checkpoint, tokens, tmp_path):
    assert sorted(CASES) == sorted(wrong_inputs(checkpoint, tokens, tmp_path))


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_sentence(case, checkpoint, tokens, tmp_path, capsys):
    arguments, expected, phrase = wrong_inputs(checkpoint, tokens, tmp_path)[case]
    sizes = ["--seq_len", "16", "--num_batches", "1", "--lanczos_steps", "4"]
    extra = sizes if arguments[0] == "estimate" and "--seq_len" not in arguments else []
    code, out, err = run(capsys, *arguments, *extra)
    assert code in ((1, 2) if expected is None else (expected,)), err
    assert phrase in err
    assert out == ""
    assert "Traceback" not in err
    assert err.count("\n") == 1
