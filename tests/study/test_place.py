"""The directory of a study: whose it is, whether it is the study that was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from spectra import record
from spectra.errors import RecordError, UsageError
from spectra.study import Study, conduct, load_study
from spectra.study.jobs import jobs
from spectra.study.place import check_place, open_study

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


@pytest.mark.parametrize(
    "more",
    [
        {"seeds": [0, 1, 2]},
        {"bits": [4.0, 2.0]},
        {"methods": ["baseline", "reset", "winq"]},
        {"fractions": [0.0, 0.2, 0.4], "surfaces": ["ste", "quantized", "latent"]},
    ],
)
def test_a_study_grows(more: dict[str, list[object]], tmp_path: Path) -> None:
    open_study(tmp_path, SMALL)
    before = {job.name: job for job in jobs(SMALL, tmp_path)}
    grown = replace(SMALL, **more)  # type: ignore[arg-type]
    assert check_place(tmp_path, grown)
    assert load_study(tmp_path) == SMALL  # only what opens it writes
    open_study(tmp_path, grown)
    assert load_study(tmp_path) == grown
    after = {job.name: job for job in jobs(grown, tmp_path)}
    assert before.items() < after.items()  # what was made stays what the study asks for
    with pytest.raises(UsageError, match="a study may only grow: add"):
        check_place(tmp_path, SMALL)


def test_settings_of_every_job_do_not_grow(tmp_path: Path) -> None:
    open_study(tmp_path, SMALL)
    for changes in ({"max_steps": 8}, {"lanczos_steps": 61}, {"spectra_steps": [0, 4]}):
        with pytest.raises(UsageError, match=f"{next(iter(changes))}=.*is asked for; choose"):
            check_place(tmp_path, replace(SMALL, **changes))  # type: ignore[arg-type]
