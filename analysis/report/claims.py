"""The section of a report on the paper's claims: the verdicts at a glance, then one by one.

Claims on runs of other settings are other claims, so both are told setting by setting.
"""

from __future__ import annotations

from pathlib import Path

from analysis import html
from analysis.claims import VERDICTS, Claim, measured, quantity, verdicts
from analysis.report.paths import shorter

CSS_OF = {"reproduced": "reproduced", "contradicted": "contradicted", "withheld": "withheld"}
WIDTHS = {"1": "1 bit", "all": "several"}
NOTE = (
    "Claims of WinQ (arXiv 2605.17471). Differences are later minus earlier step, WinQ minus "
    "baseline, moved minus unmoved, fewer bits minus more. Withheld: fewer than three seeds. "
    "Point at what was measured to see the records and runs it is from."
)
GLANCE = (
    "A column for each width, and one for claims on several. Beside a verdict the mean over "
    "the seeds, or what their values or intervals cover."
)


def claims_section(root: Path, found: list[Claim], left_out: list[str]) -> list[str]:
    """Return the tables of claims and their notes."""
    left = [html.paragraph(note.replace(f"{root}/", ""), "small") for note in left_out]
    if not found:
        text = "No claim of the paper can be looked at with these results."
        return [html.paragraph(text), *left]
    parts = [html.paragraph(_counted(found)), html.paragraph(GLANCE, "small")]
    settings = list(dict.fromkeys(claim.setting for claim in found))
    for setting in settings:
        here = [claim for claim in found if claim.setting == setting]
        parts += [*_heading(setting), _glance(here)]
    parts += [html.heading("One by one"), html.paragraph(NOTE, "small")]
    for setting in settings:
        here = [claim for claim in found if claim.setting == setting]
        parts += [*_heading(setting), _one_by_one(root, here)]
    remarks = {f"{c.statement}: {n}".replace(f"{root}/", ""): None for c in found for n in c.notes}
    return [*parts, *(html.paragraph(text, "small") for text in remarks), *left]


def _counted(found: list[Claim]) -> str:
    counts = {name: sum(claim.verdict == name for claim in found) for name in VERDICTS}
    words = [f"{count} {name}" for name, count in counts.items() if count]
    return f"{len(found)} claims were looked at: {', '.join(words)}."


def _heading(setting: str) -> list[str]:
    return [html.paragraph(setting, "setting")] if setting else []


def _glance(found: list[Claim]) -> str:
    """Return the table of verdicts, claims down and widths across."""
    frame = verdicts(found)
    rows = []
    for _, row in frame.iterrows():
        again = str(row["setting"]).removeprefix(
            found[0].setting
        )  # " (2)" of one that stands twice
        cells: list[str | html.Cell] = [html.Cell(f"{row['claim']}{again}", css="claim")]
        for text in row.iloc[2:]:
            verdict, _, number = str(text).partition(": ")
            whole = number.replace(" [", "\n[").replace(", ", ",\N{NO-BREAK SPACE}")
            shown = "\n".join(filter(None, (verdict, whole)))
            cells.append(html.Cell(shown, css=f"lines {_css(verdict)}"))
        rows.append(cells)
    widths = (WIDTHS.get(name, f"{name} bits") for name in frame.columns[2:])
    return html.table(("claim", *widths), rows)


def _one_by_one(root: Path, found: list[Claim]) -> str:
    rows = [
        (
            claim.statement,
            "" if claim.w_bits is None else f"{claim.w_bits:g}",
            quantity(claim),
            html.Cell(_lines(claim), {"sources": _sources(root, claim)}, "lines"),
            claim.paper,
            claim.here,
            html.Cell(claim.verdict, css=f"verdict {_css(claim.verdict)}"),
        )
        for claim in found
    ]
    head = ("claim", "bits", "quantity", "measured [95 %]", "paper", "these runs", "verdict")
    return html.table(head, rows)


def _css(verdict: str) -> str:
    return CSS_OF.get(verdict, "unresolved")


def _lines(claim: Claim) -> str:
    return measured(claim).replace("; ", "\n").replace(", mean of ", ", mean of\n")


def _sources(root: Path, claim: Claim) -> str:
    return ", ".join(dict.fromkeys(shorter(root, path) for path in claim.sources))
