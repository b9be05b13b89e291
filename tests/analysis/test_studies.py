"""What a study says of the results below it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import analysis
from analysis.load import RecordWarning
from analysis.studies import searched, study_of
from spectra.errors import UsageError
from spectra.linalg import SymmetricOperator
from spectra.study import Study
from spectra.study.place import open_study
from tests.analysis.study import write_spectrum


def test_runs_and_records_of_a_search_say_so(tmp_path: Path) -> None:
    diagonal = torch.linspace(-1, 2, 200, dtype=torch.float64)
    operator = SymmetricOperator.from_matvec(lambda v: diagonal * v, 200, dtype=torch.float64)
    for purpose in ("search", "claims"):
        root = tmp_path / purpose
        open_study(root, Study(purpose=purpose))
        place = root / "spectra/w2-baseline-seed0/step-1"
        write_spectrum(place, operator, method="baseline", seed=0, step=1, steps=20)
        run = root / "runs/w2"
        run.mkdir(parents=True)
        (run / "trainer_state.json").write_text('{"log_history": [{"step": 1, "loss": 2.0}]}')
    for frame in (analysis.load(tmp_path), analysis.load_training(tmp_path)):
        assert list(frame["search"]) == ["/search/" in path for path in frame["path"]]
    assert analysis.claims(analysis.load(tmp_path / "search")) == []
    assert analysis.claims(analysis.load(tmp_path / "claims"))


def test_a_damaged_study_is_named_and_no_search(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{")
    with pytest.warns(RecordWarning, match=r"study\.json.* is damaged"):
        assert not searched(tmp_path / "runs" / "w2")
    (tmp_path / "study.json").write_text(json.dumps({"purpose": "search"}))
    assert searched(tmp_path / "runs" / "w2")
    assert not searched(tmp_path / "a/b/c/d/e")  # too far below to belong to it
    assert study_of(tmp_path) == {"purpose": "search"}


def test_another_purpose_is_refused() -> None:
    with pytest.raises(UsageError, match="purpose='serach' is not one of claims, search"):
        Study(purpose="serach")
