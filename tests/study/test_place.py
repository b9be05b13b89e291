"""The directory of a study: whose it is, whether it is the study that was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectra import record
from spectra.errors import RecordError, UsageError
from spectra.study import Study, conduct, load_study
from spectra.study.plan import check_place, open_study

SMALL = Study(max_steps=4, checkpoints=3)


def test_a_study_that_was_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    open_study(tmp_path / "s", SMALL)
    path = tmp_path / "s" / "study.json"
    whole = path.read_text()
    path.write_text(whole.replace('"max_steps": 4', '"max_steps": 6'))
    with pytest.raises(RecordError, match="was changed after it was written"):
        load_study(tmp_path / "s")
    content = json.loads(whole)
    del content["content_sha256"]  # as releases before wrote it
    path.write_text(json.dumps(content))
    assert load_study(tmp_path / "s") == SMALL


def test_what_a_killed_start_leaves_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".study.json.17.tmp").write_text("{")
    (tmp_path / ".spectra.lock").write_text("17 elsewhere\n")
    assert not check_place(tmp_path, SMALL)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds other files"):
        check_place(tmp_path, SMALL)


def test_a_study_is_of_one_process(tmp_path: Path) -> None:
    with record.holding(tmp_path), pytest.raises(UsageError, match="in use by process"):
        conduct(SMALL, tmp_path, progress=False)
