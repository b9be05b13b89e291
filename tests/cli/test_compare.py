"""`spectra compare`: what it prints and writes, and how it refuses."""

from __future__ import annotations

import io

import pandas
import pytest

import analysis
from spectra.cli.main import main
from tests.analysis.conftest import make_spectrum


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    sizes = {"batches": 2, "steps": 20, "dim": 2000, "delta": 1e-4}
    for run_name, scale in (("base", 1.0), ("winq", 1.3)):
        for step in (100, 200):
            make_spectrum(scale=scale, **sizes).save(root / run_name / f"step-{step}")
    make_spectrum(surface="quantized", **sizes).save(root / "other")
    make_spectrum(estimator={"protocol": "winq"}, **sizes).save(root / "reference")
    (root / "empty").mkdir()
    for step in (100, 200, 300):  # the second is of another surface
        more = {"surface": "quantized"} if step == 200 else {}
        make_spectrum(**sizes, **more).save(root / "mixed" / f"step-{step}")
    return root


def test_a_pair_is_printed(place, capsys):
    code, out, err = run(capsys, "compare", place / "base/step-100", place / "winq/step-100")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("A  ")
    assert any(line.startswith("resolved: the interval excludes 0") for line in lines)
    assert any(line.startswith("  λmax ") for line in lines)
    assert any(line.startswith("  mass |λ| ≤ 0.0015 ") for line in lines)


def test_thresholds_and_csv(place, tmp_path, capsys):
    pair = place / "base/step-100", place / "winq/step-100"
    code, out, _ = run(capsys, "compare", *pair, "--tau", 0.2, 0.4, "--csv", "-")
    table = pandas.read_csv(io.StringIO(out))
    assert code == 0
    assert {"near_zero_0.2", "near_zero_0.4"} < set(table["quantity"])
    assert "near_zero_0.0015" not in set(table["quantity"])
    assert list(table.columns[:2]) == ["quantity", "tau"]
    code, out, _ = run(capsys, "compare", *pair, "--csv", tmp_path / "t.csv")
    assert len(pandas.read_csv(out.splitlines()[-1])) == len(table) + 1


def test_directories_are_paired_by_name(place, capsys):
    code, out, _ = run(capsys, "compare", place / "base", place / "winq", "--csv", "-")
    table = pandas.read_csv(io.StringIO(out))
    assert code == 0
    assert table["pair"].unique().tolist() == ["step-100", "step-200"]
    code, out, _ = run(capsys, "compare", place / "base", place / "winq")
    assert out.startswith("step-100\nA  ")
    assert "\n\nstep-200\nA  " in out


def test_a_pair_that_fails_is_named_and_the_others_are_done(place, tmp_path, capsys):
    roots = place / "mixed", place / "winq"
    code, out, err = run(capsys, "compare", *roots, "--csv", tmp_path / "t.csv")
    assert code == 1
    assert out.startswith("step-100\nA  ")
    assert "step-200" not in out
    assert out.splitlines()[-1] == str(tmp_path / "t.csv")
    assert pandas.read_csv(tmp_path / "t.csv")["pair"].unique().tolist() == ["step-100"]
    lines = err.splitlines()
    assert lines[:2] == ["spectra: note: left out: step-300 (A only)", "1 of 2 pairs failed:"]
    names = f"step-200 ({roots[0] / 'step-200'} and {roots[1] / 'step-200'})"
    assert lines[2].startswith(f"  {names}: surface differs (quantized in A, latent in B)")
    assert len(lines) == 3
    code, out, _ = run(capsys, "compare", *roots, "--csv", "-")
    assert code == 1
    assert pandas.read_csv(io.StringIO(out))["pair"].unique().tolist() == ["step-100"]


def test_pairs_that_all_fail_leave_no_table(place, tmp_path, capsys):
    for step in (100, 200):
        (tmp_path / "a" / f"step-{step}").mkdir(parents=True)
        for file in (place / "other").iterdir():
            (tmp_path / "a" / f"step-{step}" / file.name).write_bytes(file.read_bytes())
    table = tmp_path / "t.csv"
    code, out, err = run(capsys, "compare", tmp_path / "a", place / "winq", "--csv", table)
    assert (code, out) == (1, "")
    assert err.startswith("2 of 2 pairs failed:\n  step-100 (")
    assert not table.exists()
    (tmp_path / "a" / "step-100").rename(tmp_path / "a" / "x")
    code, out, err = run(capsys, "compare", tmp_path / "a", place / "winq")
    assert (code, out) == (2, "")  # the only pair of one name
    sentence = err.splitlines()[-1]
    assert sentence.startswith("spectra compare: step-200 (")
    assert "surface differs" in sentence


