"""Two methods held against each other step by step, and what the logs say beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import analysis
from spectra.errors import UsageError
from spectra.linalg import SymmetricOperator
from tests.analysis.study import write_spectrum

DIM = 2000


def matrix(top: float) -> SymmetricOperator:
    values = torch.linspace(-1, top, DIM, dtype=torch.float64)
    return SymmetricOperator.from_matvec(lambda v: values * v, DIM, dtype=torch.float64)


def test_differences_begin_where_the_runs_part(tmp_path: Path) -> None:
    for method in ("baseline", "winq"):
        for surface in ("ste", "latent"):
            for step in (10, 20):
                top = 3.0 if method == "winq" and step == 20 and surface == "latent" else 2.0
                write_spectrum(
                    tmp_path / f"{method}-{surface}-{step}",
                    matrix(top),
                    method=method,
                    seed=0,
                    step=step,
                    surface=surface,
                )
    found = analysis.forked(analysis.load(tmp_path), "winq")
    norm = found[found["quantity"] == "spectral_norm"].set_index(["surface", "step"])
    assert set(norm.index) == {("ste", 10), ("ste", 20), ("latent", 10), ("latent", 20)}
    for place, row in norm.iterrows():
        truth = 1.0 if place == ("latent", 20) else 0.0
        assert row["lower"] <= truth <= row["upper"]
        assert row["a"] == pytest.approx(2.0, abs=1e-3)
    assert norm.loc[("latent", 20), "lower"] > 0.9
    figure = analysis.plot_forked(found)
    bars = figure.axes[0].containers
    assert [len(bar.lines[0].get_xdata()) for bar in bars] == [2, 2]  # steps of each surface
    with pytest.raises(UsageError, match="quantity='trace' is not in the table"):
        analysis.plot_forked(found, "trace")
    with pytest.raises(UsageError, match="no records of baseline and cage"):
        analysis.forked(analysis.load(tmp_path), "cage")


def test_causes_stand_side_by_side() -> None:
    rows = [
        {"method": m, "w_bits": 2.0, "seed": 0, "step": s, "masked_fraction": s * f, "loss": 1.0}
        for m, f in (("baseline", 1.0), ("winq", 0.5))
        for s in (5, 10)
    ]
    found = analysis.causes(pd.DataFrame(rows), "winq")
    np.testing.assert_allclose(found["masked_fraction"], [5, 10])
    np.testing.assert_allclose(found["masked_fraction_other"], [2.5, 5])
    assert "scale_norm" not in found  # never logged
    figure = analysis.plot_causes(found, "winq", mark=5)
    assert [panel.get_ylabel() for panel in figure.axes] == ["masked share", "training loss"]
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["WinQ"], [2.5, 5])
    with pytest.raises(UsageError, match="since=11: nothing was logged"):
        analysis.plot_causes(found, "winq", since=11)
    with pytest.raises(UsageError, match="runs of several settings"):
        analysis.plot_causes(pd.concat([found, found]), "winq")
