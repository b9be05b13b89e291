"""Names that mean something to a browser, a terminal or a typesetter: shown, never obeyed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis import html
from analysis.report.write import write_report
from spectra import record
from spectra.cli.main import main
from spectra.errors import RecordError, printable
from tests.hostile.results import SHIPPED

EVIL = "<script>alert(1)</script>\"' onload=x \x1b[31m\x07\n\u202e$\\frac{1}{$ \ud800&amp;"
NAMED = ("path", "revision", "quantizer", "stored_dtype", "architecture")
RUN, RECORDS = "w2-winq-seed0", ("step-48", "step-96", "step-144")


class Page(HTMLParser):
    """Tags and attributes of a page as a browser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def _evil(value: Any) -> Any:
    """Every text in a value, hostile."""
    if isinstance(value, dict):
        return {key: _evil(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_evil(entry) for entry in value]
    return value + EVIL if isinstance(value, str) else value


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose every text is hostile, but for what tells the methods and surfaces apart."""
    root = tmp_path_factory.mktemp("results")
    for name in RECORDS:
        one = record.load(SHIPPED / "spectra" / RUN / name)
        meta: dict[str, Any] = _evil(one.metadata)
        meta["surface"], meta["reduce"] = one.metadata["surface"], one.metadata["reduce"]
        meta["estimator"] = one.metadata["estimator"]
        record.save(dataclasses.replace(one, metadata=meta), root / "spectra" / f"<b>$_^$ {name}")
    shutil.copytree(SHIPPED / "runs" / RUN, root / "runs" / "<i>run$\\x")
    for file in (root / "runs").rglob("spectra_training.json"):
        said = json.loads(file.read_text())
        said["recipe"]["name"] += EVIL
        said["quantization"]["quantizer"] += EVIL
        file.write_text(json.dumps(said))
    study = json.loads((SHIPPED / "study.json").read_text())
    (root / "study.json").write_text(json.dumps(_evil(study) | {"version": 1, EVIL: EVIL}))
    return root


def test_report(results: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = write_report(results)
    text = (results / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "b", "i", "iframe", "object"} & set(page.tags)
    assert not [name for name in page.attributes if name.startswith("on")]
    assert "&lt;script&gt;" in text
    assert all(path.is_relative_to(results) for path in written)
    for path in results.rglob("*"):
        if path.suffix in (".html", ".csv", ".svg"):
            content = path.read_text(encoding="utf-8")
            assert content == printable(content, lines=True), path
            assert path.suffix != ".svg" or "<script" not in content


@pytest.mark.parametrize(
    "words",
    [
        ["table"],
        ["table", "--csv", "-"],
        ["plot", "--kind", "density", "--hue", "quantizer"],
        ["plot", "--kind", "sweep", "--x", "step", "--y", "lambda_max", "--hue", "name"],
        ["plot", "--kind", "extremes"],
        ["plot", "--kind", "training", "--y", "loss"],
        ["plot", "--kind", "grad"],
    ],
)
def test_verbs(
    results: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "figure.svg")] if words[0] == "plot" else []
    code = main([words[0], str(results), *words[1:], *output])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert "\x1b" not in out + err
    assert out == printable(out, lines=True)
    for file in tmp_path.glob("*.svg"):
        content = file.read_text(encoding="utf-8")
        assert content == printable(content, lines=True)


def test_single_records(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = sorted((results / "spectra").iterdir())[:2]
    assert main(["plot", str(one), "--output", str(tmp_path / "one.svg")]) == 0
    assert main(["compare", str(one), str(two), "--figure", str(tmp_path / "two.svg")]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert out == printable(out, lines=True)


def test_a_kind_of_verb_is_not_echoed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["\x1b[31mx"]) == 2
    assert main(["table", "--csv\x1b[31m", "x"]) == 2
    assert "\x1b" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "made",
    [
        html.table((EVIL,), [(EVIL, html.Cell(EVIL, {"record": EVIL}))]),
        html.paragraph(EVIL),
        html.code(EVIL),
        html.section("a", EVIL),
        html.page(EVIL, {"a": EVIL}, ()),
    ],
)
def test_pieces_of_a_page(made: str) -> None:
    page = Page(made)
    assert "script" not in page.tags
    assert "onload" not in page.attributes
    assert made == printable(made, lines=True)


def _results(place: Path) -> Path:
    shutil.copytree(SHIPPED / "spectra" / RUN / "step-48", place / "one")
    return place


def test_a_report_replaces_links_and_does_not_follow_them(tmp_path: Path) -> None:
    root, precious = _results(tmp_path / "results"), tmp_path / "precious"
    precious.write_text("kept")
    names = ("report.html", "tables/records.csv", "figures/sweep_lambda_max.png")
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(precious)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a layout with one point in a figure
        write_report(root)
    assert precious.read_text() == "kept"
    assert not any((root / name).is_symlink() for name in names)


@pytest.mark.parametrize("name", ["tables", "figures"])
def test_a_directory_that_is_a_link_is_refused(tmp_path: Path, name: str) -> None:
    root, elsewhere = _results(tmp_path / "results"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / name).symlink_to(elsewhere)
    with pytest.raises(RecordError, match="is a link, and a report is written below its results"):
        write_report(root)
    assert not list(elsewhere.iterdir())


def test_tables_in_place_of_links(tmp_path: Path) -> None:
    root, precious = _results(tmp_path / "results"), tmp_path / "precious"
    precious.write_text("kept")
    place = tmp_path / "out.csv"
    place.symlink_to(precious)
    assert main(["table", str(root), "--csv", str(place)]) == 0
    assert precious.read_text() == "kept"


def test_a_record_replaces_links(tmp_path: Path) -> None:
    """Also one of the name that the temporary file will have."""
    precious, place = tmp_path / "precious", tmp_path / "record"
    precious.write_text("kept")
    place.mkdir()
    for name in ("spectrum.json", f".spectrum.npz.{os.getpid()}.tmp"):
        (place / name).symlink_to(precious)
    analysis.spectrum(SHIPPED / "spectra" / RUN / "step-48").save(place)
    assert precious.read_text() == "kept"
    assert record.load(place).finished
