"""What the logs say changed beside the spectra: two methods step by step, a row a quantity."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.canvas import new_figure
from analysis.figures.training import METHODS, NAMES, shared_handles
from analysis.fork import CAUSES
from analysis.labels import bits_label, drawn
from analysis.style import BLUE, GREY, VERMILION, figure_style, legend_above
from spectra.errors import UsageError

WORDS = {
    "masked_fraction": "masked share",
    "scale_norm": "norm of the scales",
    "quant_error_ratio": "‖W − Q(W)‖ / ‖W‖",
    "code_change": "codes changed",
    "loss": "training loss",
    "eval_loss": "held-out loss",
}


def plot_causes(
    table: pd.DataFrame,
    other: str,
    base: str = "baseline",
    *,
    since: int = 0,
    mark: int | None = None,
) -> Figure:
    """Return a figure of what was logged of two methods: a column a width, thin lines the seeds.

    Args:
        table: As `analysis.causes` makes it.
        other: Method it was made with.
        base: What that is held against.
        since: First step to show.
        mark: Step to mark, as that of a reset.

    Raises:
        UsageError: If nothing was logged from that step on, or by runs of several settings.
    """
    mine = table[table["step"] >= since]
    if mine.duplicated(["w_bits", "seed", "step"]).any():
        raise UsageError(
            f"{other!r} and {base!r} have runs of several settings of one width and seed; a figure "
            "shows one: select the rows of one rate, schedule and model before `analysis.causes`."
        )
    names = [n for n in CAUSES if n in mine and mine[[n, f"{n}_other"]].notna().any().all()]
    if not names:
        raise UsageError(f"since={since}: nothing was logged of both methods from that step on.")
    widths = sorted(mine["w_bits"].unique())
    with figure_style():
        size = (1.0 + 3.0 * len(widths), 0.8 + 1.35 * len(names))
        figure = new_figure(size)
        panels = figure.subplots(len(names), len(widths), squeeze=False, sharex=True)
        for row, name in zip(panels, names, strict=True):
            for panel, bits in zip(row, widths, strict=True):
                one = mine[mine["w_bits"] == bits]
                if mark is not None:
                    panel.axvline(mark, color=GREY, lw=0.8, ls=":")
                for method, column, colour in (
                    (base, name, METHODS.get(base, BLUE)),
                    (other, f"{name}_other", VERMILION),
                ):
                    _lines(panel, one, column, NAMES.get(method) or drawn(method), colour)
            row[0].set_ylabel(WORDS[name])
        for panel, bits in zip(panels[0], widths, strict=True):
            panel.set_title(bits_label(bits, None), loc="left", weight="bold")
        for panel in panels[-1]:
            panel.set_xlabel("step")
        legend_above(figure, shared_handles(panels.flat))
    return figure


def _lines(panel: Axes, one: pd.DataFrame, column: str, label: str, colour: str) -> None:
    there = one[one[column].notna()]
    for _, seed in there.groupby("seed"):
        panel.plot(seed["step"], seed[column], color=colour, lw=0.6, alpha=0.55)
    mean = there.groupby("step")[column].mean()
    panel.plot(mean.index, mean, color=colour, lw=1.6, label=label)
