"""The few pieces of HTML that a report is made of; everything inside the one file."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analysis.style import RC
from spectra.errors import printable

SCREEN_DPI = 96
CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: #1d1d1f;
  max-width: 1080px; margin: 0 auto; padding: 24px 20px 80px; background: #fff; }
h1 { font-size: 26px; margin: 8px 0 4px; } h2 { font-size: 19px; margin: 40px 0 8px; }
h3 { font-size: 15px; margin: 24px 0 6px; } p { max-width: 75ch; margin: 6px 0; }
nav a { margin-right: 14px; } a { color: #0072b2; }
table { border-collapse: collapse; font-size: 13px; margin: 10px 0; }
th, td { text-align: left; padding: 4px 10px 4px 0; vertical-align: top;
  border-bottom: 1px solid #e4e4e7; }
th { color: #52525b; font-weight: 600; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.lines { white-space: pre-line; } td.claim { min-width: 230px; }
.setting { max-width: none; margin: 22px 0 0; padding-left: 8px; border-left: 3px solid #0072b2;
  font-size: 13px; color: #3f3f46; }
.scroll { overflow-x: auto; }
figure { margin: 14px 0 22px; } figure img { max-width: 100%; height: auto; }
figcaption, .small { color: #52525b; font-size: 13px; max-width: 90ch; }
pre { background: #f4f4f5; padding: 10px 12px; overflow-x: auto; font-size: 12.5px; }
.verdict { font-weight: 600; white-space: nowrap; }
.reproduced { color: #006d4f; } .contradicted { color: #b03a00; }
.unresolved, .withheld { color: #52525b; }
"""


@dataclass(frozen=True)
class Cell:
    """A table cell that says where its number is from.

    Attributes:
        text: What is shown.
        data: Attributes `data-…`, shown on pointing at the cell, as {"record": path,
            "key": "summary.lambda_max.batches.value"}.
        css: Class.
    """

    text: str
    data: Mapping[str, str] = field(default_factory=dict)
    css: str = ""

    def __str__(self) -> str:
        shown = escaped(self.text)
        extra = "".join(f' data-{k}="{escaped(v)}"' for k, v in self.data.items())
        if self.data:
            extra += f' title="{escaped(", ".join(self.data.values()))}"'
        css = f' class="{self.css}"' if self.css else ""
        return f"<td{css}{extra}>{shown}</td>"


def escaped(text: str) -> str:
    """Return text as it may stand in a page, between tags and in quoted attributes."""
    return html.escape(printable(text, lines=True))


def table(header: Sequence[str], rows: Iterable[Sequence[str | Cell]]) -> str:
    """Return a table; plain strings are escaped."""
    head = "".join(f"<th>{escaped(name)}</th>" for name in header)
    lines = []
    for row in rows:
        cells = (str(c if isinstance(c, Cell) else Cell(c)) for c in row)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n{body}</table></div>'


def figure(png: Path, caption: str) -> str:
    """Return a figure with the picture inside, at the size it was drawn for."""
    content = png.read_bytes()
    pixels = int.from_bytes(content[16:20], "big")  # the width, in a PNG's header
    width = round(pixels * SCREEN_DPI / RC["savefig.dpi"])
    data, text = base64.b64encode(content).decode("ascii"), escaped(caption)
    return (
        f'<figure><img alt="{text}" width="{width}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def paragraph(text: str, css: str = "") -> str:
    """Return a paragraph."""
    return f"<p{f' class={chr(34)}{css}{chr(34)}' if css else ''}>{escaped(text)}</p>"


def heading(text: str) -> str:
    """Return a heading within a section."""
    return f"<h3>{escaped(text)}</h3>"


def code(text: str) -> str:
    """Return preformatted text."""
    return f"<pre>{escaped(text)}</pre>"


def section(anchor: str, title: str, *parts: str) -> str:
    """Return a section with a heading that the contents link to."""
    return "\n".join([f'<h2 id="{anchor}">{escaped(title)}</h2>', *parts])


def page(title: str, contents: Mapping[str, str], parts: Iterable[str]) -> str:
    """Return the whole file.

    Args:
        title: Of the page.
        contents: Anchor -> name of each section.
        parts: The sections.
    """
    links = " ".join(f'<a href="#{a}">{escaped(n)}</a>' for a, n in contents.items())
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title><style>{CSS}</style></head><body>",
            f"<h1>{escaped(title)}</h1><nav>{links}</nav>",
            *parts,
            "</body></html>\n",
        ]
    )
