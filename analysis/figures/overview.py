"""The one figure of a record: its density, and below it what is bounded."""

from __future__ import annotations

import textwrap
from typing import Any

from matplotlib.figure import Figure

from analysis.canvas import new_figure
from analysis.figures.bands import plot_mass_curve
from analysis.figures.density import plot_density
from analysis.figures.winq import plot_winq
from analysis.labels import drawn, is_reference, title_parts
from analysis.load import spectrum
from analysis.style import figure_style
from analysis.summary import effort


def plot_record(run: Any) -> Figure:
    """Return the figure that `spectra estimate` and `spectra plot` write for one record.

    The density above, the mass near zero with its band below; a record of the reference procedure
    gets the reference's histogram, and one with Rademacher probes the density alone, since neither
    supports a band. Outside a notebook it does not
    belong to pyplot: nothing has to be closed.

    Args:
        run: A record, a row of `analysis.load`, or a path.
    """
    one = spectrum(run)
    reference = is_reference(one.metadata)
    both = not reference and one.measure.spherical
    with figure_style():
        figure = new_figure((7.6, 6.6 if both else 3.9))
        panels = figure.subplots(2 if both else 1, 1, squeeze=False)[:, 0]
        if reference:
            plot_winq(one, ax=panels[0])
        else:
            plot_density(one, ax=panels[0])
        if both:
            plot_mass_curve(one, ax=panels[1], relative_axis=True)
        name = drawn("  ·  ".join(title_parts(one.metadata)), 400)
        figure.suptitle(textwrap.fill(name, 96), x=0.02, ha="left", fontsize=10, weight="bold")
        figure.supxlabel(effort(one), x=0.99, ha="right", fontsize=7.5, color="#666666")
    return figure
