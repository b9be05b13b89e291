"""Probes shared by two processes: the record of one process, whoever begins, resumes, or fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import spectra
from spectra.estimation import engine
from spectra.estimation.output import load_all
from spectra.estimation.shares import PATTERN, share_out
from tests.estimation import shared
from tests.estimation.shared import CASES, SIZES, digest
from tests.parallel.two import TORCHRUN, launch


def estimate(checkpoint, tokens, output, **changes):
    options = SIZES | changes
    return spectra.estimate(
        str(checkpoint), data=str(tokens), output=str(output), progress=False, **options
    )


class StoppedError(Exception):
    pass


def begin(checkpoint, tokens, output):
    """Leave a run of which four of six probes are done."""
    write, count = engine._write, 0

    def write_and_stop(store, place):
        nonlocal count
        write(store, place)
        count += 1
        if count == 4:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_write", write_and_stop)
        with pytest.raises(StoppedError):
            estimate(checkpoint, tokens, output)


@pytest.fixture(scope="module")
def runs(checkpoint, tokens, tmp_path_factory):
    """The directory that two processes have worked in, and what each has seen."""
    root = tmp_path_factory.mktemp("shared")
    begin(checkpoint, tokens, root / "begun by one")
    shutil.copytree(root / "begun by one", root / "resumed by two")
    # Rank 1 of a run that was killed has finished the last probe, and the first record is older.
    whole = estimate(checkpoint, tokens, root / "whole")
    left = root / "resumed by two" / PATTERN.replace("*", "1.0badcafe")
    whole.steps[:2], whole.alphas[:2], whole.betas[:2] = 0, 0, 0
    spectra.record.save_arrays(whole, left)
    found = launch(2, shared.__file__, str(root), str(checkpoint), str(tokens))
    assert found.returncode == 0, found.stderr
    return root, [json.loads((root / f"told-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(checkpoint, tokens, tmp_path_factory):
    """The records that one process makes."""
    root = tmp_path_factory.mktemp("alone")
    return {
        name: estimate(checkpoint, tokens, root / name, **changes)
        for name, changes in CASES.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_two_processes_make_the_record_of_one(runs, alone, name):
    root, told = runs
    one, two = alone[name], spectra.load(root / name)
    for array in ("alphas", "betas", "steps", "losses", "grad_norms", "tokens"):
        assert np.array_equal(getattr(one, array), getattr(two, array)), array
    for section in ("checks", "summary", "estimator", "params", "data", "notes", "warnings"):
        assert one.metadata[section] == two.metadata[section], section
    assert two.metadata["cost"]["hvps"] == two.steps.sum() == one.metadata["cost"]["hvps"]
    assert (one.metadata["environment"]["ranks"], two.metadata["environment"]["ranks"]) == (1, 2)
    assert [mine[name] for mine in told] == [digest(one)] * 2  # both ranks have all of it
    assert not list((root / name).glob(PATTERN))


def test_either_number_of_processes_goes_on_with_the_run_of_the_other(
    runs, alone, checkpoint, tokens
):
    root, told = runs
    whole = digest(alone["batches"])
    for name in ("begun by one", "resumed by two", "again", "in memory"):
        assert [mine[name] for mine in told] == [whole, whole], name
    assert digest(spectra.load(root / "resumed by two")) == whole
    assert not list((root / "resumed by two").glob(PATTERN))


def test_what_a_failed_rank_and_the_other_have_finished_is_kept(runs, alone, checkpoint, tokens):
    root, told = runs
    said = "OutOfMemoryError: rank 1: a graph of 9 TB does not fit."
    assert [mine["failed"] for mine in told] == [said, said]
    ours = [name for name in told[0]["files"] if name.startswith("spectrum.rank-1.")]
    assert len(ours) == 1  # one writer a file
    kept = load_all(root / "failed")
    assert kept.steps[1, 1] > 0  # of rank 1: (1, 1) and (2, 0) come before what failed
    assert kept.steps[2, 0] > 0
    assert kept.steps[2, 1] == 0
    with pytest.raises(spectra.SpectraError, match="--resume to go on with it"):
        estimate(checkpoint, tokens, root / "failed")
    again = estimate(checkpoint, tokens, root / "failed", resume=True)
    assert digest(again) == digest(alone["batches"])
    assert again.metadata["checks"] == alone["batches"].metadata["checks"]
    assert not list((root / "failed").glob(PATTERN))


def test_only_what_is_of_the_same_run_is_taken_over(runs, checkpoint, tokens, tmp_path):
    begin(checkpoint, tokens, tmp_path / "r")
    other = estimate(checkpoint, tokens, tmp_path / "other", seed=1)
    spectra.record.save_arrays(other, tmp_path / "r" / PATTERN.replace("*", "1.0badcafe"))
    (tmp_path / "r" / PATTERN.replace("*", "2.0badcafe")).write_bytes(b"half a file")
    assert load_all(tmp_path / "r").finished == 4


def test_an_error_is_said_once_with_the_way_to_go_on(runs, checkpoint):
    root, told = runs
    (code, out, err), (code_1, out_1, err_1) = (mine["verb"] for mine in told)
    assert (code, code_1, out, out_1, err_1) == (1, 1, "", "", "")
    assert err.count("spectra estimate: rank 1: a graph of 9 TB does not fit.") == 1
    kept, command = err.splitlines()[-1].split("; go on with: ")
    assert kept.endswith(f"finished probes are kept in {root / 'verb'}")
    assert command.startswith(
        f"torchrun --nproc-per-node 2 -m spectra estimate --ckpt {checkpoint}"
    )
    assert command.endswith("--resume")
    assert "Traceback" not in err


def test_a_list_of_estimates_goes_on_past_one_that_fails_on_one_rank(runs):
    root, told = runs
    (code, _, err), (code_1, out_1, _) = (mine["series"] for mine in told)
    assert (code, code_1, out_1) == (1, 1, "")
    assert "rank 1: ZeroDivisionError: of all things" in err
    assert "2 of 2 checkpoints failed" in err
    (code, _, err), (code_1, out_1, err_1) = (mine["layers"] for mine in told)
    assert (code, code_1, out_1, err_1) == (0, 0, "", "")
    assert "2 records: 2 estimated, 0 failed" in err
    assert all(spectra.load(root / "layers" / f"layer-0{k}").complete for k in (0, 1))


def test_an_adaptive_estimate_is_refused(runs):
    _, told = runs
    assert told[0]["adaptive"] == told[1]["adaptive"]
    assert "start it without torchrun" in told[0]["adaptive"]


def test_shares_are_whole_batches_where_they_can_be():
    batches = [(b, [0, 1]) for b in range(4)]
    assert share_out(batches, 1, 2) == [batches[:2], batches[2:]]
    assert share_out(batches[:3], 1, 2) == [
        [(0, [0, 1]), (1, [0])], [(1, [1]), (2, [0, 1])],
    ]  # fmt: skip
    assert share_out([(0, [3])], 1, 3) == [[(0, [3])], [], []]  # who is first makes the checks
    assert share_out([(0, [0, 1, 2, 3, 4])], 2, 2) == [[(0, [0, 1])], [(0, [2, 3, 4])]]
    assert share_out([], 1, 2) == [[], []]


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_run_and_loses_only_what_was_running(
    checkpoint, tokens, tmp_path
):
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys\nfrom spectra.cli.main import main\n"
        "open(f'{sys.argv[1]}/pid-{os.environ[\"RANK\"]}', 'w').write(str(os.getpid()))\n"
        "raise SystemExit(main(sys.argv[2:]))\n"
    )
    probes = SIZES | {"num_probes": 60}
    flags = ["estimate", f"--ckpt={checkpoint}", f"--data={tokens}", "--no_figure"]
    flags += [f"--output={tmp_path / 'cut'}", *(f"--{key}={n}" for key, n in probes.items())]
    process = subprocess.Popen(
        [*TORCHRUN, "2", str(script), str(tmp_path), *flags],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if list((tmp_path / "cut").glob(PATTERN)):
            break
        time.sleep(0.01)
    os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    kept = load_all(tmp_path / "cut")
    assert 0 < kept.finished < 180
    command = [sys.executable, "-m", "spectra", *flags, "--resume"]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    whole = estimate(checkpoint, tokens, tmp_path / "whole", num_probes=60)
    assert digest(spectra.load(tmp_path / "cut")) == digest(whole)
