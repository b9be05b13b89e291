"""Where resets help: leads, gains of single resets, what is chosen, and their figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from spectra.errors import UsageError

STEPS = range(0, 121, 10)


def run(path: str, method: str, loss: Any, **about: Any) -> list[dict[str, Any]]:
    """Rows of one run whose held-out loss at each step is `loss(step)`."""
    usual = {
        "path": path, "run": path, "method": method, "seed": 0, "quantizer": "paretoq",
        "w_bits": 2.0, "a_bits": 16.0, "base_learning_rate": 1e-3, "schedule": "cosine",
        "max_steps": 120, "reset_every": np.nan, "reset_fraction": np.nan, "reset_from": np.nan,
        "reset_until": np.nan, "noise_std": np.nan,
    }  # fmt: skip
    row = usual | about
    return [row | {"step": s, "eval_loss": loss(s), "learning_rate": 1e-3 / (1 + s)} for s in STEPS]


def base(step: int) -> float:
    return 4.0 - step / 100


def stepped(step: int) -> float:
    """Each reset, at 40 and 80, is worth 0.1; from step 100 on 0.15 are lost."""
    return base(step) - 0.1 * (step > 40) - 0.1 * (step > 80) + 0.35 * (step >= 110)


@pytest.fixture
def logs() -> pd.DataFrame:
    rows = run("base", "baseline", base)
    rows += run("winq", "winq", stepped, reset_every=40, reset_fraction=0.4)
    rows += run(
        "late", "winq-from80", lambda s: base(s) - 0.2 * (s > 80), reset_every=40,
        reset_fraction=0.4, reset_from=80,
    )  # fmt: skip
    rows += run("alone", "winq", base, schedule="constant", reset_every=40, reset_fraction=0.4)
    return pd.DataFrame(rows)


def test_leads_are_against_the_baseline_of_the_same_setting(logs: pd.DataFrame) -> None:
    table = analysis.regime(logs).set_index("path")
    assert set(table.index) == {"winq", "late"}  # there is no baseline at a constant rate
    assert table.loc["winq", "end"] == pytest.approx(0.15)
    assert table.loc["winq", "middle"] == pytest.approx(-0.1)  # steps 50 to 80
    assert table.loc["winq", "best"] == pytest.approx(-0.2)
    assert table.loc["winq", "best_step"] == 90
    assert table.loc["winq", "loss"] == pytest.approx(base(120) + 0.15)
    assert list(analysis.chosen(analysis.regime(logs))["path"]) == ["late"]


def test_each_reset_has_its_gain(logs: pd.DataFrame) -> None:
    found = analysis.reset_events(logs)
    assert list(found["path"]) == ["winq", "winq", "late"]
    assert list(found["step"]) == [40, 80, 80]
    assert list(found["steps_left"]) == [80, 40, 40]
    np.testing.assert_allclose(found["gain"], [-0.1, -0.1, -0.2])
    np.testing.assert_allclose(found["learning_rate"], [1e-3 / 41, 1e-3 / 81, 1e-3 / 81])


def test_runs_without_a_baseline_are_refused_in_a_sentence(logs: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match="no run with resets has a baseline"):
        analysis.regime(logs[logs["method"] != "baseline"])
    with pytest.raises(UsageError, match="no run with resets"):
        analysis.reset_events(logs[logs["path"] == "base"])


def test_a_map_says_each_lead_and_a_point_stands_for_each_reset(logs: pd.DataFrame) -> None:
    figure = analysis.plot_regime(logs, "end")
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == [f"{(0.15 - 0.2) / 2:+.3f}".replace("-", "−")]  # one cell, its mean
    axes = analysis.plot_reset_gain(logs)
    assert sum(len(points.get_offsets()) for points in axes.collections) == 3
