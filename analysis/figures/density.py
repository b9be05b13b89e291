"""Spectral densities: log y, symmetric-log λ, one line a run.

The density is per unit of λ also where the λ axis is logarithmic, so areas cannot be read off it;
`kind="log_magnitude"` shows the density of log₁₀|λ|, whose areas can. On the symmetric-log axis the
density is averaged over each of `BINS` equal steps of the axis, which keeps every mass and shows an
isolated eigenvalue as wide as the axis can tell it apart. Heights are smoothed masses
without an interval. A single record has a proven histogram behind the curve: bins as wide as steps
and probes must have them, each with an interval of its mean density (spectra.quadrature.histogram).
The lower end of the y axis is one eigenvalue of n spread over the whole spectrum; less than that is
only the tail of a kernel.

How far a density is smoothed depends on the number of Lanczos steps: the same spectrum looks
narrower to a longer run. So curves that are drawn together are each of the first m steps, m being
what the shortest run has that did not end by itself. λmin and λmax are of all steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.figures.axes import (
    as_spectra,
    lambda_axis,
    lambda_grid,
    lambda_limits,
    linear_threshold,
    pixel,
    three_digits,
)
from analysis.labels import known, section
from analysis.style import GREY, axes_for, colours, figure_style
from spectra import quadrature
from spectra.errors import UsageError
from spectra.quadrature import Measure
from spectra.record.spectrum import Spectrum

Floats = NDArray[np.float64]
Kind = Literal["linear", "log_magnitude"]
POINTS = 1200
BINS = 280
PROVEN_CELLS = 120
DECADES = 12  # most decades of density shown
CROWD = 2  # runs beyond which upright lines and strong shades would hide the curves


def plot_density(
    runs: Any,
    *,
    hue: str | None = None,
    ax: Axes | None = None,
    kind: Kind = "linear",
    band: bool = True,
    marks: bool = True,
    linthresh: float | None = None,
    steps: int | None = None,
) -> Axes:
    """Draw the smoothed density of one or several records.

    Args:
        runs: Rows of `analysis.load`, a record, a path, or several of these.
        hue: Column (or metadata key) that gives colour and label, e.g. "step" or "w_bits".
        ax: Axes to draw on; default a new figure's.
        kind: "linear": density of λ; "log_magnitude": density of log₁₀|λ|.
        band: Whether to shade what is known: for a single record the proven histogram, for several
            the smallest to largest density over batches (over probes, if there is one batch).
        marks: Whether to draw λmin (dashed), λmax (dotted) and a rug of isolated eigenvalues.
        linthresh: Half-width of the linear part of the λ axis; default the resolution at zero.
        steps: How many Lanczos steps of each run curves are of; default `equal_steps(runs)`.

    Raises:
        UsageError: If there is nothing to draw, or `kind` is not known.
    """
    if kind not in ("linear", "log_magnitude"):
        raise UsageError(f"kind={kind!r} is not known; pass 'linear' or 'log_magnitude'.")
    found, values, labels = as_spectra(runs, hue)
    whole = [one.measure for one in found]
    steps = steps or equal_steps(found)
    measures = [measure.first(steps) for measure in whole]
    shades = colours(values, hue=hue)
    with figure_style():
        ax = axes_for(ax, (7.0, 3.8))
        if kind == "linear":
            threshold = linthresh or linear_threshold(measures)
            limits = lambda_limits(whole, threshold)
            lambda_axis(ax, limits, threshold)
        else:
            limits = _magnitudes(whole)
            ax.set_xscale("log")
            ax.set_xlim(10.0 ** limits[0], 10.0 ** limits[1])
            threshold = 0.0
        words, seen, peaks = "", set(), []
        for place, (one, colour, label) in enumerate(zip(measures, shades, labels, strict=True)):
            x, y = _curve(one, limits, threshold)
            peaks.append(float(y.max()))
            name = _mean_words(one) if len(found) == 1 else label
            ax.plot(
                x, y, color=colour, label=None if (name, str(colour)) in seen else name, zorder=3
            )
            seen.add((name, str(colour)))
            if band and len(found) == 1 and kind == "linear" and one.spherical:
                words = _proven(ax, whole[place], limits, threshold, colour)
            elif band:
                alpha = 0.22 if len(found) <= CROWD else 0.1
                words = _shade(ax, one, limits, threshold, colour, alpha) or words
            if marks:
                ends = mean_ends(whole[place])
                _mark(ax, one, ends, kind, colour, place, upright=len(found) <= CROWD)
        ax.set_yscale("log")
        top = max(peaks)
        floor = min(_floor(measure, kind) for measure in measures)
        ax.set_ylim(max(floor, top * 10.0**-DECADES), top * 4)
        ax.set_ylabel("density  (per unit of λ)" if kind == "linear" else "density of log₁₀|λ|")
        if kind == "log_magnitude":
            ax.set_xlabel("magnitude |λ|  (loss per squared weight)")
        _legend(ax, found, measures, words, marks)
    return ax


def equal_steps(records: Iterable[Spectrum]) -> int:
    """Return the number of Lanczos steps that all runs have, but those that ended by themselves.

    What ended has seen all that its probe can see, and is drawn as it is.
    """
    lengths = [(one.measure.longest, _ended(one.measure)) for one in records]
    return min((n for n, ended in lengths if not ended), default=max(n for n, _ in lengths))


def _ended(measure: Measure) -> bool:
    return all(run.betas[-1] <= measure.delta for row in measure.runs for run in row)


def _curve(
    measure: Measure, limits: tuple[float, float], threshold: float, like: Measure | None = None
) -> tuple[Floats, Floats]:
    """Return x and density; of log₁₀|λ| where `threshold` is 0. `like` places the fine grid."""
    if not threshold:
        logs = np.linspace(*limits, POINTS)
        return 10.0**logs, quadrature.log_density(measure, logs)
    edges = lambda_grid(limits, threshold, BINS + 1)
    fine = np.union1d(_grid(like or measure, limits, threshold), edges)
    y = quadrature.density(measure, fine)
    masses = np.concatenate([[0.0], np.cumsum(np.diff(fine) * (y[1:] + y[:-1]) / 2)])
    centres = lambda_grid(limits, threshold, 2 * BINS + 1)[1::2]
    return centres, np.diff(masses[np.searchsorted(fine, edges)]) / np.diff(edges)


def _grid(measure: Measure, limits: tuple[float, float], threshold: float) -> Floats:
    """Return points even along the axis, and around every node, or narrow peaks would be missed."""
    step = pixel(measure)
    nodes = np.concatenate([run.points[0] for row in measure.runs for run in row])
    cells = np.unique(np.round(nodes / step)) * step
    around = (cells[:, None] + step * np.linspace(-5, 5, 21)).ravel()
    x = np.concatenate([lambda_grid(limits, threshold, POINTS), around])
    return np.unique(x[(x >= limits[0]) & (x <= limits[1])])


def _magnitudes(measures: list[Measure]) -> tuple[float, float]:
    """Return ends of the log₁₀|λ| axis: from the least node above δ to the radius."""
    radius = max(max(abs(end) for end in m.span) for m in measures)
    sizes = np.concatenate([np.abs(r.points[0]) for m in measures for row in m.runs for r in row])
    least = max(float(sizes[sizes > 0].min(initial=radius)), min(m.delta for m in measures))
    return float(np.log10(max(least, 1e-12 * radius))) - 0.5, float(np.log10(radius)) + 0.3


def _proven(
    ax: Axes, measure: Measure, limits: tuple[float, float], threshold: float, colour: Any
) -> str:
    """Draw the proven histogram: in each bin the density between its lower and its upper end."""
    found = quadrature.resolved_histogram(measure, lambda_grid(limits, threshold, PROVEN_CELLS + 1))
    low, high = found.density
    tiny = float(high.max()) * 10.0 ** -(DECADES + 3)
    for place, told in enumerate(found.told.tolist()):
        ends = found.edges[place : place + 2]
        shade = {"color": colour, "alpha": 0.25} if told else {"color": GREY, "alpha": 0.12}
        heights = (max(low[place], tiny), max(high[place], tiny))
        ax.fill_between(ends, *heights, lw=0.8, zorder=2, **shade)
    return f"mean density in each bin, {100 * found.confidence:g} % (proven)"


def _shade(
    ax: Axes,
    measure: Measure,
    limits: tuple[float, float],
    threshold: float,
    colour: Any,
    alpha: float,
) -> str:
    """Shade the smallest to largest density over the batches, or the probes of the only one."""
    rows = measure.runs if measure.num_batches > 1 else tuple((r,) for r in measure.runs[0])
    if len(rows) < 2:
        return ""
    parts = [dataclasses.replace(measure, runs=(row,), _cache={}) for row in rows]
    curves = [_curve(part, limits, threshold, like=measure) for part in parts]
    x, heights = curves[0][0], [curve[1] for curve in curves]
    low, high = np.min(heights, axis=0), np.max(heights, axis=0)
    tiny = float(high.max()) * 10.0 ** -(DECADES + 3)
    ax.fill_between(
        x, np.maximum(low, tiny), np.maximum(high, tiny), color=colour, alpha=alpha, lw=0, zorder=2
    )
    return f"range over {len(rows)} {_kind_of_runs(measure)}"


def _kind_of_runs(measure: Measure) -> str:
    return "batches" if measure.num_batches > 1 else "probes"


def _mean_words(measure: Measure) -> str:
    count = measure.num_batches if measure.num_batches > 1 else measure.num_runs
    return f"density, mean of {count} {_kind_of_runs(measure)}" if count > 1 else "density"


def _mark(
    ax: Axes,
    one: Measure,
    ends: tuple[float, float],
    kind: Kind,
    colour: Any,
    place: int,
    *,
    upright: bool,
) -> None:
    """Mark λmin and λmax by upright lines, or in the run's own row at the top, with the rug."""
    low, high = ends
    isolated = np.array([value for value, _ in quadrature.pooled_outliers(one)])
    if kind == "log_magnitude":
        low, high, isolated = abs(low), abs(high), np.abs(isolated)
    row = 0.97 - 0.035 * place  # clear of the peaks themselves
    for x, dashes, side in ((low, "--", "<"), (high, ":", ">")):
        if upright:
            ax.axvline(x, color=colour, ls=dashes, lw=0.9, alpha=0.8, zorder=1)
        else:
            ax.plot(x, row, side, color=colour, ms=5, transform=ax.get_xaxis_transform(), zorder=5)
    if isolated.size:
        heights = np.full(isolated.shape, row)
        rug: dict[str, Any] = {"ls": "none", "marker": "|", "ms": 7, "mew": 0.9, "color": colour}
        ax.plot(isolated, heights, transform=ax.get_xaxis_transform(), zorder=4, **rug)


