"""A heat map of one number over two quantities: near-zero mass by transformer block and step.

A cell is coloured only if its value is resolved (analysis.sweeps); otherwise it is hatched, since
its interval allows most of the colours. In a small map every cell has its interval in words; under
any map stands the widest interval of a coloured cell. White is a cell without a record, or one
whose threshold lies below the product error.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from analysis.labels import drawn, step_label
from analysis.style import BLACK, axes_for, figure_style
from analysis.sweeps import (
    IDENTITY,
    interval_words,
    is_share,
    prepared,
    quantity_label,
    with_intervals,
)
from analysis.tables import number_interval, share_interval, text
from spectra.errors import UsageError

MAP = "cividis"
DECADE = 10.0  # ratio of ends from which colours follow the logarithm
WORDS = 60  # cells at most in a map with words
TICKS = 16
FINEST = 1e-3  # half-width below which a legend does not go
HATCHED: Any = {"facecolor": "#F2F2F2", "edgecolor": "#9A9A9A", "hatch": "////", "lw": 0.0}


def plot_heatmap(
    runs: pd.DataFrame,
    value: str = "near_zero_0.1",
    *,
    x: str = "step",
    y: str = "layer",
    ax: Axes | None = None,
) -> Axes:
    """Draw one number of each record as the colour of a cell; cells not resolved are hatched.

    Args:
        runs: Rows of `analysis.load`, at most one for each x and y: those of one training run.
        value: Column with an interval: near_zero_0.1, lambda_max, rms_eigenvalue, ...
        x: Column of the horizontal axis: step, layer, ...
        y: Column of the vertical axis: layer, module, w_bits, ...
        ax: Axes to draw on; default a new figure's.

    Raises:
        UsageError: If a column does not exist, or is empty, or two records share a cell.
    """
    runs = prepared(runs, (value, x, y))
    there = runs[runs[x].notna() & runs[y].notna()]
    if there.empty:
        raise UsageError(
            f"no record tells both {x} and {y}; spectra of single blocks are written by "
            "`spectra estimate --per layer`."
        )
    _refuse_shared(there, x, y)
    table = with_intervals(there, value)
    columns, rows = _distinct(there[x]), _distinct(there[y])
    places = {
        label: (rows.index(there.loc[label, y]), columns.index(there.loc[label, x]))
        for label in there.index
    }
    shape = (len(rows), len(columns))
    colours, lower, upper = (np.full(shape, np.nan) for _ in range(3))
    sure = np.zeros(shape, dtype=bool)
    for label, cell in places.items():
        lower[cell], upper[cell] = table.loc[label, ["lower", "upper"]].astype(float)
        sure[cell] = bool(table.loc[label, "resolved"])
        colours[cell] = float(table.loc[label, "value"]) if sure[cell] else np.nan
    with figure_style():
        small = colours.size <= WORDS
        size = (2.2 + (0.95 if small else 0.4) * len(columns), 1.4 + 0.36 * len(rows))
        ax = axes_for(ax, (min(max(size[0], 4.6), 12.0), min(max(size[1], 2.6), 10.0)))
        norm = _norm(colours)
        if norm is not None:
            mesh = ax.pcolormesh(colours, cmap=MAP, norm=norm)
            bar = ax.figure.colorbar(mesh, ax=ax, pad=0.02)
            bar.ax.tick_params(labelsize=7.5)
            bar.outline.set_visible(False)
        told = ~np.isnan(lower)
        for i, j in np.argwhere(told & ~sure):
            ax.add_patch(Rectangle((j, i), 1, 1, **HATCHED))
        if small:
            _words(ax, colours, lower, upper, norm, share=is_share(value))
        _axes(ax, columns, rows, x, y)
        _below(ax, there, value, told & sure, told & ~sure, lower, upper, _left_out(runs, x, y))
    return ax


def _left_out(runs: pd.DataFrame, x: str, y: str) -> str:
    """Say how many records have no place in the map, as those of whole models in one by block."""
    count = int((runs[x].isna() | runs[y].isna()).sum())
    keys = " or ".join(key for key in (y, x) if runs[key].isna().any())
    return f"{count} record{'s' if count > 1 else ''} without {keys}: not drawn" if count else ""


def _refuse_shared(runs: pd.DataFrame, x: str, y: str) -> None:
    twice = runs[runs.duplicated([x, y], keep=False)]
    if twice.empty:
        return
    first = twice.iloc[0]
    same = twice[(twice[x] == first[x]) & (twice[y] == first[y])]
    keys = (key for key in IDENTITY if key in same and key not in (x, y))
    differ = [key for key in keys if same[key].nunique(dropna=False) > 1] or ["name"]
    raise UsageError(
        f"{len(same)} records have {x}={text(first[x])}, {y}={text(first[y])} and differ in "
        f"{', '.join(differ)}; pass the rows of one, as runs[runs[{differ[0]!r}] == ...]."
    )


def _distinct(values: pd.Series[Any]) -> list[Any]:
    return sorted(dict.fromkeys(values))


def _norm(colours: NDArray[np.float64]) -> Normalize | None:
    there = colours[np.isfinite(colours)]
    if there.size == 0:
        return None
    low, high = float(there.min()), float(there.max())
    if low > 0 and high > DECADE * low:
        return LogNorm(low, high)
    return Normalize(low, high) if high > low else Normalize(low - 0.5 * abs(low) - 1e-9, high)


def _words(
    ax: Axes,
    colours: NDArray[np.float64],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    norm: Normalize | None,
    *,
    share: bool,
) -> None:
    words = share_interval if share else number_interval
    ramp = mpl.colormaps[MAP]
    for i, j in np.argwhere(~np.isnan(lower)):
        shade: Any = BLACK
        if norm is not None and np.isfinite(colours[i, j]):
            shade = "white" if sum(ramp(norm(colours[i, j]))[:3]) < 1.4 else BLACK
        plain = not np.isfinite(colours[i, j])
        box = {"facecolor": HATCHED["facecolor"], "lw": 0, "pad": 1.0} if plain else None
        interval = words(lower[i, j], upper[i, j])
        ax.text(j + 0.5, i + 0.5, interval, ha="center", va="center", fontsize=7, color=shade,
                bbox=box)  # fmt: skip


def _axes(ax: Axes, columns: list[Any], rows: list[Any], x: str, y: str) -> None:
    ax.set_xlim(0, len(columns))
    ax.set_ylim(0, len(rows))
    ax.grid(visible=False)
    for name, values, axis in ((x, columns, ax.xaxis), (y, rows, ax.yaxis)):
        stride = max(1, -(-len(values) // TICKS))
        places = range(0, len(values), stride)
        axis.set_ticks([k + 0.5 for k in places], [_tick(name, values[k]) for k in places])
        axis.set_tick_params(length=0)
        axis.set_label_text(quantity_label(name))
    ax.vlines(range(1, len(columns)), 0, len(rows), color="white", lw=1.0)
    ax.hlines(range(1, len(rows)), 0, len(columns), color="white", lw=1.0)
    for side in ax.spines.values():
        side.set_visible(False)


def _tick(name: str, value: Any) -> str:
    if name == "step":
        return step_label(value)
    return f"{value:g}" if isinstance(value, int | float) else drawn(value)


def _below(
    ax: Axes,
    runs: pd.DataFrame,
    value: str,
    sure: NDArray[np.bool_],
    wide: NDArray[np.bool_],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    left_out: str,
) -> None:
    """Say what is drawn, what the intervals are and which records have no cell, above the map."""
    told = [f"95 % intervals, {interval_words(runs, value)}"]
    if sure.any():
        whole = 1.0 if is_share(value) else np.maximum(np.abs(lower), np.abs(upper))[sure] / 100
        unit = "" if is_share(value) else " %"
        worst = float(((upper - lower)[sure] / np.maximum(whole, 1e-300)).max()) / 2
        told.append(f"a coloured cell is known to ±{max(worst, FINEST):.2g}{unit} or better")
    name = quantity_label(value).replace("\n", " ")
    words = "\n".join(part for part in (name, "; ".join(told), left_out) if part)
    ax.set_title(words, loc="left", fontsize=7.5, color="#555555")
    if wide.any():
        ax.legend([Patch(**HATCHED)], ["not resolved"], loc="upper left",
                  bbox_to_anchor=(0.0, -0.16), fontsize=7.5, borderaxespad=0.0)  # fmt: skip
