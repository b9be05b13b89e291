"""Letters that a stream's encoding lacks are spelled out, and tables keep their columns."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import spectra
from spectra.cli.main import USAGE, VERBS, main
from spectra.cli.streams import ERRORS, Escaped, saying_everything, spelled

ENCODINGS = ("ascii", "latin-1", "cp1252", "utf-8")


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_anything_can_be_printed(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    out, err = stream(encoding), stream(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    @given(st.text())
    def try_one(text: str) -> None:
        with saying_everything():
            print(text, file=Escaped(sys.stdout))
            if encoding != "utf-8":  # where halves of pairs are the caller's to escape
                print(text, file=sys.stderr)

    try_one()
    out.flush()
    assert out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert (out.errors, err.errors) == ("strict", "strict")


def test_what_an_encoding_has_stays() -> None:
    assert spelled("λ = −1 ± 2 × é", "utf-8") == "λ = −1 ± 2 × é"
    assert spelled("λ = −1 ± 2 × é", "latin-1") == "lambda = -1 ± 2 × é"
    assert spelled("λ = −1 ± 2 × é", "ascii") == "lambda = -1 +- 2 x \\xe9"
    assert spelled("λ", None) == "λ"
    assert "Δβ".encode("ascii", ERRORS) == b"Deltabeta"


def test_the_end_of_a_closed_stream_is_silent() -> None:
    """Python 3.13 tells of what fails when an object ends; the tests make that an error."""
    out = stream("utf-8")
    escaped = Escaped(out)
    out.close()
    escaped.close()
    assert escaped.closed


def test_columns_stay_where_there_is_room() -> None:
    rows = ["λmin        −1.5  [0.0, 1.0]", "mass λ ≤ 2        [0.0, 1.0]"]
    plain = spelled("\n".join(rows), "ascii").split("\n")
    assert plain == ["lambdamin   -1.5  [0.0, 1.0]", "mass lambda <= 2  [0.0, 1.0]"]
    assert spelled("   λ  x", "ascii") == "   lambda  x"  # indented by as much as before


@given(st.lists(st.sampled_from(["λ", "−1.5", "≤ 2", "ab", "ρ = 3"]), min_size=1, max_size=6))
def test_right_ends_of_roomy_columns_stay(cells: list[str]) -> None:
    row = "".join(cell.rjust(30) for cell in cells)
    ends = [30 * (number + 1) for number in range(len(cells))]
    plain = spelled("|" + row, "ascii")
    assert [plain[end] for end in ends] == [spelled(cell, "ascii")[-1] for cell in cells]


def test_every_letter_of_help_and_tables_has_a_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [USAGE]
    for verb in VERBS:
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        texts.append(capsys.readouterr().out)
    analysis = Path(spectra.__file__).parents[1] / "analysis"
    names = ("summary", "tables", "labels", "adaptive", "comparison")
    texts += [(analysis / f"{name}.py").read_text(encoding="utf-8") for name in names]
    for letter in sorted(set("".join(texts))):
        shown = spelled(letter, "ascii")
        assert "\\" not in shown or letter == "\\", letter
