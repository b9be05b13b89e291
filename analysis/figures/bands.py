"""What is bounded: the distribution function and the share near zero, each as a band.

A shaded band holds the whole true curve with the stated confidence (probe term for all points at
once, resolution bounds, product error included). The share near zero is drawn with the soft edge
first, since Lanczos knows it exponentially well, and grey where its band is too wide to tell
anything. The share with a sharp edge stands faint behind it for a single record. The dashed line is
the plain sum of node weights that other tools report; where the band is wide it is not a
measurement.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from analysis.figures.axes import (
    as_spectra,
    lambda_axis,
    lambda_grid,
    lambda_limits,
    linear_threshold,
    short_number,
)
from analysis.labels import known, masked_share, section
from analysis.style import BLACK, BROWN, GREY, VERMILION, axes_for, colours, figure_style
from analysis.tables import TELLING
from spectra.quadrature import Band, Measure, SoftBand, cdf_band, mass_band, soft_band
from spectra.record.spectrum import Spectrum

CDF_POINTS = 400
TAU_POINTS = 120
PAPER_TAU = 1.5e-3  # arXiv 2605.17471 calls |λ| below this zero
ABOVE_TAU_LABEL = 0.6  # of the height: free of the upright label at the paper's threshold
ROOM_FOR_LABEL = 0.2  # of the axis: a narrower stretch has its label beside it


def plot_cdf_band(
    runs: Any,
    *,
    hue: str | None = None,
    ax: Axes | None = None,
    scope: str = "batches",
    linthresh: float | None = None,
) -> Axes:
    """Draw the share of eigenvalues ≤ λ with its band.

    Args:
        runs: Rows of `analysis.load`, a record, a path, or several of these.
        hue: Column (or metadata key) that gives colour and label.
        ax: Axes to draw on; default a new figure's.
        scope: "batches" or "population".
        linthresh: Half-width of the linear part of the λ axis; default the resolution at zero.
    """
    found, values, labels = as_spectra(runs, hue)
    measures = [one.measure for one in found]
    threshold = linthresh or linear_threshold(measures)
    limits = lambda_limits(measures, threshold)
    bands = [cdf_band(m, lambda_grid(limits, threshold, CDF_POINTS), scope=scope) for m in measures]
    with figure_style():
        ax = axes_for(ax, (7.0, 3.4))
        lambda_axis(ax, limits, threshold)
        _draw(ax, bands, labels, colours(values, hue=hue))
        ax.set_ylabel("share of eigenvalues ≤ λ")
        _unit(ax)
        ax.legend(loc="upper left")
    return ax


def plot_mass_curve(
    runs: Any,
    *,
    hue: str | None = None,
    ax: Axes | None = None,
    scope: str = "batches",
    relative_axis: bool = False,
) -> Axes:
    """Draw the share of eigenvalues near zero against the threshold τ with its band.

    The soft share counts an eigenvalue with the weight 1/(1 + (λ/τ)⁴). For a single record the
    share with a sharp edge is drawn faint behind it.

    Thresholds below the product error δ are shaded: no mass is reportable there. Exact zeros
    (masked, and the lower bound on structural ones) are horizontal lines under the curve.

    Args:
        runs: Rows of `analysis.load`, a record, a path, or several of these.
        hue: Column (or metadata key) that gives colour and label.
        ax: Axes to draw on; default a new figure's.
        scope: "batches" or "population".
        relative_axis: Whether to add τ in units of the spectral radius above (one record).
    """
    found, values, labels = as_spectra(runs, hue)
    measures = [one.measure for one in found]
    taus = tau_grid(measures)
    bands = [soft_band(measure, taus, scope=scope) for measure in measures]
    with figure_style():
        ax = axes_for(ax, (7.0, 3.4))
        ax.set_xscale("log")
        ax.set_xlim(taus[0], taus[-1])
        if len(found) == 1:
            _draw_sharp(ax, mass_band(measures[0], taus, scope=scope))
        _draw_soft(ax, bands, labels, colours(values, hue=hue))
        if len(found) == 1:
            _zeros(ax, found[0])
        _blind(ax, found, float(taus[0]), float(taus[-1]))
        if taus[0] < PAPER_TAU < taus[-1]:
            _paper_threshold(ax)
        ax.xaxis.set_major_locator(LogLocator(numticks=12))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
        ax.set_xlabel("threshold τ  (units of λ)")
        ax.set_ylabel("share of eigenvalues near zero")
        _unit(ax)
        if relative_axis and len(found) == 1:
            _relative(ax, measures[0])
        _mass_legend(ax, found)
    return ax


def tau_grid(measures: list[Measure]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return thresholds from well under the finest of interest to the spectral radius, (X,)."""
    radius = max(max(abs(end) for end in measure.span) for measure in measures)
    radius = radius or 1.0
    least = min(PAPER_TAU, 1e-4 * radius) if radius < 1e4 * PAPER_TAU else 1e-5 * radius
    least = max(least / 5, 1e-9 * radius) if radius > PAPER_TAU else 1e-5 * radius
    low, high = math.log10(least), math.log10(radius) + 0.05
    return np.logspace(low, high, TAU_POINTS)


