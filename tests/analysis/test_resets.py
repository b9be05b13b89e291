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
    (picked,) = analysis.chosen(analysis.regime(logs)).to_dict("records")
    assert (picked["method"], picked["end"]) == ("winq-from80", pytest.approx(-0.2))
    assert picked["behind_best"] == pytest.approx(-0.2)


def test_what_is_chosen_is_the_best_on_average_and_told_beside_the_best_baseline() -> None:
    rows = []
    for seed, gain in ((0, -0.3), (1, 0.2)):  # best on one seed, not on both
        rows += run(f"b{seed}", "baseline", base, seed=seed)
        rows += run(f"c{seed}", "baseline", lambda s: base(s) - 0.5, seed=seed, schedule="linear")
        for method, lead in (("winq", gain), ("winq-f0.2", -0.1), ("noise", -0.9)):
            every = np.nan if method == "noise" else 40
            rows += run(
                f"{method}{seed}", method, lambda s, lead=lead: base(s) + lead * (s > 40),
                seed=seed, reset_every=every, reset_fraction=0.4,
            )  # fmt: skip
        rows += run(f"l{seed}", "winq", base, seed=seed, schedule="linear", reset_every=40)
    table = analysis.chosen(analysis.regime(pd.DataFrame(rows))).set_index("schedule")
    assert table.loc["cosine", "method"] == "winq-f0.2"
    assert table.loc["cosine", "end"] == pytest.approx(-0.1)
    assert table.loc["cosine", "behind_best"] == pytest.approx(0.4)
    assert table.loc["linear", "end"] == pytest.approx(0.5)


def test_windows_with_two_resets_say_nothing_of_either(logs: pd.DataFrame) -> None:
    often = pd.DataFrame(run("often", "winq-k5", stepped, reset_every=5, reset_fraction=0.4))
    found = analysis.reset_events(pd.concat([logs, often]))
    assert "often" not in set(found["path"])


def test_one_of_two_baselines_is_not_chosen_for_the_user(logs: pd.DataFrame) -> None:
    twice = logs[logs["path"] == "base"].assign(path="again")
    with pytest.raises(UsageError, match="no run with resets has a baseline"):
        analysis.regime(pd.concat([logs, twice]))
    with pytest.raises(UsageError, match="do not tell reset_every"):
        analysis.regime(logs.drop(columns="reset_every"))


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
    assert words == ["+0.150", "−0.200"]
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ticks == ["winq, every 40, f = 0.4", "winq, every 40, f = 0.4, from step 80"]
    with pytest.raises(UsageError, match="none of these runs has resets"):
        analysis.plot_regime(logs.assign(reset_every=np.nan))
    axes = analysis.plot_reset_gain(logs)
    assert sum(len(points.get_offsets()) for points in axes.collections) == 3
