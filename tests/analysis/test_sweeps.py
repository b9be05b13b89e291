"""Sweeps over records: which make a line, with what interval, on what scale, what is left out."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from matplotlib import pyplot
from matplotlib.figure import Figure

import analysis
from analysis import style, sweeps
from analysis.figures import lines
from spectra.errors import UsageError


@pytest.fixture(autouse=True)
def _nothing_global_changes():
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before
    pyplot.close("all")


def own_axes():
    return Figure(figsize=(7, 4), layout="constrained").add_subplot()


def draw(ax):
    ax.figure.draw_without_rendering()
    return ax


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make):
    """Two methods × two seeds × three steps at 2 bits; one more run at 4 bits."""
    root = tmp_path_factory.mktemp("sweep")
    cells = [("baseline", 0, 2), ("baseline", 1, 2), ("winq", 0, 2), ("winq", 1, 2)]
    for method, seed, bits in [*cells, ("baseline", 0, 4)]:
        for step in (0, 200, 400):
            run = f"w{bits}-{method}-{seed}"
            make(
                steps=40, dim=600, batches=2, scale=1 + step / 400 + 0.1 * seed,
                checkpoint={
                    "path": f"out/{run}/checkpoint-{step}", "step": step, "w_bits": bits,
                    "method": method, "quantization": {"recipe": {"seed": seed}},
                },
            ).save(root / run / f"step-{step}")  # fmt: skip
    return analysis.load(root)


def test_records_tell_the_seed_of_their_training(runs):
    assert runs["train_seed"].tolist().count(1) == 6


def test_a_line_is_a_training_run(runs):
    found, missing = sweeps.lines(runs, "step", "lambda_max", hue="method", style="w_bits")
    assert missing == 0
    assert len(found) == 5
    assert all(line.points["x"].tolist() == [0, 200, 400] for line in found)
    assert sorted((line.hue, line.style) for line in found) == [
        ("baseline", 2.0), ("baseline", 2.0), ("baseline", 4.0), ("winq", 2.0), ("winq", 2.0),
    ]  # fmt: skip


def test_over_bits_a_line_joins_runs_of_one_seed_and_step(runs):
    found, _ = sweeps.lines(runs, "w_bits", "lambda_max", hue="method", style=None)
    both = [line.points["x"].tolist() for line in found if len(line.points) == 2]
    assert both == [[2.0, 4.0]] * 3  # seed 0 of the baseline, at each step


def test_repeats_that_nothing_tells_apart_make_lines_of_their_own(runs):
    untold = runs[runs["method"] == "baseline"].assign(train_seed=np.nan, w_bits=2.0, model="m")
    found, _ = sweeps.lines(untold, "step", "lambda_max", hue=None, style=None)
    assert [line.points["x"].tolist() for line in found] == [[0, 200, 400]] * 3


def test_what_is_drawn_is_the_recorded_interval(runs):
    one = runs[(runs["method"] == "winq") & (runs["train_seed"] == 0)]
    ax = draw(analysis.plot_sweep(one, "step", "lambda_max", ax=own_axes()))
    bars = ax.collections[0].get_segments()
    np.testing.assert_allclose([bar[0][1] for bar in bars], one["lambda_max_lower"])
    np.testing.assert_allclose([bar[1][1] for bar in bars], one["lambda_max_upper"])
    joined = next(line for line in ax.lines if line.get_linestyle() == "-")
    np.testing.assert_allclose(joined.get_ydata(), one["lambda_max"])
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["95 % interval\n(these batches)"]


def test_resolved_by_width():
    assert sweeps.resolved("near_zero_0.1", [0.2, 0.2], [0.29, 0.31]).tolist() == [True, False]
    assert sweeps.resolved("lambda_max", [8, 4, -1], [10, 10, 1]).tolist() == [True, False, False]
    assert sweeps.resolved("lambda_max", [1.0, np.nan], [np.inf, 1.0]).tolist() == [False, False]


def test_an_interval_over_batches_where_only_a_standard_error_is_recorded(runs):
    table = sweeps.with_intervals(runs, "loss")
    half = scipy.stats.t.ppf(0.975, 1) * runs["loss_se"]
    np.testing.assert_allclose(table["upper"] - table["value"], half)
    assert sweeps.interval_words(runs, "loss") == "population over data"
    assert sweeps.interval_words(runs, "lambda_max") == "these batches"
    assert (sweeps.with_intervals(runs, "grad_norm")["lower"] >= 0).all()


def test_colours_and_markers_follow_what_differs(runs):
    ax = draw(analysis.plot_sweep(runs, "step", "lambda_max", ax=own_axes()))
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words[:4] == ["baseline", "WinQ", "W2A16", "W4A16"]
    dots = [line for line in ax.lines if line.get_linestyle() == "None" and len(line.get_xdata())]
    seen = {(line.get_color(), line.get_marker()) for line in dots}
    assert seen == {(style.BLUE, "o"), (style.VERMILION, "o"), (style.BLUE, "s")}


def test_bars_of_several_runs_do_not_hide_each_other(runs):
    ax = own_axes()
    whole = analysis.plot_sweep(runs, "step", "lambda_max", ax=ax)
    width = whole.get_window_extent().width * 72 / whole.figure.dpi

    def moved(count, places):
        points = pd.DataFrame({"x": np.arange(places)})
        return lines.shifts_of([SimpleNamespace(points=points)] * count, ax)

    assert moved(1, 3) == [0.0]
    shifts = moved(4, 3)
    assert np.diff(shifts).min() >= 4.0
    assert sum(shifts) == pytest.approx(0.0)
    assert max(moved(30, 3)) == pytest.approx(lines.ROOM / 2)
    assert max(moved(30, 40)) < width / 40 / 2  # never as far as the place of the next step


def test_everything_drawn_is_inside_the_axes(runs):
    for x in ("step", "w_bits"):
        ax = draw(analysis.plot_sweep(runs, x, "lambda_max", ax=own_axes()))
        box = ax.get_window_extent()
        for line in ax.lines:
            places = line.get_transform().transform(line.get_xydata())
            places = places[~np.isnan(places).any(axis=1)]
            inside = (places >= [box.x0, box.y0]) & (places <= [box.x1, box.y1])
            assert inside.all()


def test_a_panel_for_each_width_on_one_scale(runs):
    figure = analysis.plot_sweep_grid(runs, "step", "rms_eigenvalue")
    figure.draw_without_rendering()
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["W2A16", "W4A16"]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    assert len({ax.get_xlim() for ax in figure.axes}) == 1
    top = figure.axes[0].get_ylim()[1]
    assert top > runs["rms_eigenvalue_upper"].max()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[:2] == ["baseline", "WinQ"]
    with pytest.raises(UsageError, match="no record tells w_bits"):
        analysis.plot_sweep_grid(runs.assign(w_bits=np.nan))


def test_the_legend_of_a_grid_is_inside_the_figure(runs):
    wide = runs.assign(lambda_max_lower=0.0, scope="population")  # nothing is resolved
    for frame in (wide, pd.concat([wide, wide.assign(surface="quantized")], ignore_index=True)):
        figure = analysis.plot_sweep_grid(frame, "step", "lambda_max")
        figure.draw_without_rendering()
        (legend,) = figure.legends
        words = [text.get_text() for text in legend.get_texts()]
        assert "not resolved: interval (population over data)" in words
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
        assert not any(box.overlaps(ax.get_tightbbox()) for ax in figure.axes)


def test_the_room_below_the_lowest_point_is_that_of_all_panels(runs):
    """A flat panel's own margin would be a sliver of the scale that a steep one sets."""
    flat = runs["w_bits"] == 4
    columns = [f"lambda_max{end}" for end in ("", "_lower", "_upper")]
    frame = runs.copy()
    frame.loc[flat, columns] = [[10.0, 9.99, 10.01]] * int(flat.sum())
    figure = analysis.plot_sweep_grid(frame, "step", "lambda_max")
    low, high = figure.axes[0].get_ylim()
    least, most = frame["lambda_max_lower"].min(), frame["lambda_max_upper"].max()
    assert least == 9.99
    assert least - low == pytest.approx(0.06 * (most - least))
    assert high - most == pytest.approx(0.06 * (most - least))
    frame.loc[flat, columns] = [[0.1, 0.09, 0.11]] * int(flat.sum())  # decades: a log axis
    figure = analysis.plot_sweep_grid(frame, "step", "lambda_max")
    assert {ax.get_yscale() for ax in figure.axes} == {"log"}
    assert figure.axes[0].get_ylim()[0] == pytest.approx(0.09 / 1.3)


