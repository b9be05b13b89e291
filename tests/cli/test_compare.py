"""`spectra compare`: what it prints and writes, and how it refuses."""

from __future__ import annotations

import io

import pandas
import pytest

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
