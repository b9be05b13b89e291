"""The two failure modes of delayed scaling: stale amax windows, and forgetting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.forgetting import RISE, forgetting, is_plain
from analysis.labels import drawn
from analysis.style import BLUE, GREEN, GREY, VERMILION, axes_for, colours, figure_style
from spectra.errors import UsageError

KINDS = {"weights": BLUE, "inputs": GREEN, "gradients": VERMILION}
SATURATION = {
    "ratio": "largest |x| / limit of the window",
    "exceeded": "share of calls beyond the limit",
    "clipped": "share of entries beyond the limit",
    "age": "age of the window's maximum",
}


def plot_saturation(logs: pd.DataFrame, y: str = "ratio", *, ax: Axes | None = None) -> Axes:
    """Draw what became of the amax windows: the median over tensors, and the range, of each kind.

    Crosses mark the tensors for which the detector fired.

    Args:
        logs: Rows of `analysis.load_scaling`, of one run.
        y: ratio, exceeded, clipped or age.
        ax: Where to draw; None for a new figure.

    Raises:
        UsageError: If there are several runs, or the quantity is not one of these.
    """
    if y not in SATURATION:
        raise UsageError(f"y={y!r} was not logged; pass one of {', '.join(SATURATION)}.")
    if logs["path"].nunique() > 1:
        raise UsageError(
            f"kind=saturation draws one run, {logs['path'].nunique()} were found; name one."
        )
    with figure_style():
        ax = axes_for(ax, (5.6, 3.6))
        for kind, colour in KINDS.items():
            group = logs[logs["kind"] == kind]
            if group.empty:
                continue
            by = group.groupby("step")[y]
            low, middle, high = by.min(), by.median(), by.max()
            ax.fill_between(middle.index, low, high, color=colour, alpha=0.18, linewidth=0)
            ax.plot(high.index, high, color=colour, linewidth=0.7)
            ax.plot(middle.index, middle, color=colour, linewidth=1.8, label=kind)
        fired = logs[logs["saturated"].astype(bool)]
        if len(fired):
            count = fired[["tensor", "kind"]].drop_duplicates().shape[0]
            label = f"saturated ({count} tensor{'s' * (count > 1)})"
            ax.plot(fired["step"], fired[y], "x", color="black", markersize=5, label=label)
        if y == "ratio":
            ax.set_yscale("log", base=2)
            ax.axhline(1.0, color=GREY, linewidth=1.0, linestyle="--")
            ax.annotate(
                "limit", (1.0, 1.0), xycoords=("axes fraction", "data"), xytext=(-2, 2),
                textcoords="offset points", ha="right", va="bottom", color=GREY, fontsize=8,
            )  # fmt: skip
        ax.set_xlabel("step")
        ax.set_ylabel(SATURATION[y])
        ax.set_title("amax windows: median and range over tensors", loc="left", weight="bold")
        ax.legend()
    return ax


def plot_forgetting(runs: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the rise of the kept task's loss: quantized runs solid, controls dashed, ± 2 se.

    Args:
        runs: Rows of `analysis.load_training`.
        ax: Where to draw; None for a new figure.

    Raises:
        UsageError: If no run measured a kept task.
    """
    verdicts = {verdict.path: verdict for verdict in forgetting(runs)}
    there = runs[runs["kept_rise"].notna()]
    rates = sorted({v.learning_rate or 0.0 for v in verdicts.values()})
    palette = dict(zip(rates, colours(rates), strict=True))
    with figure_style():
        ax = axes_for(ax, (5.6, 3.6))
        for _, one in there.groupby("path", sort=False):
            curve = one.sort_values("step")
            first: dict[Any, Any] = curve.iloc[0].to_dict()
            verdict, plain = verdicts[str(first["path"])], is_plain(first)
            colour = palette[verdict.learning_rate or 0.0]
            if "kept_rise_se" in curve and not plain:
                error = 2 * curve["kept_rise_se"].fillna(0.0)
                low, high = curve["kept_rise"] - error, curve["kept_rise"] + error
                ax.fill_between(curve["step"], low, high, color=colour, alpha=0.15, linewidth=0)
            name = (
                "control, plain precision" if plain else drawn(first.get("quantizer", "quantized"))
            )
            rate = "" if verdict.learning_rate is None else f", lr {verdict.learning_rate:g}"
            said = "forgotten" if verdict.forgotten else "kept"
            style = "--" if plain else "-"
            label = f"{name}{rate}: {said}"
            ax.plot(curve["step"], curve["kept_rise"], style, color=colour, label=label)
        ax.axhline(RISE, color=GREY, linewidth=1.0, linestyle=":")
        ax.annotate(
            "forgotten above", (1.0, RISE), xycoords=("axes fraction", "data"), xytext=(-2, 2),
            textcoords="offset points", ha="right", va="bottom", color=GREY, fontsize=8,
        )  # fmt: skip
        errors = there["kept_rise_se"].fillna(0.0) if "kept_rise_se" in there else 0.0
        top = float(np.nanmax(there["kept_rise"] + 2 * errors))
        ax.set_ylim(top=max(top * 1.1, 2 * RISE))
        ax.set_xlabel("step")
        ax.set_ylabel("rise of the kept loss  (nats a token)")
        ax.legend()
    return ax
