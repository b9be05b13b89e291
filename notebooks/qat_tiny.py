"""Figure and table of the runs that notebooks/qat_tiny.sh made: python qat_tiny.py RUNS FIGURE."""

from __future__ import annotations

import sys

import analysis

runs = analysis.load_training(sys.argv[1])
figure = analysis.plot_training_grid(runs)
print(*analysis.save_figure(figure, sys.argv[2]))
last = runs[runs["eval_loss"].notna()].groupby(["w_bits", "method", "seed"]).last()
table = last["eval_loss"].unstack("seed")
table["mean"] = table.mean(axis=1)
print(table.round(4).to_string())
