"""From many records to tables and figures: pandas and matplotlib, no torch and no model."""

from analysis.claims import Claim, claims, claims_table, verdicts
from analysis.comparison import Comparison, compare
from analysis.figures import (
    plot_causes,
    plot_cdf_band,
    plot_density,
    plot_extremes,
    plot_forgetting,
    plot_forked,
    plot_grad_ratio,
    plot_heatmap,
    plot_mass_curve,
    plot_methods,
    plot_record,
    plot_regime,
    plot_reset_gain,
    plot_saturation,
    plot_speedup,
    plot_speedup_grid,
    plot_sweep,
    plot_sweep_grid,
    plot_training,
    plot_training_grid,
    plot_winq,
)
from analysis.figures.comparison import comparison_figure, plot_comparison
from analysis.forgetting import Forgetting, forgetting
from analysis.fork import causes, forked
from analysis.labels import config_id
from analysis.load import RecordWarning, load, spectrum
from analysis.report import write_report
from analysis.resets import chosen, regime, reset_events
from analysis.scaling import load_scaling
from analysis.speedup import Speedup, speedup_table, speedups
from analysis.style import figure_style, save_figure
from analysis.summary import summary_lines
from analysis.tables import table, table_text
from analysis.training import load_training

__all__ = [
    "Claim",
    "Comparison",
    "Forgetting",
    "RecordWarning",
    "Speedup",
    "causes",
    "chosen",
    "claims",
    "claims_table",
    "compare",
    "comparison_figure",
    "config_id",
    "figure_style",
    "forgetting",
    "forked",
    "load",
    "load_scaling",
    "load_training",
    "plot_causes",
    "plot_cdf_band",
    "plot_comparison",
    "plot_density",
    "plot_extremes",
    "plot_forgetting",
    "plot_forked",
    "plot_grad_ratio",
    "plot_heatmap",
    "plot_mass_curve",
    "plot_methods",
    "plot_record",
    "plot_regime",
    "plot_reset_gain",
    "plot_saturation",
    "plot_speedup",
    "plot_speedup_grid",
    "plot_sweep",
    "plot_sweep_grid",
    "plot_training",
    "plot_training_grid",
    "plot_winq",
    "regime",
    "reset_events",
    "save_figure",
    "spectrum",
    "speedup_table",
    "speedups",
    "summary_lines",
    "table",
    "table_text",
    "verdicts",
    "write_report",
]
