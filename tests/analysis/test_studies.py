"""What a study says of the results below it."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import analysis
from analysis.load import RecordWarning
from analysis.report.commands import commands, reproduce_command
from analysis.report.sections import what_was_run
from analysis.studies import searched, studies_below, study_of
from spectra.cli.arguments import parse_values
from spectra.cli.reproduce import Arguments
from spectra.errors import UsageError
from spectra.linalg import SymmetricOperator
from spectra.study import PRESETS, Study, study
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


def test_a_report_of_several_studies_says_where_they_differ_and_how_each_is_run(
    tmp_path: Path,
) -> None:
    for name, seeds in (("a", [0]), ("b", [0, 1])):
        open_study(tmp_path / name, Study(seeds=seeds, bits=[1.58, 2.0]))
    found = studies_below(tmp_path)
    assert list(found) == ["a", "b"]
    settings, words, apart = what_was_run(tmp_path, [], None)
    assert "1.58, 2" in settings
    assert "seeds" not in settings
    assert "differ" in words
    assert "<th>seeds</th>" in apart
    assert "<td>0, 1</td>" in apart
    assert "max_steps" not in apart
    shown = commands(tmp_path, {})[1]
    assert "spectra reproduce --output a " in shown
    assert "--seeds 0 1 " in shown
    assert len(what_was_run(tmp_path / "a", [], None)) == 1
    assert "--output a " in commands(tmp_path / "a", {})[1]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_printed_command_names_the_same_study(preset: str, tmp_path: Path) -> None:
    asked = replace(PRESETS[preset], learning_rate=1.2345678e-4, eval_data="a text.txt")
    open_study(tmp_path / "s", asked)
    words = shlex.split(reproduce_command("s", studies_below(tmp_path)["s"]))
    assert words[:2] == ["spectra", "reproduce"]
    values = parse_values(
        Arguments, words[2:], prog="", description="", none_of=("fractions", "surfaces")
    )
    own = {name: values.pop(name) for name in ("preset", "output")}
    assert own["output"] == "s"
    changes = {key: value for key, value in values.items() if value is not None}
    assert study(own["preset"], changes) == asked


def test_a_study_within_a_study_has_its_place(tmp_path: Path) -> None:
    open_study(tmp_path / "s", Study())
    open_study(tmp_path / "s" / "more", Study(seeds=[7]))
    shown = commands(tmp_path / "s", {})[1]
    assert "--output s/more " in shown
    assert "--output s " in shown