def test_panels_share_colours_markers_and_places(runs):
    frame = runs.assign(surface=np.where(runs["w_bits"] == 4, "ste", "latent"))
    frame.loc[frame["step"] == 0, "surface"] = "quantized"
    figure = analysis.plot_sweep_grid(frame, "surface", "lambda_max", hue="step")
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == ["latent", "quantized", "ste"]
    dots = [
        [line for line in ax.lines if line.get_markersize() == 4.5 and len(line.get_xdata())]
        for ax in figure.axes
    ]
    assert {float(x) for line in dots[1] for x in line.get_xdata()} == {1.0, 2.0}
    ramp = [{line.get_color() for line in some} for some in dots]
    assert ramp[0] == ramp[1]
    assert len(ramp[0]) == 3


def test_what_a_grid_has_no_panel_for_is_counted(runs):
    frame = pd.concat([runs, runs.iloc[:2].assign(w_bits=np.nan)], ignore_index=True)
    frame.loc[frame["w_bits"] == 4, ["lambda_max", "lambda_max_lower"]] = np.nan
    figure = analysis.plot_sweep_grid(frame, "step", "lambda_max")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["W2A16"]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[-1] == "5 records without it: not drawn"


def words_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_perturbed_weights_are_no_point_of_training(runs):
    plain = runs[(runs["method"] == "winq") & (runs["train_seed"] == 0)]
    last = plain[plain["step"] == 400]
    moved = pd.concat([last.assign(toward_grid=0.4), last.assign(toward_grid=0.8)])
    both = pd.concat([plain, moved, last.assign(noisy_weights=0.01)], ignore_index=True)
    words = "3 records with toward_grid or noisy_weights:\nnot drawn"
    for plot in (analysis.plot_sweep, analysis.plot_extremes):
        ax = draw(plot(both, ax=own_axes()))
        assert words_of(ax)[-1] == words
        assert not any("f = " in word for word in words_of(ax))
    ax = draw(analysis.plot_sweep(both, "step", "lambda_max", ax=own_axes()))
    joined = [line for line in ax.lines if line.get_linestyle() == "-"]
    assert [list(line.get_xdata()) for line in joined] == [[0, 200, 400]]
    figure = analysis.plot_sweep_grid(both, "step", "lambda_max")
    assert figure.legends[0].get_texts()[-1].get_text() == words.replace("\n", " ")
    for options in ({"x": "toward_grid"}, {"hue": "toward_grid"}, {"style": "toward_grid"}):
        ax = draw(analysis.plot_sweep(both, y="lambda_max", ax=own_axes(), **options))
        assert words_of(ax)[-1] == "1 record with noisy_weights:\nnot drawn"
    panels = analysis.plot_sweep_grid(both, "step", "lambda_max", panel="toward_grid")
    assert len(panels.axes) == 3


