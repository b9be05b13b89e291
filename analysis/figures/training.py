"""Curves of training: held-out loss against step, a panel for each bit width."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.canvas import new_figure
from analysis.labels import bits_label, drawn
from analysis.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    axes_for,
    colours,
    figure_style,
    legend_above,
)
from spectra.errors import UsageError

METHODS = {
    "baseline": BLUE,
    "winq": VERMILION,
    "reset": GREEN,
    "noise": PURPLE,
    "scales only": GREY,
    "cage": ORANGE,
    "winq+cage": SKY,
}
NAMES = {
    "baseline": "baseline",
    "winq": "WinQ",
    "reset": "resets alone",
    "noise": "noise alone",
    "scales only": "weights frozen (control)",
    "cage": "CAGE",
    "winq+cage": "WinQ and CAGE",
}
LABELS = {
    "eval_loss": "held-out loss  (nats a token)",
    "loss": "training loss  (nats a token)",
    "eval_perplexity": "held-out perplexity",
    "quant_error_ratio": "‖W − Q(W)‖ / ‖W‖",
    "masked_fraction": "masked share of weights",
    "code_change": "share of codes changed since the last log",
    "grad_weight_ratio": "‖∇L‖ / ‖W‖",
}
PANEL, LEAST = 2.5, 4.6  # inches: a panel, a figure


def plot_training(runs: pd.DataFrame, y: str = "eval_loss", *, ax: Axes | None = None) -> Axes:
    """Draw a logged quantity against the step: a thin line a seed, a thick one their mean.

    Args:
        runs: Rows of `analysis.load_training`, of one bit width.
        y: Column.
        ax: Where to draw; None for a new figure.

    Raises:
        UsageError: If the column is missing or empty.
    """
    if y not in runs.columns or not runs[y].notna().any():
        logged = ", ".join(c for c in runs.columns if c in LABELS)
        raise UsageError(f"y={y!r} was not logged; pass one of {logged}.")
    there = runs[runs[y].notna()]
    keys = list(there["method"].fillna("run")) if "method" in there else ["run"] * len(there)
    names = sorted(dict.fromkeys(keys), key=[*NAMES, *keys].index)
    palette = dict(zip(names, colours(names), strict=True)) | METHODS
    with figure_style():
        ax = axes_for(ax, (5.2, 3.4))
        for name in names:
            group = there[[key == name for key in keys]]
            for _, one in group.groupby("path"):
                ax.plot(one["step"], one[y], color=palette[name], linewidth=0.6, alpha=0.55)
            seeds = group["path"].nunique()
            mean = group.groupby("step")[y].mean()[group.groupby("step")[y].count() == seeds]
            label = NAMES.get(name) or drawn(name)
            ax.plot(mean.index, mean, color=palette[name], linewidth=1.8, label=label)
        ax.set_xlabel("step")
        ax.set_ylabel(LABELS.get(y) or drawn(y))
        ax.legend()
    return ax


def plot_training_grid(runs: pd.DataFrame, y: str = "eval_loss") -> Figure:
    """Return a figure with one panel for each bit width, on one scale of its own each.

    Args:
        runs: Rows of `analysis.load_training`.
        y: Column.
    """
    if "w_bits" not in runs.columns:
        raise UsageError("these runs tell no bit width; draw them with plot_training.")
    widths = sorted(runs["w_bits"].dropna().unique())
    with figure_style():
        figure = new_figure((max(PANEL * len(widths), LEAST), 3.3))
        panels = np.atleast_1d(figure.subplots(1, len(widths), squeeze=False)[0])
        for place, (panel, bits) in enumerate(zip(panels, widths, strict=True)):
            one = runs[runs["w_bits"] == bits]
            plot_training(one, y, ax=panel)
            panel.set_title(bits_label(bits, _only(one, "a_bits")), loc="left", weight="bold")
            if place:
                panel.set_ylabel("")
            panel.get_legend().remove()
        legend_above(figure, shared_handles(panels))
    return figure


def shared_handles(panels: Iterable[Axes]) -> list[tuple[Any, str]]:
    """Return the legend of several panels, each label once."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return [(handle, label) for label, handle in found.items()]


def _only(runs: pd.DataFrame, column: str) -> Any:
    values = list(runs[column].dropna().unique()) if column in runs else []
    return values[0] if len(values) == 1 else None
