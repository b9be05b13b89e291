"""Loss curves with the step at which a method has the loss that the baseline ends with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.canvas import new_figure
from analysis.figures.training import METHODS, NAMES, PANEL, plot_training, shared_handles
from analysis.labels import bits_label
from analysis.speedup import Speedup, speedups
from analysis.style import BLACK, axes_for, figure_style, legend_above
from spectra.errors import UsageError

DETAIL = 0.25  # of the steps: losses before that do not set the y axis
BACKGROUND: Any = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}


def plot_speedup(
    runs: pd.DataFrame,
    *,
    method: str = "winq",
    base: str = "baseline",
    y: str = "eval_loss",
    ax: Axes | None = None,
) -> Axes:
    """Draw the losses of a method and the baseline, and the speed-up between them.

    The dashed line is the baseline's last loss, mean over seeds. Open circles: where each seed's
    run first has its baseline's last loss. In words: the speed-up with its interval over seeds.
    Where only some seeds get there, there is no mean to draw: each of them has its own dashed line
    and its number.

    Args:
        runs: Rows of `analysis.load_training`, of one bit width.
        method: The method.
        base: What it is compared with.
        y: The logged loss.
        ax: Where to draw; None for a new figure.

    Raises:
        UsageError: If the runs are of several widths, or have no pair with the same seed.
    """
    found = speedups(runs, method=method, base=base, y=y)
    if len(found) > 1:
        raise UsageError(
            f"these runs have {len(found)} bit widths; pass the rows of one, or call "
            "plot_speedup_grid."
        )
    one = found[0]
    # Runs without a partner would move a mean that is not compared.
    mine = runs[runs["method"].isin([method, base]) & runs["seed"].isin(one.seeds)]
    with figure_style():
        ax = axes_for(ax, (5.2, 3.4))
        plot_training(mine, y, ax=ax)
        _axis(ax, mine, y)
        _mark(ax, one)
        ax.legend(loc="upper right")
    return ax


def plot_speedup_grid(
    runs: pd.DataFrame, *, method: str = "winq", base: str = "baseline", y: str = "eval_loss"
) -> Figure:
    """Return a figure with a panel of `plot_speedup` for each bit width that has a pair."""
    found = speedups(runs, method=method, base=base, y=y)
    columns = min(3, len(found))
    rows = math.ceil(len(found) / columns)
    with figure_style():
        size = (max(1.25 * PANEL * columns, 4.6), 2.9 * rows + 0.3)
        figure = new_figure(size)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, one in zip(panels, found, strict=False):
            mine = runs
            for name, bits in (("w_bits", one.w_bits), ("a_bits", one.a_bits)):
                if name in mine and bits is not None:
                    mine = mine[mine[name] == bits]
            plot_speedup(mine, method=method, base=base, y=y, ax=panel)
            panel.set_title(bits_label(one.w_bits, one.a_bits), loc="left", weight="bold")
            panel.get_legend().remove()
        for place, panel in enumerate(panels):
            panel.set_visible(place < len(found))
            if place % columns:
                panel.set_ylabel("")
        legend_above(figure, shared_handles(panels[: len(found)]))
    return figure


def _axis(ax: Axes, runs: pd.DataFrame, y: str) -> None:
    """Let the later part of training set the y axis; the first fall would flatten the rest."""
    there = runs[runs[y].notna()]
    last = float(there["step"].max())
    late = there[there["step"] >= DETAIL * last][y]
    low, high = float(late.min()), float(late.max())
    room = (high - low) or 0.1 * abs(high) or 1.0
    ax.set_ylim(low - 0.3 * room, high + 0.12 * room)


def _mark(ax: Axes, one: Speedup) -> None:
    colour: Any = METHODS.get(one.method, BLACK)
    level: dict[str, Any] = {"color": METHODS.get(one.base, BLACK), "ls": "--", "zorder": 1}
    there = [
        (seed, step, goal, end)
        for seed, step, goal, end in zip(one.seeds, one.steps, one.goals, one.ends, strict=True)
        if not math.isnan(step)
    ]
    if len(there) in (0, len(one.seeds)):
        goal = float(np.mean(one.goals))
        ax.axhline(goal, lw=0.9, **level)
    if len(there) == len(one.seeds):
        first, last = float(np.mean(one.steps)), float(np.mean(one.ends))
        arrow = {"arrowstyle": "->", "color": BLACK, "lw": 0.9, "shrinkA": 0, "shrinkB": 4}
        ax.annotate("", (first, goal), (last, goal), arrowprops=arrow)
    else:
        for seed, step, goal, end in there:
            ax.hlines(goal, step, end, lw=0.9, **level)
            ax.annotate(
                f"seed {seed}", (step, goal), xytext=(4, 4), textcoords="offset points",
                fontsize=7, color=colour, bbox=BACKGROUND, zorder=6,
            )  # fmt: skip
    shape: dict[str, Any] = {"ls": "none", "marker": "o", "ms": 5, "mfc": "white", "color": colour}
    ax.plot([step for _, step, *_ in there], [goal for *_, goal, _ in there], zorder=5, **shape)
    words = f"{NAMES.get(one.method, one.method)}: {one}"
    ax.annotate(words, (0.02, 0.03), xycoords="axes fraction", fontsize=8, color=colour)
