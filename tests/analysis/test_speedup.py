"""Speed-up of training: the step at which a method has the baseline's last loss, over seeds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from matplotlib.figure import Figure

import analysis
from analysis.speedup import first_reach
from spectra.errors import UsageError


def own_axes():
    return Figure(figsize=(7, 4), layout="constrained").add_subplot()


def draw(ax):
    ax.figure.draw_without_rendering()
    return ax


def logs(curves, *, bits=2.0):
    """Training logs: {(method, seed): losses at steps 0, 10, ...}."""
    rows = [
        {"path": f"{m}-{s}-{bits}", "method": m, "seed": s, "w_bits": bits, "a_bits": 16.0,
         "step": 10 * k, "eval_loss": loss}
        for (m, s), losses in curves.items() for k, loss in enumerate(losses)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_first_step_at_which_a_loss_is_reached():
    curve = pd.Series([4.0, 3.0, 3.5, 2.0], index=[0, 10, 20, 30])
    assert first_reach(curve, 3.25) == (7.5, (0.0, 10.0))
    assert first_reach(curve, 3.0) == (10.0, (0.0, 10.0))
    assert first_reach(curve, 2.75) == (25.0, (20.0, 30.0))
    assert first_reach(curve, 4.0) == (0.0, (0.0, 0.0))
    step, bracket = first_reach(curve, 1.0)
    assert math.isnan(step)
    assert bracket == (30.0, math.inf)


def test_speedup_is_a_mean_over_pairs_of_seeds_with_students_interval():
    base = [4.0, 3.0, 2.5, 2.0, 1.9]
    curves = {("baseline", s): base for s in range(3)}
    curves |= {("winq", 0): [4.0, 1.9], ("winq", 1): [4.0, 2.9, 1.9], ("winq", 5): [4.0, 1.0]}
    curves[("winq", 2)] = [4.0, 3.0, 2.0, 1.8]
    (one,) = analysis.speedups(logs(curves))
    assert one.seeds == (0, 1, 2)  # seed 5 has no partner
    assert one.ratios == pytest.approx((40 / 10, 40 / 20, 40 / 25))
    ratios = np.log([4.0, 2.0, 1.6])
    half = scipy.stats.t.ppf(0.975, 2) * ratios.std(ddof=1) / math.sqrt(3)
    assert one.value == pytest.approx(math.exp(ratios.mean()))
    assert one.interval == pytest.approx(
        (math.exp(ratios.mean() - half), math.exp(ratios.mean() + half))
    )
    assert str(one).endswith("(3 seeds)")
    row = analysis.speedup_table([one]).iloc[0]
    assert (row["bits"], row["reached"], row["speedup"]) == ("W2A16", 3, one.value)


def test_a_seed_that_never_gets_there_leaves_no_mean():
    curves = {("baseline", s): [4.0, 2.0, 1.0] for s in (0, 1)}
    curves |= {("winq", 0): [4.0, 1.0, 0.9], ("winq", 1): [4.0, 3.0, 2.0]}
    (one,) = analysis.speedups(logs(curves))
    assert math.isnan(one.value)
    assert all(map(math.isnan, one.interval))
    assert str(one) == "reached by 1 of 2 seeds"
    (single,) = analysis.speedups(logs({k: v for k, v in curves.items() if k[1] == 0}))
    assert single.value == 2.0
    assert str(single) == "2.00× (one seed)"
    (never,) = analysis.speedups(logs({k: v for k, v in curves.items() if k[1] == 1}))
    assert str(never) == "not reached (1 seed)"


def test_speedup_of_runs_that_have_no_pair():
    alone = logs({("baseline", 0): [2.0, 1.0], ("winq", 1): [2.0, 1.0]})
    with pytest.raises(UsageError, match="no width has runs of 'baseline' and 'winq'"):
        analysis.speedups(alone)
    with pytest.raises(UsageError, match="tell no eval_loss"):
        analysis.speedups(alone.drop(columns="eval_loss"))
    twice = pd.concat([alone, alone.assign(path="again")])
    with pytest.raises(UsageError, match="2 runs of 'baseline' have seed 0"):
        analysis.speedups(twice)


def test_the_speedup_is_drawn_where_it_is():
    curves = {("baseline", s): [4.0, 2.0, 1.5 + 0.1 * s] for s in (0, 1)}
    curves |= {("winq", 0): [4.0, 1.5, 1.2], ("winq", 1): [4.0, 1.8, 1.4]}
    frame = logs(curves)
    ax = draw(analysis.plot_speedup(frame, ax=own_axes()))
    circles = next(line for line in ax.lines if line.get_markerfacecolor() == "white")
    assert list(circles.get_xdata()) == pytest.approx([10.0, 15.0])
    assert list(circles.get_ydata()) == pytest.approx([1.5, 1.6])
    assert any(text.get_text().startswith("WinQ: 1.63× [") for text in ax.texts)
    both = pd.concat([frame, logs(curves, bits=4.0)], ignore_index=True)
    with pytest.raises(UsageError, match="2 bit widths"):
        analysis.plot_speedup(both)
    figure = analysis.plot_speedup_grid(both)
    figure.draw_without_rendering()
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["W2A16", "W4A16"]


def arrows(ax):
    return [text for text in ax.texts if getattr(text, "arrow_patch", None) is not None]


def levels(ax):
    """Return the ends of the dashed lines that do not cross the whole panel."""
    return [segment.tolist() for c in ax.collections for segment in c.get_segments()]


def test_no_mean_is_drawn_where_only_some_seeds_get_there():
    curves = {("baseline", s): [4.0, 2.0, 1.5 + 0.1 * s] for s in (0, 1, 2)}
    curves |= {("winq", 0): [4.0, 3.0, 2.0], ("winq", 1): [4.0, 1.2, 1.1]}
    curves[("winq", 2)] = [4.0, 2.2, 1.9]
    ax = draw(analysis.plot_speedup(logs(curves), ax=own_axes()))
    reached = 10 * (4.0 - 1.6) / (4.0 - 1.2)  # seed 1, whose baseline ends with 1.6
    circles = next(line for line in ax.lines if line.get_markerfacecolor() == "white")
    assert circles.get_xydata().tolist() == [pytest.approx([reached, 1.6])]
    assert levels(ax) == [[pytest.approx([reached, 1.6]), pytest.approx([20.0, 1.6])]]
    assert not arrows(ax)
    assert not any(line.get_linestyle() == "--" for line in ax.lines)  # nor a mean level
    words = [text.get_text() for text in ax.texts]
    assert words == ["seed 1", "WinQ: reached by 1 of 3 seeds"]


def test_the_mean_is_drawn_where_all_seeds_or_none_get_there():
    base = {("baseline", s): [4.0, 2.0, 1.5 + 0.1 * s] for s in (0, 1)}
    all_there = base | {("winq", s): [4.0, 1.2, 1.1] for s in (0, 1)}
    none_there = base | {("winq", s): [4.0, 3.0, 2.0] for s in (0, 1)}
    for curves, count in ((all_there, 1), (none_there, 0)):
        ax = draw(analysis.plot_speedup(logs(curves), ax=own_axes()))
        assert len(arrows(ax)) == count
        dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
        assert [line.get_ydata()[0] for line in dashed] == [pytest.approx(1.55)]
        assert not levels(ax)
