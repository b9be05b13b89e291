"""Where resets help: leads as a map over settings, and the gain of each reset against the rate."""

from __future__ import annotations

import re

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from analysis.canvas import new_figure
from analysis.labels import NOISE, bits_label, known
from analysis.resets import regime, reset_events
from analysis.style import BLACK, CATEGORIES, GREY, axes_for, figure_style
from analysis.tables import SIGN
from spectra.errors import UsageError

MAP = "PuOr_r"  # ahead is violet, behind is orange
WORDS = {"end": "at the end", "middle": "in the middle third"}


def plot_regime(training: pd.DataFrame, value: str = "end") -> Figure:
    """Return a figure with a map for each width: the lead of every cell of resets and schedule.

    Rows are interval and fraction of the resets, columns rate and schedule; a number is the mean
    over seeds of the held-out loss less the baseline's, in nats: negative is ahead.

    Args:
        training: Rows of `analysis.load_training`.
        value: "end" or "middle".

    Raises:
        UsageError: If no run has a baseline of its setting.
    """
    table = regime(training)
    table = table[table["reset_every"].notna()]
    widths = sorted(table["w_bits"].unique())
    limit = max(float(table[value].abs().max()), 1e-3)
    norm = TwoSlopeNorm(0.0, -limit, limit)
    if table.empty:
        raise UsageError("none of these runs has resets; train one: spectra train --recipe winq.")
    order = table.sort_values(["reset_every", "reset_fraction", "method"])
    rows = [str(name) for name in order["method"].drop_duplicates()]
    pairs = table[["base_learning_rate", "schedule"]].drop_duplicates().to_numpy()
    columns = sorted(((float(rate), str(schedule)) for rate, schedule in pairs), reverse=True)
    with figure_style():
        size = (2.0 + 0.85 * len(columns) * len(widths), 1.5 + 0.34 * len(rows))
        figure = new_figure(size)
        panels = figure.subplots(1, len(widths), squeeze=False, sharey=True)[0]
        for panel, bits in zip(panels, widths, strict=True):
            _map(panel, table[table["w_bits"] == bits], value, rows, columns, norm)
            panel.set_title(bits_label(bits, None), loc="left", weight="bold")
        panels[0].set_yticks(
            np.arange(len(rows)) + 0.5, [_words(order[order["method"] == name]) for name in rows]
        )
        bar = figure.colorbar(
            mpl.cm.ScalarMappable(norm, MAP), ax=list(panels), pad=0.01, fraction=0.04
        )
        bar.set_label(f"lead {WORDS[value]}, nats\n(negative: resets help)")
        bar.outline.set_visible(False)
    return figure


def _words(runs: pd.DataFrame) -> str:
    """Return "winq, every 24, f = 0.4, from step 120": what one method's resets are."""
    first = runs.iloc[0]
    kind = re.split("-", str(first["method"]))[0]
    words = [kind, f"every {first['reset_every']:g}", f"f = {first['reset_fraction']:g}"]
    if kind == "winq" and known(first["noise_std"]) and first["noise_std"] != NOISE:
        words.append(f"σ = {first['noise_std']:g}")
    for key, word in (("reset_from", "from"), ("reset_until", "until")):
        if known(first[key]):
            words.append(f"{word} step {first[key]:g}")
    return ", ".join(words)


def _map(
    ax: Axes,
    table: pd.DataFrame,
    value: str,
    rows: list[str],
    columns: list[tuple[float, str]],
    norm: TwoSlopeNorm,
) -> None:
    grid = np.full((len(rows), len(columns)), np.nan)
    for i, method in enumerate(rows):
        for j, (rate, schedule) in enumerate(columns):
            cell = table[
                (table["method"] == method)
                & (table["base_learning_rate"] == rate)
                & (table["schedule"] == schedule)
            ]
            if len(cell):
                grid[i, j] = cell[value].mean()
    ax.pcolormesh(grid, cmap=MAP, norm=norm)
    for (i, j), lead in np.ndenumerate(grid):
        if not np.isnan(lead):
            strong = abs(lead) > 0.6 * norm.vmax if norm.vmax else False
            ax.text(
                j + 0.5,
                i + 0.5,
                f"{lead:+.3f}".translate(SIGN),
                ha="center",
                va="center",
                fontsize=7.5,
                color="white" if strong else BLACK,
            )
    labels = [f"{schedule}\n{rate:g}" for rate, schedule in columns]
    ax.set_xticks(np.arange(len(columns)) + 0.5, labels, fontsize=7.5)
    ax.grid(visible=False)
    ax.tick_params(length=0)


def plot_reset_gain(training: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what each reset did to the lead against the learning rate it happened at.

    Args:
        training: Rows of `analysis.load_training`, of one bit width.
        ax: Where to draw; None for a new figure.

    Raises:
        UsageError: If no run with resets has a baseline of its setting.
    """
    table = reset_events(training)
    with figure_style():
        ax = axes_for(ax, (5.2, 3.4))
        ax.axhline(0.0, color=GREY, lw=0.8)
        for colour, (fraction, mine) in zip(
            CATEGORIES, table.groupby("reset_fraction"), strict=False
        ):
            constant = mine["schedule"] == "constant"
            for part, marker in ((mine[~constant], "o"), (mine[constant], "s")):
                ax.scatter(
                    part["learning_rate"],
                    part["gain"],
                    s=16,
                    marker=marker,
                    facecolors="none" if marker == "s" else colour,
                    edgecolors=colour,
                    label=f"f = {fraction:g}" if marker == "o" else None,
                )
        ax.set_xscale("log")
        ax.set_xlabel("learning rate at the reset (open squares: constant)")
        ax.set_ylabel("change of the lead, nats")
        ax.legend(loc="best")
    return ax
