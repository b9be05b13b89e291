"""Spectra by block: heat maps (coloured, hatched, refused), and lines of what is not resolved."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import analysis
from analysis import sweeps
from spectra.errors import UsageError


def own_axes():
    return Figure(figsize=(7, 4), layout="constrained").add_subplot()


def draw(ax):
    ax.figure.draw_without_rendering()
    return ax


@pytest.fixture(scope="module")
def blocks(tmp_path_factory, make):
    """Three blocks × two steps of one run, as `--per layer` writes them."""
    root = tmp_path_factory.mktemp("blocks")
    for step in (0, 200):
        for layer in range(3):
            part = {"per": "layer", "layer": layer, "module": None, "weight_norm": 2.0}
            # All eigenvalues of blocks 1 and 2 are within ±0.1: a resolved mass. Block 0 is wide.
            make(
                steps=20, dim=2000, scale=1e-3 * layer or 1.0, params=part,
                checkpoint={"path": f"out/a/checkpoint-{step}", "step": step},
            ).save(root / f"step-{step}" / f"layer-{layer:02d}")  # fmt: skip
    return analysis.load(root)


def test_records_tell_their_part(blocks):
    assert set(blocks["layer"]) == {0, 1, 2}
    assert set(blocks["per"]) == {"layer"}
    assert blocks["module"].isna().all()
    np.testing.assert_allclose(blocks["grad_weight_ratio"], blocks["grad_norm"] / 2.0)


def test_a_heat_map_colours_what_is_resolved_and_hatches_the_rest(blocks):
    ax = draw(analysis.plot_heatmap(blocks, "near_zero_0.1", ax=own_axes()))
    hatched = [patch for patch in ax.patches if patch.get_hatch()]
    assert sorted(patch.get_xy() for patch in hatched) == [(0, 0), (1, 0)]  # block 0, both steps
    cells = ax.collections[0].get_array()
    assert cells.shape == (3, 2)
    assert np.isnan(np.ma.filled(cells, np.nan)[0]).all()
    row = blocks[(blocks["layer"] == 2) & (blocks["step"] == 200)].iloc[0]
    assert cells[2, 1] == row["near_zero_0.1"]
    words = [text.get_text() for text in ax.texts]
    assert len(words) == 6  # every cell tells its interval
    assert all(word.startswith("[") for word in words)
    assert ax.get_title(loc="left").startswith("share of eigenvalues with |λ| ≤ 0.1\n95 % int")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1", "2"]


def test_a_heat_map_of_nothing_resolved_has_no_colour(blocks):
    none = blocks[blocks["layer"] == 0]
    ax = draw(analysis.plot_heatmap(none, "near_zero_0.1", ax=own_axes()))
    assert len(ax.figure.axes) == 1  # no colour bar
    assert len([patch for patch in ax.patches if patch.get_hatch()]) == 2


def test_a_large_heat_map_states_its_widest_interval(blocks):
    many = pd.concat(
        [blocks.assign(step=blocks["step"] + 1000 * k) for k in range(12)], ignore_index=True
    )
    ax = draw(analysis.plot_heatmap(many, "lambda_max", ax=own_axes()))
    assert not ax.texts
    widths = (many["lambda_max_upper"] - many["lambda_max_lower"]) / many["lambda_max_upper"]
    assert widths.max() < 0.5
    worst = float(ax.get_title(loc="left").split("±")[1].split(" %")[0])
    assert worst == pytest.approx(max(50 * widths.max(), 1e-3), rel=0.1)


def test_records_that_have_no_cell_are_counted(blocks):
    whole = blocks.iloc[:2].assign(layer=np.nan)
    for extra, words in (
        (whole, "2 records without layer: not drawn"),
        (whole.iloc[:1], "1 record without layer: not drawn"),
        (whole.assign(step=np.nan), "2 records without layer or step: not drawn"),
    ):
        both = pd.concat([blocks, extra], ignore_index=True)
        ax = draw(analysis.plot_heatmap(both, "lambda_max", ax=own_axes()))
        assert ax.get_title(loc="left").splitlines()[-1] == words
        assert ax.collections[0].get_array().shape == (3, 2)
    ax = draw(analysis.plot_heatmap(blocks, "lambda_max", ax=own_axes()))
    assert "not drawn" not in ax.get_title(loc="left")


def test_two_records_in_one_cell_are_refused_by_what_differs(make, tmp_path, blocks):
    twice = pd.concat([blocks, blocks.assign(method="baseline")], ignore_index=True)
    with pytest.raises(UsageError, match=r"2 records have step=0, layer=0 and differ in method"):
        analysis.plot_heatmap(twice)
    make(steps=5).save(tmp_path / "whole")
    with pytest.raises(UsageError, match="--per layer"):
        analysis.plot_heatmap(analysis.load(tmp_path))


def test_a_mass_that_is_not_resolved_has_no_point(blocks):
    table = sweeps.with_intervals(blocks, "near_zero_0.1")
    assert table["resolved"].tolist() == [layer > 0 for layer in blocks["layer"]]
    ax = draw(analysis.plot_sweep(blocks, "step", "near_zero_0.1", ax=own_axes()))
    for line in ax.lines:
        ends = {round(float(v), 12) for v in [*table["lower"], *table["upper"]]}
        if line.get_markersize() == 3.0:  # open ends of a wide bar
            assert {round(float(y), 12) for y in line.get_ydata()} <= ends
    drawn = {float(y) for line in ax.lines for y in line.get_ydata() if not math.isnan(y)}
    middle = table.loc[~table["resolved"], "value"]
    assert not any(np.isclose(y, v) for y in drawn for v in middle)
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "not resolved: interval\n(these batches)" in words


def test_gradient_over_weights_from_records_and_from_logs(blocks):
    ax = draw(analysis.plot_grad_ratio(blocks, ax=own_axes()))
    assert ax.get_ylabel() == "‖∇L‖ / ‖W‖"
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "one batch: interval unknown" in words
    logs = pd.DataFrame({"path": "a", "step": [10, 20], "grad_weight_ratio": [0.1, 0.2]})
    assert list(analysis.plot_grad_ratio(logs, ax=own_axes()).lines[0].get_ydata()) == [0.1, 0.2]
    with pytest.raises(UsageError, match="do not tell the norm"):
        analysis.plot_grad_ratio(blocks.assign(grad_weight_ratio=np.nan))
