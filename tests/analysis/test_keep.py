"""What is kept of a study: the same tables without weights."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import analysis
from analysis.keep import keep, stale
from spectra.errors import RecordError
from spectra.linalg import SymmetricOperator
from spectra.study import Study, load_study
from spectra.study.place import open_study
from tests.analysis.study import write_spectrum


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    diagonal = torch.linspace(-1, 2, 200, dtype=torch.float64)
    operator = SymmetricOperator.from_matvec(lambda v: diagonal * v, 200, dtype=torch.float64)
    write_spectrum(root / "spectra/a", operator, method="baseline", seed=0, step=1, steps=20)
    run = root / "runs/w2"
    (run / "checkpoint-1").mkdir(parents=True)
    (run / "checkpoint-1/trainer_state.json").write_text('{"log_history": []}')
    (run / "model.safetensors").write_bytes(b"weights")
    history = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 3.0}]
    state = {"log_history": history, "global_step": 1, "stateful_callbacks": {"x": [0] * 99}}
    (run / "trainer_state.json").write_text(json.dumps(state, indent=2))
    return root


def test_tables_are_the_same_without_the_weights(results: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    names = {path.relative_to(kept).as_posix() for path in keep(results, kept)}
    assert names == {"spectra/a/spectrum.npz", "runs/w2/trainer_state.json"}
    assert {p.name for p in kept.rglob("*") if p.is_file()} == {
        "spectrum.npz",
        "trainer_state.json",
    }
    for load in (analysis.load, analysis.load_training):
        a, b = (load(root).drop(columns="path") for root in (results, kept))
        pd.testing.assert_frame_equal(a, b)
    assert "stateful" not in (kept / "runs/w2/trainer_state.json").read_text()
    written = keep(results, kept)  # again, over what is there
    assert not stale(kept, written)
    assert [p.name for p in stale(kept, written[1:])] == [written[0].name]


def test_paths_of_one_machine_are_cut(results: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    model = str(tmp_path / "model.gguf")
    open_study(tmp_path / "study", Study(model=model))
    (tmp_path / "study/study.json").rename(results / "study.json")
    summary = results / "runs/w2/spectra_training.json"
    summary.write_text(json.dumps({"request": {"model": model, "data": "x"}}))
    keep(results, kept)
    assert load_study(kept).model == "model.gguf"  # and its hash is right
    assert str(tmp_path) not in (kept / "runs/w2/spectra_training.json").read_text()


def test_two_models_of_one_name_stay_two(results: Path, tmp_path: Path) -> None:
    models = {"w2": "/x/llama/final", "w3": "/y/qwen/final", "w4": "/x/llama/final"}
    for run, model in models.items():
        place = results / "runs" / run
        place.mkdir(exist_ok=True)
        text = json.dumps({"request": {"model": model, "data": "/z/text.txt"}})
        (place / "spectra_training.json").write_text(text)
    keep(results, tmp_path / "kept")
    found = {}
    for run in models:
        text = (tmp_path / "kept/runs" / run / "spectra_training.json").read_text()
        found[run] = json.loads(text)["request"]
    assert {run: one["model"] for run, one in found.items()} == {
        "w2": "llama/final", "w3": "qwen/final", "w4": "llama/final",
    }  # fmt: skip
    assert found["w2"]["data"] == "text.txt"


def test_nothing_to_keep_and_keeping_within_are_refused(results: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="neither records nor training runs"):
        keep(tmp_path / "empty", tmp_path / "kept")
    with pytest.raises(RecordError, match="keep results elsewhere"):
        keep(results, results / "kept")
