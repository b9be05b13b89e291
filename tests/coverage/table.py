"""The table as a file and as text."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.coverage.cells import Cell

KEPT = Path(__file__).parents[2] / "notebooks" / "benchmarks" / "coverage.json"
LEAST = 0.94  # coverage below which "95 %" may not be printed
Place = tuple[str, str, str, str]
Table = dict[Place, dict[str, Any]]


def load(path: Path) -> Table:
    """Return the rows of a kept table by part, quantity, family and setting."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {_place(row): row for row in rows}


def _place(row: dict[str, Any]) -> Place:
    return row["part"], row["quantity"], row["family"], row["setting"]


def merged(kept: Table, cells: Iterable[Cell], before: Table) -> Table:
    """Return the kept table with new cells in place of old ones, and what was `before` beside."""
    table = dict(kept)
    for cell in cells:
        table[cell.place] = cell.row()
    for place, row in table.items():
        if place in before:
            row["before"] = {key: before[place].get(key) for key in ("coverage", "width")}
    return table


def write(path: Path, table: Table) -> None:
    """Write the rows as JSON, and as text for readers beside it."""
    rows = [json.dumps(row, ensure_ascii=False) for row in table.values()]
    text = '{"confidence": 0.95, "rows": [\n' + ",\n".join(rows) + "\n]}\n"
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".md").write_text(render(table), encoding="utf-8")


def render(table: Table) -> str:
    """Return the table in Markdown: for each part and setting, quantities against families."""
    blocks: dict[tuple[str, str], Table] = defaultdict(dict)
    for place, row in table.items():
        blocks[place[0], place[3]][place] = row
    lines = [
        "# Coverage of nominal 95 % intervals",
        "",
        "Each entry: share of instances whose interval holds the exact value, and the median width "
        "relative to the exact value (its size where that is 0). In brackets, where it is known, "
        "the coverage before and the width now over the width before.",
    ]
    for (part, setting), rows in blocks.items():
        quantities = list(dict.fromkeys(row["quantity"] for row in rows.values()))
        families = list(dict.fromkeys(row["family"] for row in rows.values()))
        lines += ["", f"## {part}: {setting}", "", f"| | {' | '.join(quantities)} |"]
        lines.append("|---" * (len(quantities) + 1) + "|")
        for family in families:
            entries = [_entry(rows.get((part, name, family, setting))) for name in quantities]
            lines.append(f"| {family} | {' | '.join(entries)} |")
    return "\n".join(lines) + "\n"


def _entry(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if not row["instances"]:
        return "none given"
    width, exact = row["width"], row.get("exact") or 0.0
    shown = math.nan if width is None else width / abs(exact) if exact else width
    text = f"{row['coverage']:.3f}{' **low**' if row['coverage'] < LEAST else ''}, {shown:.2g}"
    if row.get("refused"):
        text += f" ({row['refused']} not given)"
    before = row.get("before")
    if before and before.get("coverage") is not None:
        ratio = width / before["width"] if width is not None and before.get("width") else math.nan
        text += f" [{before['coverage']:.3f}, ×{ratio:.2f}]"
    return text
