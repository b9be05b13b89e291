"""Figures: what is drawn is what was computed, nothing overlaps, nothing global changes."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

import analysis
from analysis import style
from analysis.figures import axes as lambda_axes
from analysis.figures import bands, density, winq
from spectra.errors import RecordError, UsageError


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


def test_density_integrates_to_the_share_that_is_drawn(one, several):
    for spectrum in (one, several):
        measure = spectrum.measure
        threshold = lambda_axes.linear_threshold([measure])
        limits = lambda_axes.lambda_limits([measure], threshold)
        _, y = density._curve(measure, limits, threshold)
        edges = lambda_axes.lambda_grid(limits, threshold, density.BINS + 1)
        assert (y * np.diff(edges)).sum() == pytest.approx(1 - measure.masked_fraction, abs=2e-3)


def test_an_isolated_eigenvalue_is_drawn_with_its_share(one):
    measure = one.measure
    threshold = lambda_axes.linear_threshold([measure])
    limits = lambda_axes.lambda_limits([measure], threshold)
    x, y = density._curve(measure, limits, threshold)
    edges = lambda_axes.lambda_grid(limits, threshold, density.BINS + 1)
    near = (x > 27) & (x < 33)
    assert (y * np.diff(edges))[near].sum() == pytest.approx(1 / 6000, rel=0.02)


def test_density_axes_and_marks(several):
    ax = draw(analysis.plot_density(several, ax=own_axes()))
    assert ax.get_xscale() == "symlog"
    assert ax.get_yscale() == "log"
    low, high = density.mean_ends(several.measure)
    drawn = {(line.get_linestyle(), float(line.get_xdata()[0])) for line in ax.lines[1:3]}
    assert drawn == {("--", low), (":", high)}
    assert low == pytest.approx(several.extremes()[0].value)
    assert high == pytest.approx(several.extremes()[1].value)
    words = [entry.get_text() for entry in ax.get_legend().get_texts()]
    assert "mean density in each bin, 95 % (proven)" in words
    assert "25.0 % masked zeros, not drawn" in words
    assert "structural zeros ≥ 5.0 %" in words
    floor, top = ax.get_ylim()
    peak = max(ax.lines[0].get_ydata())
    assert floor <= 1 / (6000 * (high - low)) * 1.3
    assert floor < peak < top


def test_records_of_unequal_length_are_drawn_from_as_many_steps(make):
    """The same spectrum must not look narrower to a longer run."""
    short, long = make(steps=20), make(steps=90)
    assert long.measure.first(20).longest == 20
    np.testing.assert_array_equal(
        long.measure.first(20).runs[0][0].alphas, short.measure.runs[0][0].alphas
    )
    ax = draw(analysis.plot_density([short, long], ax=own_axes(), marks=False, band=False))
    one, other = (line.get_ydata() for line in ax.lines)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert "the first 20 Lanczos steps" in ax.get_legend().get_title().get_text()
    marked = draw(analysis.plot_density([short, long], ax=own_axes()))
    at = {float(line.get_xdata()[0]) for line in marked.lines}
    assert set(density.mean_ends(long.measure)) <= at  # of all its steps
    asked = draw(analysis.plot_density(long, ax=own_axes(), marks=False, band=False, steps=20))
    np.testing.assert_allclose(asked.lines[0].get_ydata().max(), one.max(), rtol=1e-3)
    alone = draw(analysis.plot_density(long, ax=own_axes(), marks=False, band=False))
    assert alone.get_legend().get_title().get_text() == ""
    assert np.abs(alone.lines[0].get_ydata() - one).max() > 0.1 * one.max()


def test_a_run_that_ended_by_itself_cuts_no_other(make):
    whole, long = make(dim=60, steps=60), make(steps=90)
    length = whole.measure.longest
    assert length < 60
    assert density.equal_steps([whole, long]) == 90
    assert density.equal_steps([whole]) == length


def test_the_shaded_range_holds_the_mean(several):
    ax = analysis.plot_density([several, several], ax=own_axes())
    region = ax.collections[0].get_paths()[0]
    box, line = region.get_extents(), ax.lines[0]
    y = np.asarray(line.get_ydata())
    assert box.ymax >= y.max()
    assert len(ax.collections) == 2
    assert not analysis.plot_density(several, ax=own_axes(), band=False).collections


def test_a_single_record_has_its_proven_histogram(several):
    ax = analysis.plot_density(several, ax=own_axes())
    boxes = [region.get_paths()[0].get_extents() for region in ax.collections]
    assert boxes
    for left, right in itertools.pairwise(boxes):
        assert left.xmax == pytest.approx(right.xmin)
    shares = sum((b.xmax - b.xmin) * b.ymax for b in boxes)
    assert shares >= 1 - several.measure.masked_fraction


def test_probes_make_the_range_when_there_is_one_batch(make):
    two = make(probes=2, steps=20)
    words = [
        entry.get_text()
        for runs in (two, [two, two])
        for entry in analysis.plot_density(runs, ax=own_axes()).get_legend().get_texts()
    ]
    assert "range over 2 probes" in words
    assert "density, mean of 2 probes" in words


def test_log_magnitude_density_integrates_over_decades(one):
    ax = draw(analysis.plot_density(one, ax=own_axes(), kind="log_magnitude"))
    x, y = (np.asarray(data) for data in ax.lines[0].get_data())
    assert ax.get_xscale() == "log"
    assert 0.8 < np.trapezoid(y, np.log10(x)) <= 1.0 + 1e-6
    with pytest.raises(UsageError, match="kind"):
        analysis.plot_density(one, kind="cubic")


def test_hue_gives_one_colour_and_one_label_a_value(tmp_path, make):
    for step, bits in ((0, 2), (500, 2), (1000, 4)):
        make(steps=12, checkpoint={"step": step, "w_bits": bits}).save(tmp_path / f"s{step}")
    runs = analysis.load(tmp_path)
    ax = analysis.plot_density(runs, hue="w_bits", ax=own_axes(), marks=False)
    assert [line.get_color() for line in ax.lines] == [style.BLUE, style.BLUE, style.BITS[4.0]]
    words = [entry.get_text() for entry in ax.get_legend().get_texts()]
    assert words == ["W2A16\n(2 records differing in step)", "W4A16"]
    ax = analysis.plot_density(runs, hue="step", ax=own_axes(), marks=False)
    assert len({line.get_color() for line in ax.lines}) == 3
    words = [entry.get_text() for entry in ax.get_legend().get_texts()]
    assert words == ["step 0", "step 500", "step 1K"]
    with pytest.raises(UsageError, match="not a column"):
        analysis.plot_density(runs, hue="colour")
    with pytest.raises(UsageError, match="no record"):
        analysis.plot_density(runs.iloc[:0])


def test_bands_that_share_a_colour_share_a_label_that_says_so(tmp_path, make):
    moved = {"point": {"toward_grid": 0.4, "rederived_scales": False}}
    for name, step, more in (
        ("a", 0, {}), ("b", 6, {}), ("c", 6, moved), ("d", 6, {**moved, "surface": "ste"}),
    ):  # fmt: skip
        make(steps=12, dim=600, checkpoint={"step": step}, **more).save(tmp_path / name)
    runs = analysis.load(tmp_path)
    shared = "(3 records differing in surface, toward_grid)"
    for plot in (analysis.plot_mass_curve, analysis.plot_cdf_band):
        ax = plot(runs, hue="step", ax=own_axes())
        words = [entry.get_text() for entry in ax.get_legend().get_texts()]
        assert words[:2] == [
            "step 0: 95 % band, these batches",
            f"step 6: 95 % band, these batches\n{shared}",
        ]
        assert len(words) == 3
        telling = [c for c in ax.collections if c.get_paths() and c.get_alpha() != 0.16]
        assert len(telling) >= 4  # every band is drawn
    ax = analysis.plot_density(runs, hue="step", ax=own_axes(), marks=False)
    words = [entry.get_text() for entry in ax.get_legend().get_texts()]
    assert words == ["step 0", f"step 6\n{shared}"]
    _, values, labels = lambda_axes.as_spectra(runs, "toward_grid")
    assert values == [0.0, 0.0, 0.4, 0.4]  # what is not moved stands at 0
    assert labels[0] == "f = 0\n(2 records differing in step)"
    records = [analysis.spectrum(row) for _, row in runs.iterrows()]
    assert lambda_axes.as_spectra(records, "toward_grid")[1:] == (values, labels)
    assert lambda_axes.as_spectra(records[:1] * 2, "step")[2] == ["step 0\n(2 records)"] * 2


def test_ramp_grows_in_lightness_and_categories_differ():
    ramp = style.colours([100, 0, 50, 0], hue="step")
    light = [sum(ramp[place][:3]) for place in (1, 2, 0)]
    assert light == sorted(light)
    assert ramp[1] == ramp[3]
    assert len(set(style.colours(list("abcdefgh")))) == 8
    assert style.colours([None, 1.58], hue="w_bits") == [style.BLACK, style.BITS[1.58]]


@pytest.mark.parametrize("linthresh", [1e-9, 0.05, 3.0])
def test_the_lambda_axis_is_matplotlibs_own(linthresh):
    x = np.array([-40, -1e-3, 0, 1e-10, 0.2, 7.0, 31.0])
    back = lambda_axes.unsymlog(lambda_axes.symlog(x, linthresh), linthresh)
    np.testing.assert_allclose(back, x, rtol=1e-12)
    ax = own_axes()
    lambda_axes.lambda_axis(ax, (-50, 50), linthresh)
    drawn = ax.xaxis.get_transform().transform(x)
    np.testing.assert_allclose(drawn / linthresh, lambda_axes.symlog(x, linthresh), rtol=1e-9)


def tick_boxes(axis):
    renderer = axis.axes.figure.canvas.get_renderer()
    labels = [label for label in axis.get_ticklabels() if label.get_text()]
    low, high = sorted(axis.get_view_interval())
    ticks = zip(axis.get_majorticklocs(), labels, strict=False)
    return [label.get_window_extent(renderer) for place, label in ticks if low <= place <= high]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e5])
@pytest.mark.parametrize("delta", [None, 1.0])
def test_no_tick_labels_overlap_at_any_scale_or_error(make, scale, delta):
    error = None if delta is None else delta * scale
    figure = analysis.plot_record(make(steps=30, scale=scale, delta=error, masked=1000))
    figure.draw_without_rendering()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    for ax, which in itertools.product(figure.axes, ("xaxis", "yaxis")):
        boxes = tick_boxes(getattr(ax, which))
        assert len(boxes) >= 2
        for first, second in itertools.pairwise(boxes):
            assert not first.overlaps(second)


def test_mass_curve_draws_the_band_and_hides_what_is_not_reportable(several):
    ax = draw(analysis.plot_mass_curve(several, ax=own_axes()))
    lower, upper, sums = (np.asarray(line.get_ydata(), dtype=float) for line in ax.lines[:3])
    tau = np.asarray(ax.lines[0].get_xdata())
    assert np.isnan(lower[tau < 2e-3]).all()
    assert np.isnan(sums[tau < 2e-3]).all()
    seen = tau >= 2e-3
    assert (lower[seen] <= upper[seen]).all()
    assert any("not reportable" in words.get_text() for words in ax.texts)
    assert any(words.get_text() == "masked zeros 25.0 %" for words in ax.texts)
    stacked = "structural zeros ≥ 5.0 %, 30.0 % with the masked"
    assert any(words.get_text() == stacked for words in ax.texts)
    clear = draw(analysis.plot_mass_curve([several, several], ax=own_axes()))
    assert not any("zeros" in words.get_text() for words in clear.texts)


def test_mass_curve_where_the_error_hides_everything(make):
    ax = draw(analysis.plot_mass_curve(make(steps=5, delta=1e3), ax=own_axes(), relative_axis=True))
    assert np.isnan(np.asarray(ax.lines[0].get_ydata(), dtype=float)).all()
    assert any("not reportable" in words.get_text() for words in ax.texts)


def test_tau_grid_reaches_the_paper_threshold_and_the_radius(one, make):
    taus = bands.tau_grid([one.measure])
    assert taus[0] < 1.5e-3
    assert taus[-1] >= 30
    small = bands.tau_grid([make(steps=10, scale=1e-8).measure])
    assert small[-1] < 1e-6


def test_cdf_band_rises_from_zero_to_one(several):
    ax = draw(analysis.plot_cdf_band(several, ax=own_axes(), scope="population"))
    lower, upper = (np.asarray(line.get_ydata()) for line in ax.lines[:2])
    assert (np.diff(upper) >= -1e-6).all()
    assert (lower <= upper).all()
    words = [entry.get_text() for entry in ax.get_legend().get_texts()]
    assert words[0] == "95 % band, population over data"


def test_winq_histogram_is_probability_mass_with_its_own_extremes(reference):
    ax = draw(analysis.plot_winq(reference, ax=own_axes()))
    assert len(ax.patches) == 50
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(1.0)
    assert ax.get_ylim()[0] == 1e-9
    assert [line.get_xdata()[0] for line in ax.lines] == [-4.1, 30.2]
    assert "reference procedure, not a bounded estimate" in ax.get_title(loc="left")
    assert ax.get_title(loc="left").startswith("Step 800 of 2-bit QAT (W2A16)")


def test_winq_extremes_follow_its_two_definitions(make):
    spectrum = make(probes=3, steps=30)
    low, high = winq.reference_extremes(spectrum)
    rules = [run.rule for run in spectrum.measure.runs[0]]
    assert low == min(rule.nodes[rule.weights > 1e-8].min() for rule in rules)
    assert high == np.median([rule.nodes.max() for rule in rules])


def test_record_figure_says_what_it_shows(several, reference, make):
    figure = analysis.plot_record(several)
    assert figure.get_suptitle() == (
        "w2/checkpoint-800  ·  W2A16  ·  step 800  ·  n = 6,000  ·  surface ste"
    )
    assert len(figure.axes) == 2
    assert figure.get_supxlabel() == "4 batches × 1 probe × 60 steps, float32"
    assert len(analysis.plot_record(reference).axes) == 1
    assert len(analysis.plot_record(make(steps=10, kind="rademacher")).axes) == 1
    assert not pyplot.get_fignums()  # pyplot keeps none of them
    with pytest.raises(UsageError, match="no finished probe"):
        analysis.plot_record(make(steps=5, unfinished=1))


def test_degenerate_spectra_can_be_drawn(make):
    for options in ({"steps": 1}, {"steps": 2, "batches": 2}, {"steps": 12, "dim": 12 + 28}):
        analysis.plot_record(make(**options)).draw_without_rendering()
    zero = make(steps=3)
    zero.alphas[:], zero.betas[:] = 0.0, 0.0
    from dataclasses import replace

    nothing = replace(zero, steps=np.ones_like(zero.steps))
    analysis.plot_record(nothing).draw_without_rendering()


def test_axes_come_back_and_new_ones_belong_to_pyplot(one):
    ax = own_axes()
    assert analysis.plot_density(one, ax=ax) is ax
    assert analysis.plot_mass_curve(one).figure.number in pyplot.get_fignums()


def test_files_carry_the_config_id_and_do_not_depend_on_the_date(tmp_path, one):
    figure, twin = analysis.plot_record(one), analysis.plot_record(one)
    name = analysis.config_id(one.metadata)
    formats = ("pdf", "svg", "png")
    first = analysis.save_figure(figure, tmp_path / "a" / "figure", one, formats=formats)
    assert [path.name for path in first] == ["figure.pdf", "figure.svg", "figure.png"]
    for path in first:
        assert f"spectra config {name}".encode() in path.read_bytes()
    for path in analysis.save_figure(twin, tmp_path / "b" / "figure", one, formats=formats):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


def test_suffix_chooses_the_format_and_odd_ones_are_refused(tmp_path, one):
    ax = analysis.plot_density(one, ax=own_axes())
    assert analysis.save_figure(ax, tmp_path / "f.svg") == [tmp_path / "f.svg"]
    written = analysis.save_figure(ax, tmp_path / "w1.58", [one])
    assert [path.name for path in written] == ["w1.58.pdf", "w1.58.png"]
    with pytest.raises(UsageError, match="gif"):
        analysis.save_figure(ax, tmp_path / "f", formats=["gif"])
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be written"):
        analysis.save_figure(ax, tmp_path / "file" / "f.png")
