"""One number of each record against a quantity: near-zero mass over steps, λmax over bits, ..."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.canvas import new_figure
from analysis.figures.lines import (
    DASHES,
    MARKERS,
    Handles,
    draw_line,
    handles_of,
    interval_handles,
    legend_beside,
    markers_of,
    name_of,
    palette_of,
    shifts_of,
    signed_axis,
    styles_of,
    told,
    x_axis,
    y_axis,
)
from analysis.figures.training import plot_training
from analysis.style import GREY, axes_for, figure_style, legend_above
from analysis.sweeps import (
    Line,
    at_the_checkpoint,
    choose,
    lines,
    prepared,
    quantity_label,
    tells,
)
from spectra.errors import UsageError

PANEL = 2.7  # inches


def plot_sweep(
    runs: pd.DataFrame,
    x: str = "step",
    y: str = "near_zero_0.1",
    *,
    hue: str | None = None,
    style: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one number of each record, with its interval, against x; a line a training run.

    Args:
        runs: Rows of `analysis.load`.
        x: Column: step, w_bits, toward_grid, layer, lanczos_steps, ...
        y: Column with an interval: near_zero_0.1, lambda_max, rms_eigenvalue, loss, ...
        hue: Column that colours; default the first of method, w_bits, surface, ... that differs.
        style: Column that chooses markers; default the next that differs.
        ax: Axes to draw on; default a new figure's.

    Raises:
        UsageError: If a column does not exist, or no record has both x and y.
    """
    runs = prepared(runs, [name for name in (x, y, hue, style) if name is not None])
    runs, moved = at_the_checkpoint(runs, x, y, (hue, style))
    hue = hue or choose(runs, [x])
    style = style or choose(runs, [x, hue])
    found, missing = lines(runs, x, y, hue=hue, style=style)
    with figure_style():
        ax = axes_for(ax, (6.0, 3.6))
        legend = _panels([ax], [found], runs, x, y, hue, style)
        legend_beside(ax, told(legend, missing, moved))
    return ax


def plot_sweep_grid(
    runs: pd.DataFrame,
    x: str = "step",
    y: str = "near_zero_0.1",
    *,
    panel: str = "w_bits",
    hue: str | None = None,
) -> Figure:
    """Return a figure with a panel of `plot_sweep` for each value of a column, on one scale.

    Args:
        runs: Rows of `analysis.load`.
        x: Column.
        y: Column with an interval.
        panel: Column that makes the panels.
        hue: Column that colours; default the first of method, surface, ... that differs.

    Raises:
        UsageError: If a column does not exist, or no record has panel, x and y.
    """
    runs = prepared(runs, [name for name in (x, y, panel, hue) if name is not None])
    if not runs[panel].notna().any():
        raise UsageError(f"no record tells {panel}; draw them in one panel (plot_sweep).")
    runs, moved = at_the_checkpoint(runs, x, y, (panel, hue))
    there = runs[tells(runs, x, y) & runs[panel].notna()]
    values = sorted((runs if there.empty else there)[panel].dropna().unique())
    hue = hue or choose(runs, [x, panel])
    style = choose(runs, [x, panel, hue])
    parts = [runs[runs[panel] == value] for value in values]
    found = [lines(part, x, y, hue=hue, style=style)[0] for part in parts]
    columns = min(3, len(values))
    rows = math.ceil(len(values) / columns)
    with figure_style():
        size = (max(PANEL * columns, 4.6), 2.6 * rows + 0.4)
        figure = new_figure(size)
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        legend = _panels(list(panels[: len(values)]), found, runs, x, y, hue, style)
        for ax, value, part in zip(panels, values, parts, strict=False):
            ax.set_title(name_of(panel, value, part), loc="left", weight="bold")
        for place, ax in enumerate(panels):
            ax.set_visible(place < len(values))
            if place % columns:
                ax.set_ylabel("")
        shown = told(legend, len(runs) - len(there), moved)
        legend_above(figure, [(handle, name.replace("\n", " ")) for handle, name in shown])
    return figure


