"""Verdicts on forgetting by the stated rule, and the logs of amax windows; both drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import analysis
from spectra.cli.main import main
from spectra.errors import RecordError, UsageError


def write_run(
    root: Path, name: str, rise: float, *, bits: int = 8, rate: float = 1e-3, se: float = 0.01
) -> Path:
    place = root / name
    place.mkdir(parents=True)
    history = [
        {"step": step, "eval_loss": 3.0, "kept_loss": 2.0, "kept_rise": share * rise}
        | ({"kept_rise_se": share * se} if se else {})
        for step, share in ((0, 0.0), (10, 0.5), (20, 1.0))
    ]
    (place / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    summary = {
        "quantization": {"quantizer": "hif8", "w_bits": bits, "a_bits": bits},
        "recipe": {"name": "dts"},
        "request": {"trainable": "all"},
        "arguments": {"seed": 0, "learning_rate": rate},
    }
    (place / "spectra_training.json").write_text(json.dumps(summary))
    return place


def verdicts(root: Path) -> dict[str, analysis.Forgetting]:
    return {v.run: v for v in analysis.forgetting(analysis.load_training(root))}


@pytest.mark.parametrize(
    ("rise", "control", "forgotten", "cause"),
    [
        (1.2, 1.1, True, "learning rate"),
        (1.2, 0.01, True, "quantization"),
        (0.049, 0.04, False, None),
        (-0.3, -0.3, False, None),
        (1.2, None, True, "not known"),
    ],
)
def test_the_rule(
    tmp_path: Path, rise: float, control: float | None, forgotten: bool, cause: str | None
) -> None:
    write_run(tmp_path, "eight", rise)
    if control is not None:
        write_run(tmp_path, "plain", control, bits=16)
    write_run(tmp_path, "elsewhere", 0.0, bits=16, rate=1e-5)  # no control: another rate
    found = verdicts(tmp_path)
    one = found["eight"]
    assert (one.forgotten, one.cause) == (forgotten, cause)
    assert (one.control, one.control_rise) == (None if control is None else "plain", control)
    assert one.rise == rise
    assert found["elsewhere"].plain
    assert found["elsewhere"].control is None
    assert not found["elsewhere"].forgotten
    assert ("not forgotten" in one.text()) == (not forgotten)
    assert cause is None or f"({cause})" in one.text()


def test_a_rise_within_two_standard_errors_is_none(tmp_path: Path) -> None:
    write_run(tmp_path, "sure", 0.2, se=0.09)
    write_run(tmp_path, "unsure", 0.2, se=0.11)
    write_run(tmp_path, "one block", 0.2, se=0.0)
    found = verdicts(tmp_path)
    assert found["sure"].forgotten
    assert not found["unsure"].forgotten
    assert found["one block"].forgotten
    assert found["one block"].rise_se is None


def test_runs_without_a_kept_task_are_told_how_to_have_one(tmp_path: Path) -> None:
    place = write_run(tmp_path, "a", 0.0)
    (place / "trainer_state.json").write_text('{"log_history": [{"step": 1, "loss": 2.0}]}')
    with pytest.raises(UsageError, match="train with --kept_data"):
        verdicts(tmp_path)


def test_forgetting_is_drawn_with_its_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs", "eight", 1.2)
    write_run(tmp_path / "runs", "plain", 1.1, bits=16)
    ax = Figure().subplots()
    assert analysis.plot_forgetting(analysis.load_training(tmp_path / "runs"), ax=ax) is ax
    curves = {line.get_label(): line for line in ax.get_lines()}
    solid = curves["hif8, lr 0.001: forgotten"]
    assert list(solid.get_ydata()) == [0.0, 0.6, 1.2]
    assert curves["control, plain precision, lr 0.001: forgotten"].get_linestyle() == "--"
    output = tmp_path / "f.png"
    flags = ["--kind", "forgetting", "--output", str(output)]
    assert main(["plot", str(tmp_path / "runs"), *flags]) == 0
    said = capsys.readouterr()
    assert said.out == f"{output}\n"
    assert "control +1.1000: forgotten (learning rate)" in said.err
    assert output.stat().st_size > 1000


def write_log(place: Path, *, fired: bool = False) -> Path:
    place.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for step in (2, 4, 6):
        hit = fired and step == 4
        values = [16.0 if hit else 0.9, 0.5 if hit else 0.0, 0.2 if hit else 0.0, step, hit]
        tensors = {f"layers.{i}.up_proj.scaling.{k}": values for i in range(2) for k in KINDS}
        lines.append({"step": step, "tensors": tensors})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (place / "spectra_scaling.jsonl").write_text(text)
    return place


KINDS = ("weights", "inputs", "gradients")


def test_windows_are_one_row_a_tensor_and_step(tmp_path: Path) -> None:
    frame = analysis.load_scaling(write_log(tmp_path / "run", fired=True))
    assert len(frame) == 3 * 2 * 3
    hit = frame[frame["saturated"]]
    assert set(hit["step"]) == {4}
    assert set(hit["ratio"]) == {16.0}
    assert set(frame["tensor"]) == {"layers.0.up_proj", "layers.1.up_proj"}
    assert set(frame["kind"]) == set(KINDS)
    with pytest.raises(RecordError, match="holds no log of delayed scaling"):
        analysis.load_scaling(tmp_path / "nowhere")
    (tmp_path / "run" / "spectra_scaling.jsonl").write_text('{"step": 3}\n')
    with pytest.raises(RecordError, match="is no log of delayed scaling; delete that line"):
        analysis.load_scaling(tmp_path / "run")


@pytest.mark.parametrize("fired", [False, True])
def test_stale_windows_are_marked(tmp_path: Path, fired: bool) -> None:
    logs = analysis.load_scaling(write_log(tmp_path / "run", fired=fired))
    ax = Figure().subplots()
    assert analysis.plot_saturation(logs, ax=ax) is ax
    curves = {line.get_label(): line for line in ax.get_lines()}
    expected = [0.9, 16.0 if fired else 0.9, 0.9]
    np.testing.assert_allclose(curves["weights"].get_ydata(), expected)
    assert ("saturated (6 tensors)" in curves) == fired
    assert ax.get_yscale() == "log"


def test_figures_of_windows_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_log(tmp_path / "runs" / "a", fired=True)
    for y in ("ratio", "exceeded", "clipped", "age"):
        output = tmp_path / f"{y}.png"
        flags = ["--kind", "saturation", "--y", y, "--output", str(output)]
        assert main(["plot", str(run), *flags]) == 0
        assert output.stat().st_size > 1000
    write_log(tmp_path / "runs" / "b")
    flags = ["--kind", "saturation", "--output", str(tmp_path / "no.png")]
    assert main(["plot", str(tmp_path / "runs"), *flags]) == 2
    assert "draws one run, 2 were found" in capsys.readouterr().err
    assert main(["plot", str(run), *flags, "--y", "loss"]) == 2
    assert "pass one of ratio, exceeded" in capsys.readouterr().err