def test_perturbed_weights_alone_are_drawn_and_told_apart(runs):
    some = runs[(runs["method"] == "winq") & (runs["train_seed"] == 0)]
    noisy = [some.assign(noisy_weights=std) for std in (0.01, 0.02)]
    ax = draw(analysis.plot_sweep(pd.concat(noisy, ignore_index=True), ax=own_axes()))
    assert words_of(ax)[:2] == ["noise 0.01", "noise 0.02"]
    assert not any("not drawn" in word for word in words_of(ax))
    blocks = some.assign(layer=1.0, toward_grid=0.4)  # the plain ones tell no layer
    ax = draw(analysis.plot_sweep(pd.concat([some, blocks]), "layer", ax=own_axes()))
    assert words_of(ax)[-1] == "3 records without it: not drawn"


def test_the_point_without_a_move_stands_at_zero(runs):
    some = runs[(runs["method"] == "winq") & (runs["step"] == 0) & (runs["train_seed"] == 0)]
    both = pd.concat([some, some.assign(toward_grid=0.4, rederived_scales=0.0)], ignore_index=True)
    ax = draw(analysis.plot_sweep(both, "toward_grid", "lambda_max", ax=own_axes()))
    joined = next(line for line in ax.lines if line.get_linestyle() == "-")
    assert list(joined.get_xdata()) == [0.0, 0.4]


def test_extremes_lie_on_both_sides_of_zero(runs):
    one = runs[runs["method"] == "winq"]
    ax = draw(analysis.plot_extremes(one, ax=own_axes()))
    assert ax.get_yscale() == "symlog"
    marks = {m: [] for m in "^v"}
    for line in ax.lines:
        if line.get_marker() in marks and line.get_linestyle() == "None":
            marks[line.get_marker()] += list(line.get_ydata())
    assert sorted(marks["^"]) == pytest.approx(sorted(one["lambda_max"]))
    assert sorted(marks["v"]) == pytest.approx(sorted(one["lambda_min"]))
    low, high = ax.get_ylim()
    assert low < one["lambda_min_lower"].min() < 0 < one["lambda_max_upper"].max() < high


def test_columns_and_records_that_are_not_there(runs):
    with pytest.raises(UsageError, match=r"'near_zero_1' is not a column.*did you mean"):
        analysis.plot_sweep(runs, "step", "near_zero_1")
    with pytest.raises(UsageError, match="no record to draw"):
        analysis.plot_sweep(runs.iloc[:0])
    with pytest.raises(UsageError, match="none of the 15 records tells both layer and loss"):
        analysis.plot_sweep(runs, "layer", "loss")
    some = runs.assign(step=runs["step"].where(runs["step"] > 0))
    ax = draw(analysis.plot_sweep(some, ax=own_axes()))
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words[-1] == "5 records without it: not drawn"


def test_many_densities_mark_their_ends_in_rows(runs):
    several = runs[(runs["method"] == "winq") & (runs["train_seed"] == 0)]
    ax = draw(analysis.plot_density(several, hue="step", ax=own_axes()))
    ends = [line for line in ax.lines if line.get_marker() in "<>" and line.get_marker()]
    assert len(ends) == 6
    heights = [float(line.get_ydata()[0]) for line in ends]
    assert sorted(set(heights), reverse=True) == pytest.approx([0.97, 0.935, 0.9])
    right = [float(line.get_xdata()[0]) for line in ends if line.get_marker() == ">"]
    assert right == pytest.approx(several["lambda_max"].tolist())