def _draw(ax: Axes, bands: list[Band], labels: list[str], shades: list[Any]) -> None:
    seen = set()
    for band, label, colour in zip(bands, labels, shades, strict=True):
        held = f"{100 * band.confidence:g} % band, {_scope(band.scope)}"
        head, _, more = label.partition("\n")
        name = held if len(bands) == 1 else f"{head}: {held}" + (f"\n{more}" if more else "")
        shown = None if (name, str(colour)) in seen else name
        seen.add((name, str(colour)))
        ax.fill_between(
            band.x, band.lower, band.upper, color=colour, alpha=0.28, lw=0, label=shown, zorder=2
        )
        for edge in (band.lower, band.upper):
            ax.plot(band.x, edge, color=colour, lw=0.9, zorder=3)
    for band, colour in zip(bands, shades, strict=True):
        sums = "node sum (error not known)" if band is bands[0] else None
        drawn = np.where(np.isnan(band.lower), np.nan, band.node_sum)
        shade = GREY if len(bands) == 1 else colour
        ax.plot(band.x, drawn, color=shade, lw=0.9, ls="--", zorder=3, label=sums)


def _draw_soft(ax: Axes, bands: list[SoftBand], labels: list[str], shades: list[Any]) -> None:
    """Draw soft shares: a coloured band where it tells something, a grey one where it does not."""
    seen, vague = set(), False
    for band, label, colour in zip(bands, labels, shades, strict=True):
        held = f"{100 * band.confidence:g} % band, {_scope(band.scope)}"
        head, _, more = label.partition("\n")
        name = f"weight 1/(1 + (λ/τ)⁴): {held}" if len(bands) == 1 else f"{head}: {held}"
        name += f"\n{more}" if more and len(bands) > 1 else ""
        shown = None if (name, str(colour)) in seen else name
        seen.add((name, str(colour)))
        telling = band.upper - band.lower <= TELLING
        ends = band.tau, band.lower, band.upper
        ax.fill_between(
            *ends, where=telling, color=colour, alpha=0.35, lw=0, label=shown, zorder=2.5
        )
        vague = vague or not telling.all()
        ax.fill_between(*ends, where=~telling, color=GREY, alpha=0.16, lw=0, zorder=1.2)
        for edge in (band.lower, band.upper):
            ax.plot(band.tau, np.where(telling, edge, np.nan), color=colour, lw=0.9, zorder=3)
    if vague:
        ax.fill_between([], [], [], color=GREY, alpha=0.3, lw=0, label=f"wider than {TELLING:g}")


def _draw_sharp(ax: Axes, band: Band) -> None:
    """Draw the share with a sharp edge, faint, and the node sums that other tools report."""
    for number, edge in enumerate((band.lower, band.upper)):
        name = None if number else "sharp edge, |λ| ≤ τ: bounds"
        ax.plot(band.x, edge, color=GREY, lw=0.7, ls="-", alpha=0.8, zorder=1.4, label=name)
    drawn = np.where(np.isnan(band.lower), np.nan, band.node_sum)
    ax.plot(
        band.x, drawn, color=GREY, lw=0.8, ls="--", zorder=1.4, label="node sum (error not known)"
    )


