"""The checkpoints of a run in the order of their steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectra.checkpoint import series
from spectra.errors import CheckpointError, InputWarning, UsageError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (1000, 20, 300):
        place = tmp_path / f"checkpoint-{step}"
        place.mkdir()
        (place / "model.safetensors").touch()
        (place / "config.json").touch()
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-7").touch()  # a file
    (tmp_path / "logs").mkdir()
    return tmp_path


def finish(run: Path, step: int) -> None:
    (run / "model.safetensors").touch()
    (run / "config.json").touch()
    (run / "trainer_state.json").write_text(json.dumps({"global_step": step}))


def test_all_sorted_by_number(run: Path) -> None:
    assert series(run) == [(n, str(run / f"checkpoint-{n}")) for n in (20, 300, 1000)]


def test_a_list_is_sorted_and_without_repeats(run: Path) -> None:
    assert [step for step, _ in series(run, [1000, 20, 20])] == [20, 1000]


def test_final_weights_join_under_the_step_of_the_trainer(run: Path) -> None:
    (run / "model.safetensors").touch()
    assert len(series(run)) == 3  # no trainer_state.json: the step is unknown
    finish(run, 1200)
    assert series(run)[-1] == (1200, str(run))
    assert series(run, [1200]) == [(1200, str(run))]
    finish(run, 1000)
    assert series(run)[-1] == (1000, str(run / "checkpoint-1000"))


def test_missing_steps_name_the_others(run: Path) -> None:
    with pytest.raises(UsageError, match=r"steps=21,40 not in .*; its steps are 20, 300, 1000\."):
        series(run, [40, 20, 21])
    with pytest.raises(UsageError, match="its steps are"):
        series(run, [])
    with pytest.raises(UsageError, match="steps='last' is neither 'all' nor a list"):
        series(run, "last")


def test_checkpoints_without_weights(run: Path) -> None:
    (run / "checkpoint-20" / "model.safetensors").unlink()
    with pytest.warns(InputWarning, match="checkpoint-20 left out, without weights"):
        assert [step for step, _ in series(run)] == [300, 1000]
    assert [step for step, _ in series(run, [300])] == [300]
    with pytest.raises(UsageError, match=r"steps=20 not in .*; its steps are 300, 1000\."):
        series(run, [20])
    finish(run, 20)
    assert series(run)[0] == (20, str(run))


def test_interrupted_saves_are_left_out(run: Path) -> None:
    (run / "checkpoint-300" / "config.json").unlink()
    with pytest.warns(InputWarning, match="an interrupted save"):
        assert [step for step, _ in series(run)] == [20, 1000]


def test_no_run(tmp_path: Path, llama: Path, monkeypatch: Any) -> None:
    with pytest.raises(CheckpointError, match="is not a directory"):
        series(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no checkpoint-\* directory; drop --steps"):
        series(llama)
    (tmp_path / "r" / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="checkpoint-5 hold no weights"):
        series(tmp_path / "r")
