"""Methods side by side: how far the spectrum of each reaches, and how large its eigenvalues are.

A row a method, a line a surface: from λmin to λmax with a tick at either end, on a symmetric-log
axis, and a dot at the root mean square eigenvalue with its interval (thick). Differences between
rows are differences of checkpoints, not of the method alone: `analysis.compare` tells whether one
is resolved.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.axes import LAMBDA, lambda_axis
from analysis.labels import bits_label, drawn, known
from analysis.style import BLUE, GREEN, VERMILION, axes_for
from spectra.errors import UsageError

SURFACES = {"ste": BLUE, "quantized": GREEN, "latent": VERMILION}
SPREAD = 0.24  # between the lines of a row
NEEDED = ("lambda_min", "lambda_max", "rms_eigenvalue", "surface")


def plot_methods(runs: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the extremes and the root mean square eigenvalue of each method, a line a surface.

    Args:
        runs: Rows of `analysis.load`, one a method and surface.
        ax: Where to draw; None for a new figure.

    Raises:
        UsageError: If a column is missing, or two rows are of one method and surface.
    """
    missing = [name for name in NEEDED if name not in runs]
    if missing:
        raise UsageError(f"these rows have no {', '.join(missing)}; pass rows of analysis.load.")
    rows = runs.assign(label=[_label(row) for _, row in runs.iterrows()])
    twice = rows[rows.duplicated(["label", "surface"])]
    if len(twice):
        label, surface = twice.iloc[0][["label", "surface"]]
        alike = rows[(rows["label"] == label) & (rows["surface"] == surface)]
        raise UsageError(
            f"{len(alike)} records are of {label} on surface {surface} "
            f"({', '.join(map(str, alike['name']))}); pass one of each."
        )
    labels = list(dict.fromkeys(rows["label"]))
    ax = axes_for(ax, (6.6, 1.1 + 0.52 * len(labels)))
    there = [name for name in SURFACES if name in set(rows["surface"])]
    for number, surface in enumerate(there):
        shift = SPREAD * (number - (len(there) - 1) / 2)
        mine = rows[rows["surface"] == surface]
        _draw(ax, mine, [labels.index(label) + shift for label in mine["label"]], surface)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ends = float(rows["lambda_min"].min()) * 1.3, float(rows["lambda_max"].max()) * 1.3
    lambda_axis(ax, ends, _linear(rows))
    ax.axvline(0, color="0.75", linewidth=0.8, zorder=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(LAMBDA)
    words = "λmin to λmax; dot: rms eigenvalue, 95 % these batches"
    ax.set_title(words, loc="left", fontsize=7.5, color="#555555")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.04), ncols=3, frameon=False)
    return ax


def _draw(ax: Axes, rows: pd.DataFrame, heights: list[float], surface: str) -> None:
    colour = SURFACES[surface]
    ax.hlines(heights, rows["lambda_min"], rows["lambda_max"], color=colour, linewidth=1.1)
    for end in ("lambda_min", "lambda_max"):
        ax.plot(rows[end], heights, "|", color=colour, markersize=6)
    low, high = rows["rms_eigenvalue_lower"], rows["rms_eigenvalue_upper"]
    ax.hlines(heights, low, high, color=colour, linewidth=3.2, alpha=0.45)
    ax.plot(rows["rms_eigenvalue"], heights, "o", color=colour, markersize=4, label=surface)


def _linear(rows: pd.DataFrame) -> float:
    """Return where the axis turns logarithmic: below every root mean square."""
    smallest = float(rows["rms_eigenvalue"].min())
    return max(smallest / 2, 1e-9)


def _label(row: Any) -> str:
    parts = [row.get("quantizer"), bits_label(row.get("w_bits"), row.get("a_bits"))]
    method = row.get("method")
    parts.append(method if known(method) and method != "baseline" else None)
    words = [str(part) for part in parts if known(part) and part]
    return drawn(" ".join(words) or row.get("name"))