def _scope(scope: str) -> str:
    return "these batches" if scope == "batches" else "population over data"


def _zero_levels(one: Spectrum) -> list[tuple[float, str, str]]:
    """Return level, colour and words of the exact zeros that are known; structural ones on top."""
    structural = section(one.metadata, "checks").get("structural_zero_fraction")
    levels = []
    masked = masked_share(one.metadata)
    if masked > 0:
        levels.append((masked, VERMILION, f"masked zeros {100 * masked:.1f} %"))
    if known(structural) and float(structural) > 0:
        share = float(structural)
        more = "" if masked == 0 else f", {100 * (share + masked):.1f} % with the masked"
        levels.append((masked + share, BROWN, f"structural zeros ≥ {100 * share:.1f} %{more}"))
    return levels


def _zeros(ax: Axes, one: Spectrum) -> None:
    levels = sorted(_zero_levels(one))
    for place, (level, colour, words) in enumerate(levels):
        ax.axhline(level, color=colour, lw=1.0, ls="-.", zorder=1.5)
        under = place == 0 and len(levels) > 1 and level > 0.06  # two labels never on one side
        ax.annotate(
            words, (0.995, level), xycoords=("axes fraction", "data"),
            xytext=(0, -2 if under else 2), textcoords="offset points", ha="right",
            va="top" if under else "bottom", fontsize=7.5, color=colour,
        )  # fmt: skip


def _mass_legend(ax: Axes, found: list[Spectrum]) -> None:
    """Put the legend at the right, under the curve, as far from the zero lines as can be."""
    ax.legend(
        loc="center right", bbox_to_anchor=(1.0, _free_height(found)), frameon=True,
        facecolor="white", edgecolor="none", framealpha=0.9,
    )  # fmt: skip


def _free_height(found: list[Spectrum]) -> float:
    levels = [level for level, *_ in _zero_levels(found[0])] if len(found) == 1 else []
    return max(
        (0.2, 0.4, 0.6), key=lambda h: min((abs(h - level) for level in levels), default=0.0)
    )


def _paper_threshold(ax: Axes) -> None:
    ax.axvline(PAPER_TAU, color=BLACK, lw=0.8, ls=(0, (1, 2)), zorder=1.5)
    ax.annotate(
        f"τ = {PAPER_TAU:g}", (PAPER_TAU, 0.08), xycoords=("data", "axes fraction"),
        xytext=(-3, 0), textcoords="offset points", rotation=90, ha="right", va="bottom",
        fontsize=7.5, color=BLACK, zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.8},
    )  # fmt: skip


def _blind(ax: Axes, found: list[Spectrum], left: float, right: float) -> None:
    """Shade the thresholds that the largest product error hides."""
    error = max(one.measure.product_error for one in found)
    if error <= left:
        return
    end = min(error, right)
    hatching: dict[str, Any] = {
        "facecolor": "#EFEFEF",
        "edgecolor": "#CFCFCF",
        "hatch": "////",
        "lw": 0,
    }
    ax.axvspan(left, end, zorder=0.9, **hatching)
    wide = math.log(end / left) > ROOM_FOR_LABEL * math.log(right / left)
    ax.annotate(
        f"not reportable\n|λ| < δ = {error:.2g}",
        (math.sqrt(left * end) if wide else end, _free_height(found) if wide else ABOVE_TAU_LABEL),
        xytext=(0 if wide else 4, 0), textcoords="offset points",
        ha="center" if wide else "left", va="center", fontsize=7.5, color="#444444",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip


def _relative(ax: Axes, measure: Measure) -> None:
    radius = max(abs(end) for end in measure.span) or 1.0

    def scaled(tau: Any) -> Any:
        return tau / radius

    def absolute(tau: Any) -> Any:
        return tau * radius

    top = ax.secondary_xaxis("top", functions=(scaled, absolute))
    top.set_xlabel("τ / spectral radius", fontsize=8, color="#555555")
    top.tick_params(labelsize=7.5, labelcolor="#555555")


def _unit(ax: Axes) -> None:
    ax.set_ylim(-0.01, 1.01)
