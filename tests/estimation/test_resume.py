"""Interrupted and resumed equals uninterrupted, bit for bit; other runs are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import spectra
from spectra.errors import RecordError, UsageError

SIZES = {"seq_len": 16, "num_batches": 3, "num_probes": 2, "lanczos_steps": 8}


def estimate(checkpoint, tokens, output, **changes):
    options = SIZES | changes
    return spectra.estimate(
        str(checkpoint), data=str(tokens), output=str(output), progress=False, **options
    )


def arrays(spectrum):
    return {
        name: getattr(spectrum, name)
        for name in ("alphas", "betas", "steps", "nodes", "weights", "losses", "grad_norms")
    }


def assert_same(one, two):
    for name, array in arrays(one).items():
        assert np.array_equal(array, arrays(two)[name]), name


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3, 5])
def test_stopped_after_some_probes_and_resumed(checkpoint, tokens, tmp_path, monkeypatch, after):
    whole = estimate(checkpoint, tokens, tmp_path / "whole")
    from spectra.estimation import engine as module

    count = 0
    write = module._write

    def write_and_stop(store, output):
        nonlocal count
        write(store, output)
        count += 1
        if count == after:
            raise StoppedError

    monkeypatch.setattr(module, "_write", write_and_stop)
    with pytest.raises(StoppedError):
        estimate(checkpoint, tokens, tmp_path / "cut")
    monkeypatch.setattr(module, "_write", write)
    assert spectra.load(tmp_path / "cut").finished == after
    resumed = estimate(checkpoint, tokens, tmp_path / "cut", resume=True)
    assert_same(whole, resumed)
    assert_same(spectra.load(tmp_path / "cut"), whole)
    for key in ("summary", "checks", "data", "params", "estimator"):
        assert resumed.metadata[key] == whole.metadata[key]
    assert resumed.metadata["cost"]["hvps"] == whole.metadata["cost"]["hvps"]


def test_killed_in_the_middle_and_resumed(checkpoint, tokens, tmp_path):
    """kill -9 of a real process at a moment when some probes are done and others are not."""
    arguments = [f"--{key}={value}" for key, value in (SIZES | {"num_probes": 12}).items()]
    command = [sys.executable, "-m", "spectra", "estimate", f"--ckpt={checkpoint}"]
    command += [f"--data={tokens}", f"--output={tmp_path / 'cut'}", "--no_figure", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (tmp_path / "cut" / "spectrum.npz").exists():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = spectra.load(tmp_path / "cut").finished
    assert 0 < finished < 36
    subprocess.run([*command, "--resume"], env=environment, check=True, stdout=subprocess.DEVNULL)
    whole = estimate(checkpoint, tokens, tmp_path / "whole", num_probes=12)
    assert_same(spectra.load(tmp_path / "cut"), whole)


def test_a_finished_run_may_gain_probes(checkpoint, tokens, tmp_path):
    estimate(checkpoint, tokens, tmp_path / "r", num_probes=1)
    more = estimate(checkpoint, tokens, tmp_path / "r", num_probes=2, resume=True)
    assert_same(more, estimate(checkpoint, tokens, tmp_path / "whole"))
    with pytest.raises(RecordError, match="may gain probes, not lose them"):
        estimate(checkpoint, tokens, tmp_path / "r", num_probes=1, resume=True)


def test_a_directory_with_a_run_is_refused(checkpoint, tokens, tmp_path):
    estimate(checkpoint, tokens, tmp_path / "r")
    with pytest.raises(UsageError, match="--resume to go on with it"):
        estimate(checkpoint, tokens, tmp_path / "r")
    with pytest.raises(spectra.SpectraError):
        estimate(tmp_path / "no such checkpoint", tokens, tmp_path / "r", overwrite=True)
    assert spectra.load(tmp_path / "r").complete  # not lost to a run that never began
    replaced = estimate(checkpoint, tokens, tmp_path / "r", seed=1, overwrite=True)
    assert replaced.metadata["estimator"]["seed"] == 1


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 1}, "estimator.seed differs"),
        ({"lanczos_steps": 9}, "estimator.lanczos_steps differs"),
        ({"seq_len": 8}, "data.sha256 differs"),
        ({"params": "embedding"}, "dim differs"),
        ({"reduce": "mean"}, "reduce differs"),
        ({"dtype": "float64"}, "estimator.dtype differs"),
        ({"curvature": "ggn"}, "estimator.curvature differs"),
    ],
)
def test_another_run_is_not_resumed(checkpoint, tokens, tmp_path, change, key):
    estimate(checkpoint, tokens, tmp_path / "r", num_batches=1)
    with pytest.raises(RecordError, match=key):
        estimate(checkpoint, tokens, tmp_path / "r", num_batches=1, resume=True, **change)


def test_a_directory_of_something_else_is_refused(checkpoint, tokens, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        estimate(checkpoint, tokens, tmp_path)
    file = tmp_path / "thesis.tex"
    with pytest.raises(UsageError, match="is a file"):
        estimate(checkpoint, tokens, file)
    with pytest.raises(UsageError, match="contradict"):
        estimate(checkpoint, tokens, tmp_path, resume=True, overwrite=True)
    assert file.read_text() == "precious"


def test_a_failed_start_leaves_nothing_behind(checkpoint, tokens, tmp_path):
    with pytest.raises(spectra.SpectraError):
        estimate(tmp_path / "no such checkpoint", tokens, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_what_a_killed_first_write_left_is_no_obstacle(checkpoint, tokens, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".spectrum.npz.17.tmp").write_bytes(b"half")
    assert estimate(checkpoint, tokens, tmp_path / "r", num_batches=1).complete


def test_json_beside_the_arrays_says_the_same(checkpoint, tokens, tmp_path):
    found = estimate(checkpoint, tokens, tmp_path / "r")
    told = json.loads((tmp_path / "r" / "spectrum.json").read_text())
    assert told == json.loads(json.dumps(spectra.load(tmp_path / "r").metadata))
    assert told["summary"]["lambda_max"]["batches"]["value"] == pytest.approx(
        found.extremes()[1].value
    )
    for key in [
        "schema",
        "dim",
        "dim_unmasked",
        "params",
        "surface",
        "masked_fraction",
        "reduce",
        "checkpoint",
        "data",
        "estimator",
        "checks",
        "cost",
        "summary",
        "environment",
    ]:
        assert key in told


def test_a_finished_record_stays_as_it_is(checkpoint, tokens, tmp_path):
    before = estimate(checkpoint, tokens, tmp_path / "a")
    content = (tmp_path / "a" / "spectrum.npz").read_bytes()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        again = estimate(checkpoint, tokens, tmp_path / "a", resume=True)
    finally:
        torch.set_num_threads(threads)
    assert_same(again, before)
    assert (tmp_path / "a" / "spectrum.npz").read_bytes() == content
