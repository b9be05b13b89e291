"""Table of the runs that notebooks/neighbours_tiny.sh made: python neighbours_tiny.py RUNS.

Held-out loss, nats a token, before and after training, and the difference to the same quantizer's
run whose quantized weights are frozen, with its 95 % interval over seeds (Student's t, paired).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from scipy.stats import t

import analysis

OWN = ("quest", "bitnet", "llmqat", "efficientqat", "hif8", "fp8")  # controls of their own
CONTROL = {name: f"{name}-control" for name in OWN}

runs = analysis.load_training(sys.argv[1])
runs = runs[runs["eval_loss"].notna()]
names = runs["path"].map(lambda path: Path(path).name)
runs = runs.assign(which=names.str.replace(r"-s\d+$", "", regex=True))
grouped = runs.groupby(["which", "seed"])["eval_loss"]
before, after = grouped.first().unstack("seed"), grouped.last().unstack("seed")
rows = []
for which in after.index:
    control = CONTROL.get(which.split("-")[0], "paretoq-control")
    row = {"run": which, "seeds": int(after.loc[which].count()), "before": before.loc[which].mean()}
    row["after"] = after.loc[which].mean()
    if control in after.index and control != which:
        gap = (after.loc[which] - after.loc[control]).dropna()
        row["less control"] = gap.mean()
        if len(gap) > 1:
            half = t.ppf(0.975, len(gap) - 1) * gap.std() / len(gap) ** 0.5
            row["95 %"] = f"[{gap.mean() - half:+.3f}, {gap.mean() + half:+.3f}]"
    rows.append(row)
print(pd.DataFrame(rows).round(3).to_string(index=False))
print(after.round(4).to_string())
