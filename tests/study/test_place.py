"""The directory of a study: whose it is, whether it is the study that was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from spectra import record
from spectra.errors import RecordError, UsageError
from spectra.study import Study, conduct, load_study
from spectra.study.jobs import Job, jobs
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
    before = begun(SMALL, tmp_path)
    grown = replace(SMALL, **more)  # type: ignore[arg-type]
    assert check_place(tmp_path, grown)
    assert load_study(tmp_path) == SMALL  # only what opens it writes
    open_study(tmp_path, grown)
    assert load_study(tmp_path) == grown
    after = begun(grown, tmp_path)
    assert before.items() < after.items()  # what was made stays what the study asks for
    with pytest.raises(UsageError, match=r"leaves out '.*', which is begun"):
        check_place(tmp_path, SMALL)
    told = json.loads((tmp_path / "study.json").read_text())["earlier"]
    assert told == ["; ".join(f"{key}={getattr(SMALL, key)}" for key in more)]


def begun(study: Study, place: Path) -> dict[str, Job]:
    """Make the directory of every job, and return the jobs by name."""
    found = {job.name: job for job in jobs(study, place)}
    for job in found.values():
        Path(str(job.request.output)).mkdir(parents=True, exist_ok=True)
    return found


def test_what_is_not_begun_can_be_taken_back(tmp_path: Path) -> None:
    open_study(tmp_path, SMALL)
    begun(SMALL, tmp_path)
    open_study(tmp_path, replace(SMALL, seeds=[0, 1]))
    open_study(tmp_path, SMALL)
    assert load_study(tmp_path) == SMALL


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"initial": "once"}, {"methods": ["winq", "baseline"]}),
        ({"spectra_seeds": 1}, {"seeds": [1, 0]}),
        ({}, {"series_surfaces": ["ste", "latent"]}),  # latent-toward-0 would have another name
    ],
)
def test_growth_that_would_drop_a_record_is_refused(
    first: dict[str, object], then: dict[str, object], tmp_path: Path
) -> None:
    study = replace(SMALL, **first)  # type: ignore[arg-type]
    open_study(tmp_path, study)
    begun(study, tmp_path)
    with pytest.raises(UsageError, match="what is new behind what was there"):
        check_place(tmp_path, replace(study, **then))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [5, None, 0.5])
def test_a_list_that_is_none_is_no_study(value: object, tmp_path: Path) -> None:
    open_study(tmp_path, SMALL)
    path = tmp_path / "study.json"
    content = json.loads(path.read_text()) | {"fractions": value}
    del content["content_sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="not a study of this release"):
        check_place(tmp_path, SMALL)


def test_settings_of_every_job_do_not_grow(tmp_path: Path) -> None:
    open_study(tmp_path, SMALL)
    for changes in ({"max_steps": 8}, {"lanczos_steps": 61}, {"spectra_steps": [0, 4]}):
        with pytest.raises(UsageError, match=f"{next(iter(changes))}=.*is asked for; choose"):
            check_place(tmp_path, replace(SMALL, **changes))  # type: ignore[arg-type]
