"""Two records of the same batches in one figure: densities, and mass curves with their bands.

Where the bands do not overlap the masses differ. Where they do, nothing is said: the difference
itself, with its interval, is `analysis.compare`.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from analysis.canvas import new_figure
from analysis.figures.axes import as_spectra, short_number
from analysis.figures.bands import tau_grid
from analysis.figures.density import plot_density
from analysis.labels import masked_share
from analysis.load import spectrum
from analysis.style import BLUE, VERMILION, axes_for, figure_style
from spectra.quadrature import mass_band

COLOURS = (BLUE, VERMILION)


def plot_comparison(
    a: Any, b: Any, *, ax: Axes | None = None, scope: str = "batches", confidence: float = 0.95
) -> Axes:
    """Draw the share of eigenvalues with |λ| ≤ τ of two records, each with its band.

    Args:
        a: A record, a row of `analysis.load`, or a path.
        b: Another.
        ax: Axes to draw on; default a new figure's.
        scope: "batches" or "population".
        confidence: Of each band.
    """
    both = [spectrum(one) for one in (a, b)]
    measures = [one.measure for one in both]
    taus = tau_grid(measures)
    where = "population over data, point by point" if scope == "population" else "these batches"
    with figure_style():
        ax = axes_for(ax, (7.0, 3.4))
        ax.set_xscale("log")
        ax.set_xlim(taus[0], taus[-1])
        for one, measure, label, colour in zip(both, measures, labels(both), COLOURS, strict=True):
            band = mass_band(measure, taus, scope=scope, confidence=confidence)
            name = f"{label}: {100 * confidence:g} % band, {where}"
            ax.fill_between(
                taus, band.lower, band.upper, color=colour, alpha=0.28, lw=0, label=name, zorder=2
            )
            for edge in (band.lower, band.upper):
                ax.plot(taus, edge, color=colour, lw=0.9, zorder=3)
            if masked_share(one.metadata) > 0:
                ax.axhline(masked_share(one.metadata), color=colour, lw=0.8, ls="-.", zorder=1.5)
        handles, names = ax.get_legend_handles_labels()
        if any(masked_share(one.metadata) > 0 for one in both):
            handles.append(Line2D([], [], color="#555555", lw=0.8, ls="-."))
            names.append("masked zeros")
        ax.xaxis.set_major_locator(LogLocator(numticks=12))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
        ax.set_xlabel("threshold τ  (units of λ)")
        ax.set_ylabel("share of eigenvalues with |λ| ≤ τ")
        ax.set_ylim(-0.01, 1.01)
        ax.legend(handles, names, loc="lower left", bbox_to_anchor=(0.0, 1.01), borderaxespad=0.2)
    return ax


def comparison_figure(
    a: Any, b: Any, *, scope: str = "batches", confidence: float = 0.95
) -> Figure:
    """Return the figure of `spectra compare`: densities above, mass curves with bands below.

    Outside a notebook it does not belong to pyplot: nothing has to be closed.
    """
    both = [spectrum(one) for one in (a, b)]
    with figure_style():
        figure = new_figure((7.6, 6.6))
        top, bottom = figure.subplots(2, 1)
        plot_density(both, ax=top, band=False, marks=False)
        lines, legend = top.get_lines(), top.get_legend()
        for line, colour in zip(lines, COLOURS, strict=False):
            line.set_color(colour)
        top.legend(
            lines,
            labels(both),
            title=legend.get_title().get_text() if legend else None,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.01),
            borderaxespad=0.2,
        )
        plot_comparison(*both, ax=bottom, scope=scope, confidence=confidence)
    return figure


def labels(both: list[Any]) -> list[str]:
    """Return "A, name" and "B, name"."""
    return [f"{side}, {name}" for side, name in zip("AB", as_spectra(both, None)[2], strict=True)]