def test_a_record_against_itself_is_told(place, capsys):
    record = place / "base/step-100"
    code, out, _ = run(capsys, "compare", record, record)
    assert code == 0
    assert "note: A and B are the same record: nothing can differ" in out.splitlines()
    _, out, _ = run(capsys, "compare", record, place / "winq/step-100")
    assert "the same record" not in out


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["--tau", "0.1", "A", "B"], "A B --tau 0.1"),
        (["--tau", "0.1", "0.2", "A", "B", "--csv", "-"], "A B --tau 0.1 0.2 --csv -"),
        (["--scope", "population", "A", "B"], "A B --scope population"),
        (["--scope=population", "A", "B"], "A B --scope=population"),
        (["A", "--tau", "0.1", "B"], "A B --tau 0.1"),
    ],
)
def test_records_after_options_are_told_to_come_first(arguments, command, capsys):
    code, out, err = run(capsys, "compare", *arguments)
    assert (code, out) == (2, "")
    assert err == (
        "spectra compare: records come first, before the options, as in: "
        f"spectra compare {command}\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["A", "B", "--tau", "x"], "invalid float value: 'x'"),
        (["--tau", "x", "A", "B"], "invalid float value: 'x'"),
        (["--tauu", "0.1", "A", "B"], "'--tauu' is not an option"),
        (["--tau", "0.1"], "0 records given"),
    ],
)
def test_other_mistakes_keep_their_sentence(arguments, words, capsys):
    code, _, err = run(capsys, "compare", *arguments)
    assert code == 2
    assert words in err
    assert "come first" not in err


@pytest.mark.parametrize("name", ["f.jpg", "f.png.gif", "w1.58", ""])
def test_a_figure_of_no_known_format_is_refused_before_anything(name, place, capsys, monkeypatch):
    monkeypatch.setattr(analysis, "compare", lambda *_, **__: pytest.fail("compared"))
    pair = place / "base/step-100", place / "winq/step-100"
    path = str(place / name) if name else ""
    code, out, err = run(capsys, "compare", *pair, "--figure", path)
    assert (code, out) == (2, "")
    assert f"figure={path!r}" in err
    assert err.count("\n") == 1
    assert not list(place.glob("f.*")) + list(place.glob("w1*"))


def test_a_figure_without_a_suffix_is_pdf_and_png(place, tmp_path, capsys):
    pair = place / "base/step-100", place / "winq/step-100"
    code, out, _ = run(capsys, "compare", *pair, "--figure", tmp_path / "f")
    assert code == 0
    assert out.splitlines()[-2:] == [str(tmp_path / "f.pdf"), str(tmp_path / "f.png")]


def test_the_figure_is_written(place, tmp_path, capsys):
    pair = place / "base/step-100", place / "winq/step-100"
    code, out, _ = run(capsys, "compare", *pair, "--figure", tmp_path / "f.png")
    assert code == 0
    assert out.splitlines()[-1] == str(tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


WRONG = {
    "one record": (["base/step-100"], 2, "compare takes two"),
    "not a record": (["empty", "other"], 1, "no record"),
    "absent": (["nowhere", "other"], 1, "nowhere"),
    "other surface": (["base/step-100", "other"], 2, "surface differs"),
    "reference": (["base/step-100", "reference"], 2, "'winq'"),
    "no common name": (["base", "other"], 2, "no name in common"),
    "scope": (["base/step-100", "winq/step-100", "--scope", "all"], 2, "scope='all'"),
    "population": (["base/step-100", "winq/step-100", "--scope", "population"], 2, "at least 3"),
    "tau": (["base/step-100", "winq/step-100", "--tau", "0"], 2, "tau=0"),
    "two figures": (["base", "winq", "--figure", "f.png"], 2, "draws one pair"),
    "csv": (["base/step-100", "winq/step-100", "--csv", "empty/no/t.csv"], 1, "cannot be written"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence(case, place, capsys):
    arguments, expected, phrase = WRONG[case]
    paths = [place / a if (place / a.partition("/")[0]).is_dir() else a for a in arguments]
    paths = [place / a if a == "nowhere" else a for a in paths]
    code, out, err = run(capsys, "compare", *paths)
    assert code == expected, err
    assert phrase in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert out == "" or case == "csv"
