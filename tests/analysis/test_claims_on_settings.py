"""WinQ with other settings, and against the best baseline of several rates and schedules."""

from __future__ import annotations

import pandas as pd
import pytest

import analysis

ENDS = {  # final losses; seeds add a thousandth
    ("baseline", "cosine"): 3.0,
    ("winq", "cosine"): 3.1,
    ("baseline", "constant"): 3.3,
    ("winq", "constant"): 3.2,
    ("winq-f0.2", "constant"): 2.9,
}


@pytest.fixture
def logs() -> pd.DataFrame:
    rows = [
        {
            "path": f"{method}-{schedule}-{seed}", "method": method, "schedule": schedule,
            "seed": float(seed), "w_bits": 2.0, "base_learning_rate": 1e-3, "step": step,
            "eval_loss": 4.0 if step == 0 else end + 1e-3 * seed * (1 + 1e-2 * len(method)),
        }
        for (method, schedule), end in ENDS.items() for seed in range(3) for step in (0, 10)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_every_setting_is_held_against_the_baseline_beside_it(logs: pd.DataFrame) -> None:
    found = {c.key: c for c in analysis.claims(None, logs)}
    claim = found["lower_winq-f0.2"]
    assert claim.verdict == "reproduced"
    assert claim.mean is not None
    assert claim.mean[0] == pytest.approx(-0.4, abs=1e-3)
    assert "constant" in claim.setting
    assert "lower_winq" not in found  # it is the claim winq_lower
    single = logs.assign(method=logs["method"].replace("winq-f0.2", "reset-k160-until160"))
    found = {c.key: c for c in analysis.claims(None, single)}
    assert "resets every 160 steps, none after step 160" in (
        found["best_reset-k160-until160_constant rate of 0.001"].statement
    )
    assert "reset_lower" not in found  # one reset is not the usual three


def test_the_best_baseline_is_that_of_any_schedule(logs: pd.DataFrame) -> None:
    found = {c.key: c for c in analysis.claims(None, logs) if c.key.startswith("best")}
    assert set(found) == {
        "best_winq_constant rate of 0.001",
        "best_winq-f0.2_constant rate of 0.001",
    }
    usual, other = found.values()
    assert usual.verdict == "contradicted"
    assert other.verdict == "reproduced"
    assert other.mean is not None
    assert other.mean[0] == pytest.approx(-0.1, abs=1e-3)
    assert "cosine rate of 0.001" in other.notes[0]
    alone = logs[logs["schedule"] == "constant"]
    assert not [c for c in analysis.claims(None, alone) if c.key.startswith("best")]


def test_nothing_is_claimed_of_a_search(logs: pd.DataFrame) -> None:
    searched = logs.assign(search=logs["schedule"] == "constant")
    found = analysis.claims(None, searched)
    assert {c.key for c in found} >= {"winq_lower"}
    assert all(c.setting == "" for c in found)
    assert not analysis.claims(None, logs.assign(search=True))
