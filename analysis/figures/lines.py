"""Lines of intervals: how one number of each record is drawn along a quantity.

A bar is the whole interval. A value that is resolved (analysis.sweeps) has a point, and points next
to each other are joined; one that is not is a pale bar from end to end without a point, since any
number in it is as good. Lines of several runs are moved apart by a few points of the page, or their
bars would hide each other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from analysis.figures.axes import LINEAR, short_number
from analysis.figures.training import METHODS, NAMES
from analysis.labels import step_label
from analysis.style import BLUE, GREY, colours
from analysis.sweeps import Line, interval_words, is_share, value_label

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (8, 1.5)), (0, (1, 3)))
APART = 4.5  # points of the page between neighbouring lines
ROOM = 32.0  # at most between the first and the last
PART = 0.45  # of the distance between two places on the axis, which that must not exceed
TICKS = 9  # at most, where each value has one
CLOSE = 0.07  # of the axis: values nearer than this share ticks
SPREAD = 30.0  # ratio of ends from which a positive quantity is drawn on a log axis

Handles = list[tuple[Line2D, str]]


def x_axis(ax: Axes, runs: pd.DataFrame, x: str) -> Any:
    """Set limits and ticks of the x axis; return the function from values to places."""
    values = runs[x].dropna()
    if not pd.api.types.is_numeric_dtype(values):
        words = list(dict.fromkeys(values.sort_values()))
        spots = {word: place for place, word in enumerate(words)}
        ax.set_xticks(range(len(words)), words, rotation=0 if len(words) < 5 else 60)
        ax.set_xlim(-0.5, len(words) - 0.5)
        return lambda v: np.array([spots[one] for one in v], dtype=np.float64)
    ends = float(values.min()), float(values.max())
    room = 0.13 * (ends[1] - ends[0]) or 0.5
    ax.set_xlim(ends[0] - room, ends[1] + room)
    distinct = sorted({float(value) for value in values})
    apart = np.diff(distinct).min(initial=math.inf) / (ends[1] - ends[0] + 2 * room)
    if len(distinct) <= TICKS and apart > CLOSE:
        ax.xaxis.set_major_locator(FixedLocator(distinct))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=x in ("step", "layer")))
    if x == "step":
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: step_label(v) if v >= 0 else ""))
    else:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", "−")))
    return lambda v: np.asarray(v, dtype=np.float64)


def y_axis(ax: Axes, found: list[Line], y: str) -> None:
    """Set the limits of the y axis, logarithmic for a positive quantity over decades."""
    low, high = _ends(found)
    if not is_share(y) and low > 0 and high > SPREAD * low:
        ax.set_yscale("log")
        ax.set_ylim(low / 1.3, high * 1.3)
        return
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    ends = low - room, high + room
    ax.set_ylim(*((max(ends[0], -0.02), min(ends[1], 1.02)) if is_share(y) else ends))


def _ends(found: list[Line]) -> tuple[float, float]:
    names = ["value", "lower", "upper"]
    numbers = np.concatenate([line.points[names].to_numpy(dtype=float).ravel() for line in found])
    numbers = numbers[np.isfinite(numbers)]
    return float(numbers.min()), float(numbers.max())


def signed_axis(ax: Axes, found: list[Line]) -> None:
    """Make the y axis symmetric-log, linear below the decade of the smallest value."""
    low, high = _ends(found)
    top = max(abs(low), abs(high)) or 1.0
    values = np.abs(np.concatenate([line.points["value"].to_numpy(dtype=float) for line in found]))
    least = values[(values > 1e-6 * top)].min(initial=top)
    threshold = 10.0 ** math.floor(math.log10(least))
    ax.set_yscale("symlog", linthresh=threshold, linscale=0.9 * LINEAR)
    ax.set_ylim(min(2 * low, 0.0) if low < 0 else -threshold, 2 * high)
    powers = range(round(math.log10(threshold)), math.floor(math.log10(top * 2)) + 1)
    stride = max(1, math.ceil(len(powers) / 4))
    decades = [10.0**power for power in list(powers)[::stride]]
    ax.yaxis.set_major_locator(FixedLocator([*(-d for d in reversed(decades)), 0.0, *decades]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: short_number(v)))


def palette_of(found: list[Line], hue: str | None) -> dict[Any, Any]:
    """Return a colour for each value of the quantity that colours, in its order."""
    values = list(dict.fromkeys(line.hue for line in found))
    if hue is None:
        return dict.fromkeys(values, BLUE)
    ordered = sorted(values, key=lambda v: (v is None, isinstance(v, str), v if v else 0))
    palette = dict(zip(ordered, colours(ordered, hue=hue), strict=True))
    return palette | {v: METHODS[v] for v in values if hue == "method" and v in METHODS}


def styles_of(found: list[Line]) -> list[Any]:
    """Return the values of the quantity that chooses markers, in its order."""
    values = list(dict.fromkeys(line.style for line in found))
    return sorted(values, key=lambda v: (v is None, isinstance(v, str), v if v else 0))


def markers_of(found: list[Line]) -> dict[Any, str]:
    """Return a marker for each of `styles_of`."""
    return {value: MARKERS[k % len(MARKERS)] for k, value in enumerate(styles_of(found))}


def shifts_of(found: list[Line], ax: Axes) -> list[float]:
    """Return how far each line is moved, in points of the page: less than to the next place."""
    places = {x for line in found for x in line.points["x"]}
    width = ax.get_window_extent().width * 72 / ax.figure.dpi
    room = min(ROOM, PART * width / max(len(places), 1))
    apart = min(APART, room / max(len(found) - 1, 1))
    return [apart * (k - (len(found) - 1) / 2) for k in range(len(found))]


def draw_line(
    ax: Axes, line: Line, place: Any, colour: Any, marker: str, dashes: Any, shift: float
) -> None:
    """Draw one line: bars, points where resolved, joins between them."""
    figure: Any = ax.figure
    moved = ax.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans)
    points = line.points
    x = place(points["x"])
    low, high = points["lower"].to_numpy(dtype=float), points["upper"].to_numpy(dtype=float)
    floor, top = ax.get_ylim()
    low, high = np.where(np.isneginf(low), floor, low), np.where(np.isposinf(high), top, high)
    sure = points["resolved"].to_numpy(dtype=bool)
    bare = np.isnan(low) | np.isnan(high)  # a value of which no interval is known
    wide = ~sure & ~bare
    options: dict[str, Any] = {"color": colour, "transform": moved}
    ax.vlines(x[sure], low[sure], high[sure], lw=1.4, zorder=3, **options)
    ax.vlines(x[wide], low[wide], high[wide], lw=3.0, alpha=0.3, zorder=2, **options)
    for ends in (low, high):
        small: dict[str, Any] = {"ls": "none", "marker": marker, "ms": 3.0, "mfc": "white"}
        ax.plot(x[wide], ends[wide], mew=0.7, zorder=3, **small, **options)
    values = np.where(sure | bare, points["value"].to_numpy(dtype=float), np.nan)
    ax.plot(x, values, lw=1.0, ls=dashes, alpha=0.8, zorder=3, **options)
    for which, face in ((sure, colour), (bare, "white")):
        shape: dict[str, Any] = {"ls": "none", "marker": marker, "ms": 4.5, "mfc": face}
        ax.plot(x[which], values[which], zorder=4, **shape, **options)


def handles_of(
    found: list[Line],
    runs: pd.DataFrame,
    hue: str | None,
    style: str | None,
    palette: dict[Any, Any],
    markers: dict[Any, str] | None,
) -> Handles:
    """Return the legend of colours and, unless None, of markers."""
    handles: Handles = []
    if hue is not None:
        there = {line.hue for line in found}
        for value in (v for v in palette if v in there):
            handles.append((Line2D([], [], color=palette[value], lw=2), name_of(hue, value, runs)))
    if style is not None and markers is not None:
        for value, marker in markers.items():
            dashes = DASHES[MARKERS.index(marker) % len(DASHES)]
            shape = Line2D([], [], color=GREY, ls=dashes, lw=1, marker=marker, ms=4.5)
            handles.append((shape, name_of(style, value, runs)))
    return handles


def interval_handles(found: list[Line], runs: pd.DataFrame, y: str) -> Handles:
    """Return the legend of what the bars are, as far as there are such bars."""
    points = pd.concat([line.points for line in found])
    there = points["lower"].notna() & points["upper"].notna()
    bars = there & points["resolved"] & (points["lower"] < points["upper"])
    words, handles = interval_words(runs, y), []
    if bars.any():
        bar = Line2D([], [], color=GREY, lw=0, marker="|", ms=10, mew=1.4)
        handles.append((bar, f"95 % interval\n({words})"))
    if (there & ~points["resolved"]).any():
        pale = Line2D([], [], color=GREY, lw=0, marker="|", ms=10, mew=3.0, alpha=0.4)
        handles.append((pale, f"not resolved: interval\n({words})"))
    if not there.all():
        empty = Line2D([], [], color=GREY, ls="none", marker="o", ms=4.5, mfc="white")
        handles.append((empty, "one batch: interval unknown"))
    return handles


def told(handles: Handles, missing: int, moved: str = "") -> Handles:
    """Return a legend that also says which records are not in the figure."""
    without = f"{missing} record{'s' if missing > 1 else ''} without it" if missing else ""
    words = [f"{without}: not drawn"] if without else []
    words += [f"{moved}:\nnot drawn"] if moved else []
    return [*handles, *((Line2D([], [], ls="none"), one) for one in words)]


def name_of(column: str, value: Any, runs: pd.DataFrame) -> str:
    """Return how a value of a column is called."""
    if column == "method" and value in NAMES:
        return NAMES[value]
    return value_label(column, value, runs)


def legend_beside(ax: Axes, handles: Handles) -> None:
    """Put a legend to the right of the axes, where it hides nothing."""
    if handles:
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
        ax.legend(*zip(*handles, strict=True), borderaxespad=0.2, **place)
