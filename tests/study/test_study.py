"""A study: its jobs, that it goes on where it stopped, and the report made of it."""

from __future__ import annotations

import html
import json
import math
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import analysis
from analysis.load import RecordWarning
from spectra import record
from spectra.cli.main import main
from spectra.errors import NumericalError, RecordError, SpectraError, UsageError
from spectra.study import PRESETS, EstimateJob, Study, TrainJob, conduct, jobs, load_study, study
from spectra.study import conductor as conduct_module
from spectra.study.plan import method_settings

pytestmark = pytest.mark.filterwarnings("ignore::spectra.errors.NumericalWarning")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model and token ids."""
    root = tmp_path_factory.mktemp("study")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    LlamaForCausalLM(config).save_pretrained(root / "model")
    np.save(root / "ids.npy", np.arange(2000) % 32)
    return root


@pytest.fixture(scope="module")
def small(place: Path) -> Study:
    return Study(
        model=str(place / "model"),
        data=str(place / "ids.npy"),
        max_steps=4,
        checkpoints=3,
        batch_size=4,
        seq_len=8,
        eval_blocks=4,
        spectrum_seq_len=8,
        num_batches=2,
        lanczos_steps=6,
        fractions=[0.0, 0.4],
        surfaces=["ste", "latent"],
    )


@pytest.fixture(scope="module")
def finished(small: Study, place: Path) -> Path:
    root = place / "finished"
    outcome = conduct(small, root, progress=False)
    assert not outcome.failed
    analysis.write_report(root)
    return root


def test_every_job_leaves_what_it_says(small: Study, finished: Path) -> None:
    todo = jobs(small, finished)
    assert [type(job) for job in todo].count(TrainJob) == 2
    estimates = [job for job in todo if isinstance(job, EstimateJob)]
    assert len(estimates) == 2 * 3 + 3  # steps 0, 2, 4 of each; moved: ste 0.4, latent 0 and 0.4
    for job in estimates:
        found = record.load(finished / "spectra" / job.name)
        assert found.complete
        assert found.metadata["checkpoint"]["w_bits"] == 2
    moved = record.load(finished / "spectra" / "w2-baseline-seed0" / "latent-toward-0.4")
    assert (moved.metadata["surface"], moved.metadata["point"]["toward_grid"]) == ("latent", 0.4)
    assert load_study(finished) == small


def test_the_same_command_again_runs_nothing(
    small: Study, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(conduct_module, "_run", never)
    outcome = conduct(small, finished, progress=False)
    assert len(outcome.done) == len(jobs(small, finished))


def test_an_interrupted_study_ends_with_the_same_numbers(
    small: Study, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, run, count = tmp_path / "parts", conduct_module._run, 0

    def interrupted(*args: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count in (3, 6):
            raise KeyboardInterrupt
        run(*args, **options)

    monkeypatch.setattr(conduct_module, "_run", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            conduct(small, root, progress=False)
    assert not conduct(small, root, progress=False).failed
    for job in jobs(small, finished):
        if isinstance(job, EstimateJob):
            a, b = (record.load(where / "spectra" / job.name) for where in (finished, root))
            np.testing.assert_array_equal(a.alphas, b.alphas)
            np.testing.assert_array_equal(a.losses, b.losses)


def test_a_kill_after_the_last_file_of_a_job_leaves_nothing(small: Study, finished: Path) -> None:
    places = [Path(str(job.request.output)) for job in jobs(small, finished)]
    for place in places:
        (place / ".spectra.lock").write_text("17 elsewhere\n")
        (place / ".run.json.17.tmp").write_bytes(b"half")
    conduct(small, finished, progress=False)
    assert not [path for place in places for path in place.glob(".*")]


def test_another_study_in_the_same_place_is_refused(small: Study, finished: Path) -> None:
    with pytest.raises(UsageError, match="max_steps=4, and max_steps=8 is asked"):
        conduct(replace(small, max_steps=8), finished, progress=False)


def test_a_place_with_other_files_is_refused(small: Study, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds other files"):
        conduct(small, tmp_path, progress=False)


def test_a_failed_job_does_not_stop_the_rest(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = conduct_module.train

    def failing(request: Any, arguments: Any) -> Any:
        if request.w_bits == 4:
            raise NumericalError("the gradient turned NaN.")
        return whole(request, arguments)

    monkeypatch.setattr(conduct_module, "train", failing)
    broken = replace(small, bits=[2.0, 4.0], methods=["baseline"], fractions=[], checkpoints=2)
    outcome = conduct(broken, tmp_path / "broken", progress=False)
    assert outcome.failed == {"w4-baseline-seed0": "the gradient turned NaN."}
    assert outcome.without == {"w4-baseline-seed0": 2}
    assert {"w2-baseline-seed0", "w2-baseline-seed0/step-4"} <= set(outcome.done)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"quantizer": "paretoc"}, "did you mean paretoq"),
        ({"quantizer": "hif8:polcy=mean", "bits": [8.0]}, "no option 'polcy'; did you mean policy"),
        ({"bits": [2.0, 7.0]}, "w_bits=7"),
        ({"a_bits": 9}, "a_bits=9"),
        ({"surfaces": ["ste", "latant"]}, "surfaces='latant' .* did you mean latent"),
        ({"fractions": [2.0]}, "toward_grid=2"),
        ({"lanczos_steps": 0}, "lanczos_steps=0"),
        ({"spectrum_seq_len": 1}, "seq_len=1"),
        ({"reset_fraction": 3.0}, "reset_fraction=3"),
        ({"reset_every": 0}, "reset_every=0"),
        ({"noise_std": -1.0}, "std"),
        ({"model": "nope/nothing"}, "nope/nothing"),
        ({"data": "nope.txt"}, "nope.txt"),
        ({"eval_data": "nope.txt"}, "nope.txt"),
        ({"eval_blocks": -1}, "eval_blocks=-1"),
    ],
)
def test_what_no_job_could_begin_with_is_refused_before_anything_is_written(
    small: Study, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(SpectraError, match=named):
        conduct(replace(small, **changes), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written(small: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        conduct(small, tmp_path / "file" / "out", progress=False)


def test_damaged_study_files(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"version": 1, "speed": 3}')
    with pytest.raises(RecordError, match="is not a study"):
        load_study(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bits": []}, "bits is empty"),
        ({"seeds": [1, 1]}, "seeds=\\[1, 1\\] names one twice"),
        ({"methods": ["wing"]}, "did you mean winq"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"checkpoints": 1}, "checkpoints=1"),
        ({"max_steps": 10, "checkpoints": 4}, "a multiple of 3 steps"),
        ({"seeds": [0, -1]}, "seed=-1 is negative"),
        ({"spectra_seeds": 0}, "spectra_seeds=0"),
        ({"spectra_methods": ["reset"]}, "spectra_methods=reset are not among"),
        ({"learning_rate": -1.0}, "learning_rate=-1"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_studies_that_cannot_be(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        study("quick", changes)


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match="did you mean quick"):
        study("quik", {})


def test_methods_are_the_cells_of_the_factorial_design() -> None:
    asked = Study(reset_fraction=0.3, noise_std=0.002)
    assert method_settings("baseline", asked) == {"recipe": "baseline"}
    assert method_settings("winq", asked)["reset_fraction"] == 0.3
    assert method_settings("reset", asked)["noise_std"] == 0
    assert method_settings("noise", asked)["reset_fraction"] == 0
    assert method_settings("winq-f0.8", asked)["reset_fraction"] == 0.8
    assert method_settings("winq-s0.004", asked)["noise_std"] == 0.004


def test_the_full_preset_has_three_seeds_and_the_whole_design() -> None:
    full = PRESETS["full"]
    assert len(full.seeds) == 3
    assert set(full.bits) == {1.0, 1.58, 2.0, 3.0, 4.0}
    assert {"baseline", "winq", "reset", "noise"} <= set(full.methods)


def lookup(metadata: Any, key: str) -> Any:
    for part in key.split("."):
        metadata = metadata[part]
    return metadata


def test_every_number_of_the_report_is_found_in_a_record(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    cells = re.findall(r'data-record="([^"]+)" data-key="([^"]+)" title="[^"]*">([^<]*)<', page)
    assert len(cells) == 9 * 5
    for name, key, shown in cells:
        meta = json.loads((finished / name / "spectrum.json").read_text())
        value = lookup(meta, key)
        numbers = [float(x) for x in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", ascii_of(shown))]
        if key == "masked_fraction":
            assert numbers[0] / 100 == pytest.approx(value, abs=5e-5)
        else:
            ends = [value["lower"], value["upper"]]
            for number, truth in zip(numbers[-2:], ends, strict=True):
                assert number == pytest.approx(truth, rel=0.05, abs=0.011), (name, key, shown)


def ascii_of(text: str) -> str:
    return text.replace("−", "-")


def test_a_deleted_report_comes_back_the_same(finished: Path) -> None:
    path = finished / "report.html"
    before = path.read_bytes()
    path.unlink()
    assert main(["report", str(finished)]) == 0
    assert path.read_bytes() == before


def test_the_report_stands_alone(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "withheld" in page
    assert page.count("<img") == len(list((finished / "figures").glob("*.png")))
    for command in re.findall(r"spectra estimate [^\n<]*", page):
        assert "--ckpt" in command


def test_the_commands_of_a_report_repeat_its_records(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = html.unescape((finished / "report.html").read_text())
    commands = [line for line in re.findall(r"spectra estimate [^\n<]*", page)]
    assert len(commands) == len(list((finished / "spectra").rglob("spectrum.npz")))
    moved = next(line for line in commands if "latent-toward-0.4" in line)
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(moved)[1:], "--figure", "false"]) == 0
    name = shlex.split(moved)[-1].removeprefix("again/")
    one, again = record.load(finished / name), record.load(tmp_path / "again" / name)
    np.testing.assert_array_equal(one.alphas, again.alphas)
    assert one.metadata["request"] == again.metadata["request"]


def test_a_report_does_not_depend_on_how_its_place_was_typed(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished / "report.html").read_bytes()
    tables = [(finished / "tables" / name).read_bytes() for name in ("records.csv", "training.csv")]
    monkeypatch.chdir(finished)
    assert main(["report", "."]) == 0
    assert (finished / "report.html").read_bytes() == before
    again = [(finished / "tables" / name).read_bytes() for name in ("records.csv", "training.csv")]
    assert again == tables


def test_a_damaged_study_file_is_said_and_left_out(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "spectra", tmp_path / "spectra")
    (tmp_path / "study.json").write_text('{"bits": {"a": 1}}')
    with pytest.warns(RecordWarning, match="is damaged"):
        analysis.write_report(tmp_path)
    assert "The whole study" not in (tmp_path / "report.html").read_text()


def test_reports_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no record"):
        analysis.write_report(tmp_path)
    with pytest.raises(RecordError, match="not a directory"):
        analysis.write_report(tmp_path / "missing")


def test_the_verb(
    small: Study, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["reproduce", "--output", str(tmp_path / "out"), "--model", small.model]
    flags += ["--data", small.data, "--max_steps", "2", "--checkpoints", "2", "--batch_size", "4"]
    flags += ["--seq_len", "8", "--eval_blocks", "4", "--spectrum_seq_len", "8"]
    flags += ["--num_batches", "1", "--lanczos_steps", "4", "--methods", "baseline"]
    flags += ["--fractions", "0", "--surfaces", "latent"]
    assert main(flags) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].endswith("report.html")
    assert "[1/4] train w2-baseline-seed0" in err
    assert math.isfinite(record.load(tmp_path / "out/spectra/w2-baseline-seed0/step-2").losses[0])
    shutil.rmtree(tmp_path / "out" / "runs" / "w2-baseline-seed0")


def test_an_interrupted_study_says_how_to_go_on(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conduct_module, "train", interrupted)
    place = str(tmp_path / "out")
    flags = ["--model", small.model, "--data", small.data, "--seq_len", "8", "--eval_blocks", "4"]
    assert main(["reproduce", "--output", place, *flags, "--spectrum_seq_len", "8"]) == 130
    said = capsys.readouterr().err
    assert f"kept in {place}; go on with: spectra reproduce --output {place}" in said
