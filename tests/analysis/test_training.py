"""Logs of training runs: found, merged by step, told apart, drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

import analysis
from analysis.figures import training
from spectra.errors import RecordError, UsageError


def write_run(root: Path, name: str, *, bits: float, recipe: str, seed: int, **more: Any) -> Path:
    place = root / name
    place.mkdir(parents=True)
    history = [
        {"step": 0, "eval_loss": 4.0, "eval_perplexity": 54.6},
        {"step": 10, "loss": 3.5, "masked_fraction": 0.1, "grad_norm": 1.0},
        {"step": 10, "eval_loss": 3.0 + 0.1 * seed},
        {"step": 20, "loss": 3.1},
        {"step": 20, "eval_loss": 2.5 + 0.1 * seed, "note": "text is not a number"},
    ]
    (place / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    summary = {
        "quantization": {"quantizer": "paretoq", "w_bits": bits, "a_bits": 16},
        "recipe": {"name": recipe},
        "request": {"trainable": more.get("trainable", "all")},
        "arguments": {"seed": seed},
    }
    (place / "spectra_training.json").write_text(json.dumps(summary))
    inner = place / "checkpoint-10"
    inner.mkdir()
    (inner / "trainer_state.json").write_text(json.dumps({"log_history": history[:3]}))
    return place


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        write_run(tmp_path, f"w2-s{seed}", bits=2, recipe="baseline", seed=seed)
        write_run(tmp_path, f"w2-winq-s{seed}", bits=2, recipe="winq", seed=seed)
        write_run(tmp_path, f"w1-s{seed}", bits=1, recipe="baseline", seed=seed, trainable="scales")
    return tmp_path


def test_a_row_for_each_step_of_each_run(runs: Path) -> None:
    frame = analysis.load_training(runs)
    assert len(frame) == 6 * 3  # checkpoints inside the runs are not runs
    one = frame[frame["run"] == "w2-winq-s1"]
    assert list(one["step"]) == [0, 10, 20]
    assert list(one["eval_loss"]) == [4.0, 3.1, 2.6]
    assert one["loss"].isna().tolist() == [True, False, False]
    assert set(one["method"]) == {"winq"}
    assert set(frame[frame["w_bits"] == 1]["method"]) == {"scales only"}


def test_a_run_of_another_program_has_its_log(tmp_path: Path) -> None:
    place = tmp_path / "plain"
    place.mkdir()
    log = {"log_history": [{"step": 5, "loss": 1.0}]}
    (place / "trainer_state.json").write_text(json.dumps(log))
    frame = analysis.load_training(place)
    assert (frame["run"][0], frame["loss"][0]) == ("plain", 1.0)
    assert analysis.plot_training(frame, "loss").get_ylabel() == "training loss  (nats a token)"


def test_damaged_logs_are_left_out_by_name(runs: Path) -> None:
    (runs / "w2-s0" / "trainer_state.json").write_text("{")
    with pytest.warns(analysis.RecordWarning, match="w2-s0"):
        frame = analysis.load_training(runs)
    assert "w2-s0" not in set(frame["run"])


def test_nothing_found(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no readable training run"):
        analysis.load_training(tmp_path)


def test_curves_hold_the_logged_numbers(runs: Path) -> None:
    frame = analysis.load_training(runs)
    ax = analysis.plot_training(frame[frame["w_bits"] == 2])
    lines = ax.get_lines()
    assert len(lines) == 2 * (2 + 1)  # two seeds and their mean, twice
    thick = [line for line in lines if line.get_linewidth() > 1]
    assert [list(line.get_ydata()) for line in thick] == [pytest.approx([4.0, 3.05, 2.55])] * 2
    assert {t.get_text() for t in ax.get_legend().get_texts()} == {"baseline", "WinQ"}


def test_a_panel_for_each_width(runs: Path) -> None:
    figure = analysis.plot_training_grid(analysis.load_training(runs))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["W1A16", "W2A16"]


def test_the_legend_of_the_panels_is_inside_the_figure(runs: Path) -> None:
    frame = analysis.load_training(runs)
    every = [frame[frame["w_bits"] == 2].assign(method=name) for name in training.NAMES]
    figure = analysis.plot_training_grid(pandas.concat(every))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(training.NAMES)
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert not box.overlaps(figure.axes[0].get_tightbbox())
    both = analysis.plot_training_grid(frame)  # a method of the second panel alone
    words = {text.get_text() for text in both.legends[0].get_texts()}
    assert words == {"baseline", "WinQ", "weights frozen (control)"}


def test_a_quantity_that_was_not_logged(runs: Path) -> None:
    with pytest.raises(UsageError, match="y='accuracy' was not logged"):
        analysis.plot_training(analysis.load_training(runs), "accuracy")
