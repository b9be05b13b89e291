"""Figures of several records and of training logs: which is drawn, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import analysis
from spectra.cli import plot
from spectra.cli.main import main
from spectra.errors import UsageError


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Logs of a baseline and a WinQ run, without records."""
    root = tmp_path_factory.mktemp("logs")
    for method, losses in (("baseline", (4.0, 3.0, 2.0)), ("winq", (4.0, 2.0, 1.5))):
        place = root / method
        place.mkdir()
        history = [{"step": 10 * k, "eval_loss": loss} for k, loss in enumerate(losses)]
        history += [{"step": 10, "loss": 3.0, "grad_weight_ratio": 0.01}]
        (place / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        summary = {
            "quantization": {"quantizer": "paretoq", "w_bits": 2, "a_bits": 16},
            "recipe": {"name": method},
            "request": {"trainable": "all"},
            "arguments": {"seed": 0},
        }
        (place / "spectra_training.json").write_text(json.dumps(summary))
    return root


@pytest.mark.parametrize(
    ("flags", "drawn"),
    [
        ([], "plot_heatmap"),
        (["--kind", "density"], "plot_density"),
        (["--kind", "mass"], "plot_mass_curve"),
        (["--kind", "sweep", "--y", "lambda_max", "--hue", "layer"], "plot_sweep"),
        (["--kind", "extremes", "--x", "layer"], "plot_extremes"),
        (["--kind", "grad"], "plot_grad_ratio"),
    ],
)
def test_figures_of_several_records(flags, drawn, blocks, tmp_path, capsys, monkeypatch):
    calls = watched(monkeypatch)
    code, out, err = run(capsys, "plot", blocks[0], *flags, "--output", tmp_path / "f.png")
    assert code == 0, err
    assert calls == [drawn]
    assert out == f"{tmp_path / 'f.png'}\n"
    assert (tmp_path / "f.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("flags", "drawn"),
    [
        ([], "plot_training_grid"),
        (["--kind", "training", "--y", "loss"], "plot_training_grid"),
        (["--kind", "speedup"], "plot_speedup_grid"),
        (["--kind", "grad"], "plot_grad_ratio"),
    ],
)
def test_figures_of_training_logs(flags, drawn, logs, tmp_path, capsys, monkeypatch):
    calls = watched(monkeypatch)
    code, _, err = run(capsys, "plot", logs, *flags, "--output", tmp_path / "f.svg")
    assert code == 0, err
    assert calls == [drawn]


def watched(monkeypatch):
    """Return the list that the names of the figures drawn from now on are added to."""
    calls = []
    for name in (n for n in analysis.__all__ if n.startswith("plot_")):
        whole = getattr(analysis, name)

        def counted(*arguments, name=name, whole=whole, **options):
            calls.append(name)
            return whole(*arguments, **options)

        monkeypatch.setattr(analysis, name, counted)
    return calls


def test_the_figure_that_fits(blocks):
    frame = analysis.load(blocks[0])
    assert plot._usual(frame.iloc[:1]) == "record"
    assert plot._usual(frame) == "heatmap"
    whole = frame.assign(layer=np.nan)
    assert plot._usual(whole) == "density"
    assert plot._usual(analysis_many(whole)) == "sweep"
    assert plot._axis(frame) == "step"
    assert plot._axis(frame[frame["step"] == 200]) == "layer"
    with pytest.raises(UsageError, match="pass --x"):
        plot._axis(frame.iloc[:1])
    assert plot._only_difference(frame[frame["step"] == 200]) == "layer"
    assert plot._only_difference(frame) is None


def analysis_many(frame):
    import pandas

    return pandas.concat([frame] * 3, ignore_index=True)


def test_a_mass_that_nothing_resolves_is_not_the_default(blocks, capsys):
    frame = analysis.load(blocks[0])
    assert plot._resolved(frame) == "rms_eigenvalue"
    assert "no near-zero mass is resolved" in capsys.readouterr().err
    known = frame.assign(**{"near_zero_0.1_lower": 0.4, "near_zero_0.1_upper": 0.45})
    assert plot._resolved(known) == "near_zero_0.1"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--kind", "sweeep"], "did you mean sweep"),
        (["--kind", "record"], "kind=record draws one record, 4 were found"),
        (["--kind", "sweep", "--x", "stepp"], "'stepp' is not a column"),
        (["--kind", "heatmap", "--y", "lambda"], "'lambda' is not a column"),
    ],
)
def test_figures_that_cannot_be_drawn(flags, words, blocks, tmp_path, capsys):
    code, out, err = run(capsys, "plot", blocks[0], *flags, "--output", tmp_path / "f.png")
    assert (code, out) == (2, "")
    assert words in err
    assert not (tmp_path / "f.png").exists()


@pytest.mark.parametrize("name", ["rec.gif", "w1.58", "f.png.jpg"])
def test_a_file_of_no_known_format_is_refused_before_anything(
    name, blocks, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(analysis, "load", lambda *_, **__: pytest.fail("read"))
    code, out, err = run(capsys, "plot", blocks[0], "--output", tmp_path / name)
    assert (code, out) == (2, "")
    assert f"output={str(tmp_path / name)!r} is no name of a figure; pass one that ends in" in err
    assert not list(tmp_path.iterdir())


def test_a_file_without_a_suffix_is_pdf_and_png(blocks, tmp_path, capsys):
    code, out, _ = run(capsys, "plot", blocks[0], "--y", "lambda_max", "--output", tmp_path / "map")
    assert code == 0
    assert out.splitlines() == [str(tmp_path / "map.pdf"), str(tmp_path / "map.png")]
    code, out, _ = run(capsys, "plot", blocks[0], "--y", "loss", "--output", tmp_path / "m.PNG")
    assert out == f"{tmp_path / 'm.png'}\n"