def _panels(
    panels: list[Axes],
    found: list[list[Line]],
    runs: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None,
    style: str | None,
) -> Handles:
    """Draw the lines of each panel, all on the scales of all; return their one legend."""
    every = [line for some in found for line in some]
    palette, markers = palette_of(every, hue), markers_of(every)
    for ax, some in zip(panels, found, strict=True):
        place = x_axis(ax, runs, x)
        y_axis(ax, every, y)
        for line, shift in zip(some, shifts_of(some, ax), strict=True):
            dashes = DASHES[MARKERS.index(markers[line.style]) % len(DASHES)]
            draw_line(ax, line, place, palette[line.hue], markers[line.style], dashes, shift)
        ax.set_xlabel(quantity_label(x))
        ax.set_ylabel(quantity_label(y))
    shapes = None if style is None else markers
    handles = handles_of(every, runs, hue, style, palette, shapes)
    return handles + interval_handles(every, runs, y)


def plot_extremes(
    runs: pd.DataFrame, x: str = "step", *, hue: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw λmax (▲) and λmin (▼) of each record against x, on a symmetric-log axis.

    Args:
        runs: Rows of `analysis.load`.
        x: Column: step, w_bits, layer, ...
        hue: Column that colours; default the first that differs.
        ax: Axes to draw on; default a new figure's.

    Raises:
        UsageError: If a column does not exist, or no record has both ends.
    """
    runs = prepared(runs, [name for name in (x, "lambda_min", "lambda_max", hue) if name])
    runs, moved = at_the_checkpoint(runs, x, "lambda_max", (hue,))
    hue = hue or choose(runs, [x])
    style = choose(runs, [x, hue])
    with figure_style():
        ax = axes_for(ax, (6.0, 3.8))
        place = x_axis(ax, runs, x)
        both = {
            end: lines(runs, x, end, hue=hue, style=style) for end in ("lambda_max", "lambda_min")
        }
        everything = [line for found, _ in both.values() for line in found]
        signed_axis(ax, everything)
        palette = palette_of(everything, hue)
        order = {value: rank for rank, value in enumerate(dict.fromkeys(styles_of(everything)))}
        for marker, aside, (found, _) in zip("^v", (-1.2, 1.2), both.values(), strict=True):
            for line, shift in zip(found, shifts_of(found, ax), strict=True):
                dashes = DASHES[order[line.style] % len(DASHES)]
                draw_line(ax, line, place, palette[line.hue], marker, dashes, shift + aside)
        ax.axhline(0, color=GREY, lw=0.7, zorder=1)
        ax.set_xlabel(quantity_label(x))
        ax.set_ylabel("λ  (loss per squared weight)")
        handles: Handles = [
            (Line2D([], [], color=GREY, ls="none", marker=m, ms=5), n)
            for m, n in zip("^v", ("λmax", "λmin"), strict=True)
        ]
        handles += handles_of(everything, runs, hue, None, palette, None)
        if style is not None:
            handles += [
                (Line2D([], [], color=GREY, ls=DASHES[k % len(DASHES)]), name_of(style, v, runs))
                for v, k in order.items()
            ]
        handles += interval_handles(everything, runs, "lambda_max")
        legend_beside(ax, told(handles, both["lambda_max"][1], moved))
    return ax


def plot_grad_ratio(runs: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the norm of the gradient over that of the weights against the step.

    Args:
        runs: Rows of `analysis.load` whose records tell the norm of the weights, or rows of
            `analysis.load_training`, of one bit width, whose logs have the ratio without an
            interval.
        ax: Axes to draw on; default a new figure's.

    Raises:
        UsageError: If neither tells it.
    """
    name = "grad_weight_ratio"
    if name not in runs.columns or not runs[name].notna().any():
        raise UsageError(
            "these runs do not tell the norm of the gradient over that of the weights; pass the "
            "logs of `spectra train` (analysis.load_training)."
        )
    if f"{name}_se" in runs.columns:
        return plot_sweep(runs, "step", name, ax=ax)
    return plot_training(runs, name, ax=ax)
