"""Killed inside a probe: with its state on disk it goes on there, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import spectra
from spectra.curvature import CurvatureOperator
from spectra.errors import NumericalError, RecordError, UsageError
from spectra.estimation import halfway
from spectra.estimation.halfway import found_states
from spectra.linalg import BasisPolicy, Lanczos, SymmetricOperator
from spectra.linalg.saved import SavedState, state_bytes, write_state
from spectra.record.atomic import replacing

SIZES = {"seq_len": 16, "num_batches": 2, "num_probes": 1, "lanczos_steps": 30}
ADAPTIVE = {"seq_len": 16, "num_batches": 2, "tol": 0.05, "tau": "0.1", "max_hvps": 120}


def estimate(checkpoint, tokens, output, **options):
    return spectra.estimate(
        str(checkpoint), data=str(tokens), output=str(output), progress=False, **options
    )


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def killing(monkeypatch):
    """Let the process end after every third state it writes."""
    count = 0

    def write(*arguments):
        nonlocal count
        write_state(*arguments)
        count += 1
        if count % 3 == 0:
            raise Killed

    monkeypatch.setattr(halfway, "write_state", write)


@pytest.mark.parametrize(
    "options",
    [
        SIZES,
        SIZES | {"num_probes": 2, "block_size": 2},
        SIZES | {"basis": "none", "reduce": "mean"},
        SIZES | {"basis_dtype": "float16"},
        SIZES | {"max_memory_gb": 2.4e-4, "lanczos_steps": 60},  # a part of the basis fits
        ADAPTIVE,
    ],
)
def test_killed_again_and_again_inside_probes(checkpoint, tokens, tmp_path, killing, options):
    whole = estimate(checkpoint, tokens, tmp_path / "whole", **options)
    kills = 0
    while True:
        try:
            found = estimate(
                checkpoint, tokens, tmp_path / "cut", save_state_every=4, resume=True, **options
            )
            break
        except Killed:
            kills += 1
            assert kills < 40
            assert len(found_states(tmp_path / "cut")) == 1
    assert kills >= 2
    for name in ("alphas", "betas", "steps", "losses", "grad_norms"):
        assert np.array_equal(getattr(whole, name), getattr(found, name)), name
    for section in ("checks", "summary", "warnings", "adaptive"):
        assert whole.metadata.get(section) == found.metadata.get(section), section
    assert whole.metadata["cost"]["hvps"] == found.metadata["cost"]["hvps"]
    assert not found_states(tmp_path / "cut")
    if "max_memory_gb" in options:
        assert whole.metadata["estimator"]["basis_steps"] < 60
        assert "condensed_error" in whole.metadata["checks"]


@pytest.fixture
def stopped(checkpoint, tokens, tmp_path, killing):
    """A directory with one unfinished probe."""
    with pytest.raises(Killed):
        estimate(checkpoint, tokens, tmp_path / "run", save_state_every=4, **SIZES)
    return tmp_path / "run"


def test_a_state_is_a_safetensors_file_with_nothing_but_tensors_and_text(stopped):
    (path,) = found_states(stopped)
    with safe_open(path, framework="pt") as file:
        assert {"alphas", "current", "previous", "basis.0", "sha256"} <= set(file.keys())
        assert file.get_slice("basis.0").get_shape()[0] == 12
        about = json.loads(file.metadata()["about"])
    assert about["place"] == [0, [0]]
    assert spectra.load(stopped).finished == 0  # the record is there before the first state


@pytest.mark.parametrize("where", [9, 300, -40, -1])
def test_a_damaged_state_is_not_used(stopped, checkpoint, tokens, tmp_path, where, caplog):
    (path,) = found_states(stopped)
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(RecordError, match="is damaged"):
        SavedState(path)
    found = estimate(checkpoint, tokens, stopped, resume=True, **SIZES)
    assert "begins anew" in caplog.text
    whole = estimate(checkpoint, tokens, tmp_path / "whole", **SIZES)
    assert np.array_equal(found.alphas, whole.alphas)
    assert not found_states(stopped)


def test_a_state_is_taken_up_without_the_flag_and_not_by_another_run(
    stopped, checkpoint, tokens, monkeypatch
):
    (path,) = found_states(stopped)
    steps = []
    step = Lanczos._step
    monkeypatch.setattr(Lanczos, "_step", lambda self, o: steps.append(1) or step(self, o))
    state = path.read_bytes()
    found = estimate(checkpoint, tokens, stopped, resume=True, **SIZES)
    assert found.complete
    assert len(steps) == 60 - 12
    steps.clear()
    estimate(checkpoint, tokens, stopped, overwrite=True, **SIZES | {"seed": 1})
    path.write_bytes(state)
    more = estimate(
        checkpoint, tokens, stopped, overwrite=True, save_state_every=50, **SIZES | {"seed": 1}
    )
    assert len(steps) == 120
    assert not np.array_equal(more.alphas, found.alphas)


def test_a_disk_too_full_for_states_stops_nothing(
    checkpoint, tokens, tmp_path, monkeypatch, caplog
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(halfway, "write_state", full)
    found = estimate(checkpoint, tokens, tmp_path / "run", save_state_every=4, **SIZES)
    assert found.complete
    assert caplog.text.count("going on without") == 1


def test_numbers_of_steps_that_are_none(checkpoint, tokens, tmp_path):
    with pytest.raises(UsageError, match="save_state_every=0 is too small"):
        estimate(checkpoint, tokens, tmp_path / "run", save_state_every=0, **SIZES)


@pytest.mark.parametrize("stored", [None, torch.float16, torch.bfloat16])
def test_states_of_lanczos_runs(tmp_path, stored):
    """Off to disk and back between any two steps: the coefficients of a run that never was."""
    torch.manual_seed(0)
    matrix = torch.randn(60, 60)
    operator = SymmetricOperator.from_matrix(matrix + matrix.T)
    start = torch.randn(2, 60)
    policy = BasisPolicy("device", stored)
    whole = Lanczos(operator, start, basis=policy).extend(20)
    path = tmp_path / "state.safetensors"
    for steps in range(1, 20):
        lanczos = Lanczos(operator, start, basis=policy)
        if steps > 1:
            SavedState(path).load_into(lanczos)
        lanczos.extend(1)
        write_state(path, lanczos, {"steps": steps}, {"extra": torch.arange(3)})
        assert path.stat().st_size >= state_bytes(lanczos)
    state = SavedState(path)
    assert (state.about, state.tensor("extra").tolist()) == ({"steps": 19}, [0, 1, 2])
    again = Lanczos(operator, start, basis=policy)
    state.load_into(again)
    again.extend(1)
    assert np.array_equal(again.alphas, whole.alphas)
    assert np.array_equal(again.betas, whole.betas)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_write_that_fails_leaves_the_state_before(tmp_path):
    operator = SymmetricOperator.from_matrix(torch.eye(6) * torch.arange(1.0, 7.0))
    lanczos = Lanczos(operator, torch.ones(6)).extend(2)
    path = tmp_path / "state.safetensors"
    write_state(path, lanczos, {"steps": 2}, {})
    before = path.read_bytes()

    def fail():
        with replacing(path) as handle:
            handle.write(b"half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_bytes() == before
    assert [p for p in Path(tmp_path).iterdir()] == [path]


@pytest.mark.parametrize("save_state_every", [4, 10])
def test_states_of_a_changed_model_do_not_stay(
    checkpoint, tokens, tmp_path, monkeypatch, save_state_every
):
    made, products = CurvatureOperator.matvec, 0

    def changing(self, v):
        nonlocal products
        products += 1
        if products == 20:
            with torch.no_grad():
                next(iter(self.point.model.parameters())).mul_(1.5)
        return made(self, v)

    monkeypatch.setattr(CurvatureOperator, "matvec", changing)
    options = SIZES | {"graph": "recompute", "params": "all"}
    with pytest.raises(NumericalError, match="changed while the spectrum was estimated"):
        estimate(checkpoint, tokens, tmp_path / "a", save_state_every=save_state_every, **options)
    monkeypatch.undo()  # what is left, if anything, is from before the change
    resumed = estimate(checkpoint, tokens, tmp_path / "a", resume=True, **options)
    whole = estimate(checkpoint, tokens, tmp_path / "b", **options)
    assert np.array_equal(resumed.alphas, whole.alphas)
