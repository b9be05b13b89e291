"""Figures: functions that take `ax=None` and return Axes, and the one figure of a record."""

from analysis.figures.bands import plot_cdf_band, plot_mass_curve
from analysis.figures.causes import plot_causes
from analysis.figures.density import plot_density
from analysis.figures.fork import plot_forked
from analysis.figures.layers import plot_heatmap
from analysis.figures.methods import plot_methods
from analysis.figures.overview import plot_record
from analysis.figures.regime import plot_regime, plot_reset_gain
from analysis.figures.scaling import plot_forgetting, plot_saturation
from analysis.figures.speedup import plot_speedup, plot_speedup_grid
from analysis.figures.sweeps import (
    plot_extremes,
    plot_grad_ratio,
    plot_sweep,
    plot_sweep_grid,
)
from analysis.figures.training import plot_training, plot_training_grid
from analysis.figures.winq import plot_winq

__all__ = [
    "plot_causes",
    "plot_cdf_band",
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
]