def mean_ends(measure: Measure) -> tuple[float, float]:
    """Return the smallest and largest Ritz value of each operator, averaged over operators."""
    pairs = [[run.ends for run in row] for row in measure.runs]
    low = np.mean([min(low.node for low, _ in row) for row in pairs])
    high = np.mean([max(high.node for _, high in row) for row in pairs])
    if measure.masked_fraction > 0:
        return min(float(low), 0.0), max(float(high), 0.0)
    return float(low), float(high)


def _floor(measure: Measure, kind: Kind) -> float:
    low, high = measure.span
    span = high - low if kind == "linear" else 10.0  # decades
    return 1.0 / (measure.dim * max(span, pixel(measure)))


def _legend(
    ax: Axes, found: list[Spectrum], measures: list[Measure], band: str, marks: bool
) -> None:
    handles, labels = ax.get_legend_handles_labels()
    single = found[0] if len(found) == 1 else None
    if band:
        handles.append(Line2D([], [], color=GREY, lw=6, alpha=0.3))
        labels.append(band)
    if marks:
        if any(quadrature.pooled_outliers(measure) for measure in measures):
            handles.append(Line2D([], [], color=GREY, ls="none", marker="|", ms=7))
            labels.append("isolated eigenvalues" + _which_run(measures))
        ends = mean_ends(single.measure) if single else (None, None)
        for dashes, side, name, end in (("--", "<", "λmin", ends[0]), (":", ">", "λmax", ends[1])):
            lines = len(found) <= CROWD
            shape: dict[str, Any] = {"ls": dashes} if lines else {"ls": "none", "marker": side}
            handles.append(Line2D([], [], color=GREY, lw=0.9, ms=5, **shape))
            mean = ", mean" if single and single.measure.num_batches > 1 else ""
            labels.append(name if end is None else f"{name} = {three_digits(end)}{mean}")
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    if single:
        for words in _zeros(single):
            handles.append(Line2D([], [], ls="none"))
            labels.append(words)
        place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.01), "ncols": 3}
    steps = max(measure.longest for measure in measures)
    if any(one.measure.longest > steps for one in found):
        place["title"] = f"curves: the first {steps:,} Lanczos steps"
    ax.legend(handles, labels, borderaxespad=0.2, columnspacing=1.4, **place)


def _which_run(measures: list[Measure]) -> str:
    if all(measure.num_runs == 1 for measure in measures):
        return ""
    return ", batch 1" if any(measure.num_batches > 1 for measure in measures) else ", probe 1"


def _zeros(one: Spectrum) -> list[str]:
    """State the exact zeros, which a density cannot show for what they are."""
    words = []
    if one.measure.masked_fraction > 0:
        words.append(f"{100 * one.measure.masked_fraction:.1f} % masked zeros, not drawn")
    structural = section(one.metadata, "checks").get("structural_zero_fraction")
    if known(structural):
        words.append(f"structural zeros ≥ {100 * float(structural):.1f} %")
    return words
