"""Two methods step by step: how far apart their spectra are on each surface."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.canvas import new_figure
from analysis.labels import bits_label
from analysis.style import BLUE, GREY, PURPLE, VERMILION, figure_style, legend_above
from spectra.errors import UsageError

SURFACES = {"ste": BLUE, "quantized": VERMILION, "latent": PURPLE}
WORDS = {
    "spectral_norm": "change of max |λ|",
    "rms_eigenvalue": "change of the rms eigenvalue",
    "near_zero_0.1": "change of the share within ±0.1",
    "wasserstein": "Wasserstein distance",
}


def plot_forked(table: pd.DataFrame, quantity: str = "spectral_norm") -> Figure:
    """Return a figure with a panel for each width: differences with their intervals, by surface.

    A point is one seed's pair of records at one step; seeds and surfaces stand side by side.

    Args:
        table: As `analysis.forked` makes it.
        quantity: One of its quantities.

    Raises:
        UsageError: If the table does not have it.
    """
    mine = table[table["quantity"] == quantity]
    if mine.empty:
        raise UsageError(
            f"quantity={quantity!r} is not in the table; it has "
            f"{', '.join(sorted(set(table['quantity'])))}."
        )
    widths = sorted(mine["w_bits"].unique())
    with figure_style():
        figure = new_figure((1.2 + 3.4 * len(widths), 3.2))
        panels = figure.subplots(1, len(widths), squeeze=False)[0]
        shown: dict[str, Any] = {}
        for panel, bits in zip(panels, widths, strict=True):
            shown |= _panel(panel, mine[mine["w_bits"] == bits])
            panel.set_title(bits_label(bits, None), loc="left", weight="bold")
            panel.set_xlabel("step")
        panels[0].set_ylabel(WORDS.get(quantity, quantity))
        legend_above(figure, [(handle, name) for name, handle in shown.items()])
    return figure


def _panel(ax: Any, mine: pd.DataFrame) -> dict[str, Any]:
    steps, seeds = sorted(mine["step"].unique()), sorted(mine["seed"].unique())
    surfaces = [name for name in SURFACES if name in set(mine["surface"])]
    ax.axhline(0.0, color=GREY, lw=0.8)
    shown = {}
    width = 0.7 / (len(seeds) * len(surfaces))
    for i, surface in enumerate(surfaces):
        for j, seed in enumerate(seeds):
            one = mine[(mine["surface"] == surface) & (mine["seed"] == seed)]
            place = np.array([steps.index(step) for step in one["step"]], dtype=float)
            place += (i * len(seeds) + j + 0.5) * width - 0.35
            value, lower, upper = (one[key].to_numpy() for key in ("value", "lower", "upper"))
            shown[surface] = ax.errorbar(
                place,
                value,
                yerr=[value - lower, upper - value],
                fmt="o",
                ms=3,
                lw=0.9,
                color=SURFACES[surface],
            )
    ax.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
    return shown
