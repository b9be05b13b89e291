"""From many records to tables and figures: pandas and matplotlib, no torch and no model."""

from analysis.figures import (
    plot_cdf_band,
    plot_density,
    plot_mass_curve,
    plot_record,
    plot_training,
    plot_training_grid,
    plot_winq,
)
from analysis.labels import config_id
from analysis.load import RecordWarning, load, spectrum
from analysis.style import figure_style, save_figure
from analysis.summary import summary_lines
from analysis.tables import table, table_text
from analysis.training import load_training

__all__ = [
    "RecordWarning",
    "config_id",
    "figure_style",
    "load",
    "load_training",
    "plot_cdf_band",
    "plot_density",
    "plot_mass_curve",
    "plot_record",
    "plot_training",
    "plot_training_grid",
    "plot_winq",
    "save_figure",
    "spectrum",
    "summary_lines",
    "table",
    "table_text",
]
