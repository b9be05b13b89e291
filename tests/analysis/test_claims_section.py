"""The section of a report on claims: all at a glance and one by one, setting by setting."""

from __future__ import annotations

import re
from pathlib import Path

from analysis.claims import Claim
from analysis.report.claims import claims_section

ROOT = Path("/results")


def claim(statement: str, w_bits: float | None, verdict: str, setting: str = "") -> Claim:
    return Claim(
        key="k",
        statement=statement,
        paper="",
        w_bits=w_bits,
        quantity="q",
        values=((0.25, 0.125, 0.5),),
        seeds=(0,),
        verdict=verdict,
        setting=setting,
        notes=("seed 7 diverged",),
        sources=("/results/spectra/a",),
    )


def cells(table: str) -> list[list[str]]:
    rows = re.findall("<tr>(.*?)</tr>", table, re.S)
    return [re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row, re.S) for row in rows]


def test_settings_are_told_apart_and_every_claim_stands_twice() -> None:
    found = [
        claim("A holds", 1.0, "reproduced", "cosine"),
        claim("A holds", 2.0, "contradicted", "cosine"),
        claim("A holds", None, "not resolved", "cosine"),
        claim("A holds", 1.0, "withheld", "constant <b>"),
    ]
    parts = claims_section(ROOT, found, ["/results/x is unreadable"])
    tables = [cells(part) for part in parts if "<table" in part]
    assert len(tables) == 4  # two settings, at a glance and one by one
    assert tables[0] == [
        ["claim", "1 bit", "2 bits", "several"],
        ["A holds", "reproduced\n0.25", "contradicted\n0.25", "not resolved\n0.25"],
    ]
    assert tables[1] == [["claim", "1 bit"], ["A holds", "withheld\n0.25"]]
    assert [row[-1] for row in tables[2][1:]] == ["reproduced", "contradicted", "not resolved"]
    assert [row[1] for row in tables[2][1:]] == ["1", "2", ""]
    page = "\n".join(parts)
    assert page.count("constant &lt;b&gt;") == 2
    assert 'data-sources="spectra/a"' in page
    assert "4 claims were looked at: 1 reproduced, 1 contradicted, 1 not resolved" in page
    assert "seed 7 diverged" in page
    assert "x is unreadable" in page


def test_a_claim_that_stands_twice_is_told_apart() -> None:
    found = [claim("A", 1.0, "reproduced", "x"), claim("A", 1.0, "contradicted", "x")]
    glance = cells(next(part for part in claims_section(ROOT, found, []) if "<table" in part))
    assert [row[0] for row in glance] == ["claim", "A", "A (2)"]


def test_one_setting_needs_no_heading_and_none_no_table() -> None:
    assert "setting" not in "".join(claims_section(ROOT, [claim("A", 1.0, "reproduced")], []))
    (only,) = claims_section(ROOT, [], [])
    assert "No claim of the paper" in only
