"""Several records by one command: their places, parts, resumption, failures."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import analysis
import spectra
from spectra.cli import estimate as verb
from spectra.cli import parts
from spectra.cli.jobs import jobs, unique_names
from spectra.cli.main import main
from spectra.errors import NumericalError, UsageError
from spectra.estimation import pipeline
from tests.cli.conftest import BLOCK_SIZES as SIZES


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


NAMES = (
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.11.self_attn.q_proj.weight",
    "model.layers.11.self_attn.q_proj.bias",
    "model.norm.weight",
)


def test_parts_of_a_selection():
    found = parts.split(NAMES, "layer")
    assert [part.name for part in found] == [
        "model.embed_tokens", "layer-00", "layer-11", "model.norm",
    ]  # fmt: skip
    assert [part.layer for part in found] == [None, 0, 11, None]
    assert found[1].names == NAMES[1:3]
    assert sum((part.names for part in found), ()) == NAMES
    found = parts.split(NAMES, "module")
    assert [part.name for part in found][1:4] == [
        "layer-00-self_attn.q_proj", "layer-00-mlp.up_proj", "layer-11-self_attn.q_proj",
    ]  # fmt: skip
    assert found[3].names == NAMES[3:5]
    assert found[3].module == "self_attn.q_proj"


def test_blocks_of_other_architectures():
    (gpt,) = parts.split(["transformer.h.3.attn.c_attn.weight"], "module")
    assert (gpt.name, gpt.layer, gpt.module) == ("layer-03-attn.c_attn", 3, "attn.c_attn")
    both = parts.split(["encoder.block.0.q.weight", "decoder.block.0.q.weight"], "layer")
    assert [part.name for part in both] == ["encoder.block-layer-00", "decoder.block-layer-00"]
    wide = parts.split([f"h.{k}.w" for k in (0, 120)], "layer")
    assert [part.name for part in wide] == ["layer-000", "layer-120"]
    assert parts.split(["odd[0].weight"], "layer")[0].params == "odd[[]0].weight"


def test_a_record_for_each_block_of_each_step(blocks, series):
    place, said, loads = blocks
    frame = analysis.load(place)
    assert list(zip(frame["step"], frame["layer"], strict=True)) == [
        (200, 0), (200, 1), (400, 0), (400, 1),
    ]  # fmt: skip
    assert set(frame["per"]) == {"layer"}
    assert set(frame["params"]) == {"linear"}
    assert loads == 2  # one for each checkpoint, not one for each record
    assert "4 records: 4 estimated, 0 failed" in said
    ckpt = spectra.load_checkpoint(str(series / "checkpoint-200"))
    for layer in (0, 1):
        record = spectra.load(place / "step-200" / f"layer-{layer:02d}")
        wanted = {
            name: p
            for name, p in ckpt.model.named_parameters()
            if f"layers.{layer}." in name and "_proj" in name
        }
        assert set(record.metadata["params"]["names"]) == set(wanted)
        assert record.metadata["dim"] == sum(p.numel() for p in wanted.values())
        norm = np.sqrt(sum(float(p.detach().square().sum()) for p in wanted.values()))
        assert record.metadata["params"]["weight_norm"] == pytest.approx(norm)
    assert not (place / "step-200" / "spectrum.npz").exists()


def test_a_part_is_the_spectrum_of_its_parameters(blocks, series, tokens):
    place, _, _ = blocks
    alone = pipeline.estimate(
        series / "checkpoint-400", data=str(tokens), params="model.layers.1.*_proj.weight",
        seq_len=16, num_batches=2, lanczos_steps=6, progress=False,
    )  # fmt: skip
    part = spectra.load(place / "step-400" / "layer-01")
    np.testing.assert_array_equal(part.alphas, alone.alphas)
    np.testing.assert_array_equal(part.grad_norms, alone.grad_norms)
    norms = [one.metadata["params"]["weight_norm"] for one in (part, alone)]
    assert norms[0] == norms[1] > 0  # so that the ratio to it is drawn from any record


def test_all_parts_are_at_the_point_of_the_whole(checkpoint, tokens, tmp_path, capsys):
    base = ["estimate", "--ckpt", checkpoint, "--data", tokens, *SIZES, "--noisy_weights", 0.1]
    assert run(capsys, *base, "--output", tmp_path / "whole")[0] == 0
    assert run(capsys, *base, "--output", tmp_path / "parts", "--per", "module")[0] == 0
    whole, found = spectra.load(tmp_path / "whole"), analysis.load(tmp_path / "parts")
    assert len(found) == 14
    assert found["dim"].sum() == whole.metadata["dim"]
    assert set(found["module"]) >= {"self_attn.q_proj", "mlp.down_proj"}
    squares = 0.0
    for path in found["path"]:
        part = spectra.load(path)
        np.testing.assert_allclose(part.losses, whole.losses, rtol=1e-6)
        squares = squares + part.grad_norms**2
    np.testing.assert_allclose(squares, whole.grad_norms**2, rtol=1e-4)


def test_a_repeated_command_is_refused_before_it_begins_and_resumed_if_asked(
    series, tokens, tmp_path, capsys
):
    base = ["estimate", "--ckpt", series, "--steps", "all", "--data", tokens, *SIZES]
    base += ["--output", tmp_path / "out"]
    assert run(capsys, *base)[0] == 0
    shutil.rmtree(tmp_path / "out" / "w2" / "step-400")
    code, out, err = run(capsys, *base)
    assert (code, out) == (2, "")
    assert "step-200' holds a record already; pass --resume" in err
    assert not (tmp_path / "out" / "w2" / "step-400").exists()
    done = (tmp_path / "out" / "w2" / "step-200" / "spectrum.npz").stat().st_mtime_ns
    code, out, err = run(capsys, *base, "--resume")
    assert code == 0
    assert "step-200: finished before, by the same request; nothing was run" in err
    assert "2 records: 1 estimated, 1 finished before, 0 failed" in err
    assert out.count("record  ") == 2
    found = spectra.load(tmp_path / "out" / "w2" / "step-200")
    assert found.metadata["cost"]["hvps"] == 12
    assert done > 0
    code, _, err = run(capsys, *base, "--resume", "--seed", 1)
    assert code == 1
    assert "estimator.seed differs (0 there, 1 now)" in err
    assert "2 of 2 checkpoints failed:" in err
    assert run(capsys, *base, "--overwrite", "--seed", 1)[0] == 0


def test_an_interrupted_sweep_goes_on_where_it_was(series, tokens, tmp_path, capsys):
    base = ["estimate", "--ckpt", series, "--steps", "all", "--per", "layer", "--data", tokens]
    base += [*SIZES, "--output", tmp_path / "out"]
    whole, calls = parts.estimate_part, []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "estimate_part", interrupted)
        code, _, err = run(capsys, *base)
    assert (code, "interrupted" in err) == (130, True)
    assert len(analysis.load(tmp_path / "out")) == 2
    assert "holds a record already" in run(capsys, *base)[2]
    code, _, err = run(capsys, *base, "--resume")
    assert code == 0
    assert "4 records: 2 estimated, 2 finished before, 0 failed" in err


@pytest.mark.parametrize("error", [NumericalError("not finite here."), ValueError("unforeseen")])
def test_a_failure_does_not_stop_the_rest(
    error, series, tokens, tmp_path, capsys, caplog, monkeypatch
):
    whole = parts.estimate_part

    def failing(opened, part, *rest, **options):
        if part.layer == 0:
            raise error
        return whole(opened, part, *rest, **options)

    monkeypatch.setattr(verb, "estimate_part", failing)
    code, _, err = run(
        capsys, "estimate", "--ckpt", series / "checkpoint-200", "--per", "layer", "--data", tokens,
        *SIZES, "--output", tmp_path / "out",
    )  # fmt: skip
    assert code == 1
    assert (tmp_path / "out" / "layer-01" / "spectrum.npz").exists()
    assert "2 records: 1 estimated, 1 failed" in err
    last = err.strip().splitlines()[-1]
    assert "layer-00" in last
    assert str(error) in last
    shown = any(entry.exc_info for entry in caplog.records)
    assert shown == isinstance(error, ValueError)  # a bug shows where it is


def test_a_run_without_steps_is_told_and_the_others_estimated(
    series, checkpoint, tokens, tmp_path, capsys
):
    code, _, err = run(
        capsys, "estimate", "--ckpt", checkpoint, series, "--steps", "400", "--data", tokens,
        *SIZES, "--output", tmp_path / "out",
    )  # fmt: skip
    assert code == 1
    assert (tmp_path / "out" / "w2" / "step-400" / "spectrum.npz").exists()
    assert "1 of 2 checkpoints failed:" in err
    assert err.strip().splitlines()[-1].startswith(f"  {checkpoint}: ")


def test_places_of_checkpoints_with_the_same_name():
    assert unique_names(["tiny"]) == ["tiny"]
    assert unique_names(["a/w2", "b/w4"]) == ["w2", "w4"]
    assert unique_names(["runs/a/last", "runs/b/last", "x/w4"]) == ["a-last", "b-last", "w4"]
    found, failed = jobs(["runs/a/last", "runs/b/last"], None, None)
    assert [str(job.output) for job in found] == ["results/a-last", "results/b-last"]
    assert not failed
    with pytest.raises(UsageError, match="given twice"):
        unique_names(["a", "b", "a"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--per", "layers"], "per='layers' is not one of layer, module; did you mean layer?"),
        (["--steps", "2x"], "steps='2x' must be 'all' or a list"),
        (["--num_probes", "0"], "num_probes=0 is too small"),
        (["--toward_grid", "2"], "toward_grid=2.0 is outside [0, 1]"),
    ],
)
def test_what_no_checkpoint_can_do_is_refused_at_once(flags, words, series, tmp_path, capsys):
    code, out, err = run(
        capsys, "estimate", "--ckpt", series, series / "checkpoint-200", *flags,
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
