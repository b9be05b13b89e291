"""Names of methods: what they change, and what is no name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spectra.cli.yamlfile import read_config
from spectra.errors import UsageError
from spectra.study import Study, TrainJob, jobs, study
from spectra.study.cells import Cell, cell

RECIPES = sorted((Path(__file__).parents[2] / "analysis" / "runs").glob("*.yaml"))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("baseline", Cell("baseline")),
        ("baseline-constant", Cell("baseline", {}, None, "constant")),
        ("winq-f0.8", Cell("winq", {"reset_fraction": 0.8})),
        ("noise-s0.004", Cell("noise", {"noise_std": 0.004})),
        ("winq-k24-lr3e-4-linear", Cell("winq", {"reset_every": 24}, 3e-4, "linear")),
        ("reset-from5-until9", Cell("reset", {"reset_from": 5, "reset_until": 9})),
        ("winq+cage-k8", Cell("winq+cage", {"reset_every": 8})),
    ],
)
def test_a_name_says_what_it_changes(name: str, changes: Cell) -> None:
    assert cell(name) == changes


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("wniq", "did you mean winq"),
        ("baseline-f0.4", "'f0.4' is no change of 'baseline'"),
        ("reset-s0.001", "'s0.001' is no change of 'reset'"),
        ("noise-k8", "'k8' is no change of 'noise'"),
        ("winq-k2.5", "'k2.5' is no whole number"),
        ("winq-k8-k9", "sets reset_every twice"),
        ("winq-lr0", "'lr0' is no change"),
        ("winq-cosine-linear", "'linear' is no change"),
        ("winq-", "'' is no change"),
        ("winq-f", "'f' is no change"),
    ],
)
def test_what_is_no_name_is_refused_in_a_sentence(name: str, named: str) -> None:
    with pytest.raises(UsageError, match=re.escape(named)):
        cell(name)


def test_a_cell_decides_rate_and_schedule_of_its_run() -> None:
    asked = Study(methods=["baseline", "reset-k5-lr2e-3-constant"], spectra_methods=[])
    first, second = jobs(asked, Path("out"))
    assert isinstance(first, TrainJob)
    assert isinstance(second, TrainJob)
    assert (first.learning_rate, first.schedule) == (1e-3, "cosine")
    assert (second.learning_rate, second.schedule) == (2e-3, "constant")
    assert (second.request.reset_every, second.request.noise_std) == (5, 0.0)
    assert second.name == "w2-reset-k5-lr2e-3-constant-seed0"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("winq", "winq-f0.4"),
        ("winq", "winq-k80"),
        ("winq-lr3e-4", "winq-lr0.0003"),
        ("baseline", "baseline-cosine"),
        ("noise", "noise-s0.001"),
    ],
)
def test_two_names_of_one_method_are_refused(one: str, other: str) -> None:
    with pytest.raises(UsageError, match=f"methods {one} and {other} are one"):
        Study(methods=[one, other], spectra_methods=[])


def test_step_zero_once_is_a_record_of_each_width_and_surface() -> None:
    asked = Study(
        bits=[1.0, 2.0],
        seeds=[3, 4],
        series_surfaces=["ste", "latent"],
        initial="once",
        fractions=[],
    )
    found = [job.name for job in jobs(asked, Path("out")) if "step-0" in job.name]
    assert found == [
        f"w{bits}-baseline-seed3/step-0{end}" for bits in (1, 2) for end in ("", "-latent")
    ]
    each = Study(bits=[1.0, 2.0], seeds=[3, 4], series_surfaces=["ste", "latent"], fractions=[])
    assert sum("step-0" in job.name for job in jobs(each, Path("out"))) == 16


def test_spectra_of_chosen_steps_alone() -> None:
    asked = Study(spectra_steps=[80, 240], fractions=[])
    found = {job.name.rpartition("-")[2] for job in jobs(asked, Path("o")) if "/" in job.name}
    assert found == {"80", "240"}
    with pytest.raises(UsageError, match="spectra_steps=81 is no checkpoint"):
        Study(spectra_steps=[81])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_kept_recipes_are_studies_of_the_size_they_say(path: Path) -> None:
    todo = jobs(study("quick", read_config(path)), Path("out"))
    trained = sum(isinstance(job, TrainJob) for job in todo)
    comment = " ".join(re.findall(r"^# (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE))
    records = len(todo) - trained
    assert f"{trained} training runs, {records or 'no'} {'records' if records else 'spectra'}" in (
        comment
    )
