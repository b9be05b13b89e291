"""What the terminal says of an adaptive estimate: asked, reached, and why it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.labels import known, section
from analysis.tables import DASH, aligned, share_interval
from spectra.record.spectrum import Spectrum

PARTS = ("resolution", "probes", "batches")
WHY = {
    "budget": "stopped at {products:,} of {max_hvps:,} products, not reached",
    "batches": "stopped after {products:,} products, not reached: the spread of batches is left",
    "probes": "stopped after {products:,} products, not reached: the probe error alone is wider",
    "product error": "stopped after {products:,} products, not reached: the product error is left",
    "spectrum": "stopped after {products:,} products, not reached: no step is left to make",
}


def adaptive_lines(spectrum: Spectrum) -> list[str]:
    """Return the outcome of an adaptive record as lines, none for another or an unfinished one."""
    found = section(spectrum.metadata, "adaptive")
    if not found.get("stopped"):
        return []
    asked, functionals = section(found, "asked"), found.get("functionals") or []
    tol = float(asked["tol"])
    scope = "the population over data" if asked.get("scope") == "population" else _these(spectrum)
    parts = [part for part in PARTS if any(known(row.get(part)) for row in functionals)]
    cells = [["", "interval", "width", *(f"of it {part}" for part in parts), "reached"]]
    cells += [_row(row, parts) for row in functionals]
    return [
        f"asked: intervals no wider than {2 * tol:g} (±{tol:g}), for {scope}",
        *aligned(cells),
        _why(found, asked),
        *(line for row in functionals for line in _needed(row, tol)),
    ]


def _these(spectrum: Spectrum) -> str:
    count = spectrum.steps.shape[0]
    return "this batch" if count == 1 else f"these {count} batches"


def _row(row: Mapping[str, Any], parts: list[str]) -> list[str]:
    if not known(row.get("width")):
        return [_name(row), DASH, DASH, *[DASH] * len(parts), "no"]
    numbers = [f"{row[part]:.3f}" if known(row.get(part)) else DASH for part in parts]
    interval = share_interval(row["lower"], row["upper"])
    return [
        _name(row),
        interval,
        f"{row['width']:.3f}",
        *numbers,
        "yes" if row["reached"] else "no",
    ]


def _name(row: Mapping[str, Any]) -> str:
    if not known(row.get("tau")):
        return "mass λ < 0"
    soft = row.get("name") == "soft_share"
    return f"share near zero, τ = {row['tau']:g}" if soft else f"mass |λ| ≤ {row['tau']:g}"


def _why(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    low, high = found["steps"]
    runs = f"{low:,} steps a run" if low == high else f"{low:,} to {high:,} steps a run"
    if found["stopped"] == "reached":
        return f"reached after {found['products']:,} products ({runs})"
    words = WHY[found["stopped"]].format(
        products=found["products"], max_hvps=asked.get("max_hvps") or 0
    )
    return f"{words} ({runs})"


def _needed(row: Mapping[str, Any], tol: float) -> list[str]:
    words = []
    if known(row.get("products_needed")):
        words.append(f"about {_round_up(row['products_needed']):,} products (--max_hvps)")
    if known(row.get("probes_needed")):
        words.append(f"about {_round_up(row['probes_needed']):,} probes (--num_probes)")
    if known(row.get("batches_needed")):
        words.append(f"about {_round_up(row['batches_needed']):,} batches (--num_batches)")
    return [f"  {_name(row)} to ±{tol:g}: {' and '.join(words)} would do"] if words else []


def _round_up(count: int) -> int:
    unit = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // unit) * unit
