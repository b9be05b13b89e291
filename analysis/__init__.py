"""From many records to tables and figures: pandas and matplotlib, no torch and no model."""

from analysis.curves import Band, cdf_band, mass_band
from analysis.figures import (
    plot_cdf_band,
    plot_density,
    plot_mass_curve,
    plot_record,
    plot_winq,
)
from analysis.labels import config_id
from analysis.load import RecordWarning, load, spectrum
from analysis.style import figure_style, save_figure
from analysis.summary import summary_lines
from analysis.tables import table, table_text

__all__ = [
    "Band",
    "RecordWarning",
    "cdf_band",
    "config_id",
    "figure_style",
    "load",
    "mass_band",
    "plot_cdf_band",
    "plot_density",
    "plot_mass_curve",
    "plot_record",
    "plot_winq",
    "save_figure",
    "spectrum",
    "summary_lines",
    "table",
    "table_text",
]
