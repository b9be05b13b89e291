"""Tables and the terminal summary: intervals that contain what was computed, and their company."""

import re

import numpy as np
import pytest

import analysis
from analysis import labels, tables


@pytest.fixture(scope="module")
def runs(tmp_path_factory, one, several, reference):
    place = tmp_path_factory.mktemp("results")
    for name, spectrum in (("a", one), ("b", several), ("ref", reference)):
        spectrum.save(place / name)
    return analysis.load(place)


def ends(cell):
    found = re.fullmatch(r"\[(\S+), (\S+)\]", cell)
    return tuple(float(end.replace("−", "-")) for end in found.groups())


def test_near_zero_masses_are_intervals_and_never_bare_numbers(runs):
    shown = analysis.table(runs, relative=True, sharp=True)
    columns = [name for name in shown.columns if name.startswith("|λ|≤")]
    assert columns[:3] == ["|λ|≤0.0015", "|λ|≤0.01", "|λ|≤0.1"]
    assert len(columns) == 6
    for cell in shown[columns].to_numpy().ravel():
        assert re.match(r"\[.*\]$|ref |below δ$|–$", cell), cell
    assert shown.loc[1, "|λ|≤0.0015"] == "below δ"
    assert list(shown.columns)[-3:] == ["masked", "structural", "δ"]


def test_the_reference_procedure_is_labelled(runs, reference):
    shown = analysis.table(runs, sharp=True).set_index("run").loc["ref"]
    assert shown["|λ|≤0.0015"] == "ref 0.648 ± 0.012"
    assert shown["|λ|≤0.01"] == "–"
    assert labels.WINQ_LABEL in analysis.table_text(runs)
    lines = "\n".join(analysis.summary_lines(reference))
    assert labels.WINQ_LABEL in lines
    assert "0.6484 ± 0.0119" in lines
    assert "[" not in lines  # no interval is claimed


def test_what_runs_share_is_said_once(runs):
    words = analysis.table_text(runs)
    assert words.splitlines()[0] == "all runs: bits W2A16, step 800, structural ≥5.0 %"
    header = words.splitlines()[1]
    assert "surface" in header
    assert "bits" not in header


def test_a_table_of_one_run_and_chosen_thresholds(runs):
    shown = analysis.table(runs.iloc[:1], taus=[0.1, 7.0], by=["seed"])
    assert shown["seed"].tolist() == ["3"]
    assert [c for c in shown.columns if c.startswith("share")] == ["share τ=0.1"]
    shown = analysis.table(runs.iloc[:1], taus=[0.1, 7.0], sharp=True)
    assert [c for c in shown.columns if c.startswith("|λ|")] == ["|λ|≤0.1"]
    assert "structural" in analysis.table_text(runs.iloc[:1])


def test_unfinished_runs_are_named(tmp_path, make):
    make(steps=5, batches=2, unfinished=1).save(tmp_path / "begun")
    assert "unfinished: begun" in analysis.table_text(analysis.load(tmp_path))


@pytest.mark.parametrize("seed", range(200))
def test_printed_intervals_contain_the_computed_ones(seed):
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.uniform(0, 1, 2) ** rng.integers(1, 6))
    shown = ends(tables.share_interval(low, high))
    assert 0 <= shown[0] <= low + 1e-8
    assert high - 1e-8 <= shown[1] <= 1
    centre, width = rng.normal() * 10.0 ** rng.integers(-9, 9), 10.0 ** rng.uniform(-9, 3)
    low, high = centre - width * abs(centre), centre + width * abs(centre)
    shown = ends(tables.number_interval(low, high))
    slack = 1e-10 * max(abs(low), abs(high))
    assert shown[0] <= low + slack
    assert high <= shown[1] + slack
    assert shown[1] - shown[0] <= 1.25 * (high - low) + 3e-4 * max(abs(low), abs(high))


def test_cells_for_what_is_missing_or_infinite():
    assert tables.share_interval(None, 0.5) == "–"
    assert tables.share_interval(0.0, 0.94) == "[0.00, 0.94]"
    assert tables.share_interval(0.6484, 0.6502) == "[0.6484, 0.6502]"
    assert tables.number_interval(float("nan"), 1.0) == "–"
    assert tables.number_interval(1.0, float("inf")) == "[1, inf]"
    assert tables.number_interval(-4.0021, -3.998) == "[−4.0021, −3.9980]"
    assert tables.plus_minus(2.5, None) == "2.5"
    assert tables.plus_minus(2.5134, 0.0213) == "2.513 ± 0.021"
    assert tables.text(None) == "–"


def test_the_summary_names_its_scopes_and_what_is_not_resolved(several):
    lines = analysis.summary_lines(several, sharp=True)
    words = "\n".join(lines)
    assert "95 %, these 4 batches" in words
    assert "95 %, population over data" in words
    assert "batches are supposed to differ normally or by a lognormal factor; 4 of them" in words
    assert "not resolved with 60 steps" in words
    assert "below δ" in words
    assert lines[-1].startswith("structural zeros: at least 5.0 % of n; masked zeros: 25.0 %")
    assert "product error δ = 0.002" in lines[-1]
    for line in lines:
        if line.startswith("mass |λ|"):
            assert "[" in line or "below δ" in line


def test_the_summary_of_one_batch_claims_nothing_about_data(one):
    words = "\n".join(analysis.summary_lines(one))
    assert "95 %, this batch" in words
    assert "population" not in words
    assert "product error δ: not measured" in words


def test_the_summary_gives_masses_of_the_unmasked_coordinates_beside_the_total(several, one):
    lines = analysis.summary_lines(several, sharp=True)
    entry = several.metadata["summary"]["near_zero"][2]["batches"]
    rest = [max(0.0, (entry[end] - 0.25) / 0.75) for end in ("lower", "upper")]
    place = next(i for i, line in enumerate(lines) if line.startswith("mass |λ| ≤ 0.1 "))
    assert tables.share_interval(entry["lower"], entry["upper"]) in lines[place]
    assert lines[place + 1].startswith("  of the unmasked")
    assert tables.share_interval(*rest) in lines[place + 1]
    assert f"{(entry['node_sum'] - 0.25) / 0.75:.3f}" in lines[place + 1]
    assert "masked zeros: 25.0 % more (counted in the masses)" in lines[-1]
    assert not any("unmasked" in line for line in analysis.summary_lines(one))


def test_a_penalty_moves_masked_coordinates_away_from_zero(make):
    shifted = make(
        masked=1500, dim_unmasked=6000 - 1500, point={"proximal": 0.1},
        estimator={"probe_space": "all"},
    )  # fmt: skip
    assert shifted.measure.dim_unmasked == 6000
    lines = analysis.summary_lines(shifted)
    assert "penalty γ = 0.1" in lines[0]
    assert "masked: 25.0 %, at the eigenvalue γ = 0.1" in lines[-1]
    assert not any("of the unmasked" in line for line in lines)


def test_the_point_of_evaluation_is_in_title_and_table(make, tmp_path):
    point = {"toward_grid": 0.4, "rederived_scales": False, "noisy_weights": 1e-3}
    make(steps=5, point=point).save(tmp_path / "moved")
    runs = analysis.load(tmp_path)
    words = "0.4 to the grid (scales frozen), noise 0.001"
    assert words in ", ".join(labels.title_parts({"point": point}))
    assert tables.table(runs)["point"].tolist() == [words]
    assert runs["toward_grid"].tolist() == [0.4]
    make(steps=5).save(tmp_path / "plain")
    both = tables.table(analysis.load(tmp_path))
    assert sorted(both["point"]) == sorted([words, "–"])
    assert "point" not in tables.table(analysis.load(tmp_path / "plain"))
    assert labels.point_words(point | {"rederived_scales": True}).count("derived anew") == 1
    assert "point" in tables.table_text(analysis.load(tmp_path))


def test_the_summary_of_nothing_and_of_traces_only(make):
    nothing = make(steps=5, unfinished=1)
    assert "no probe has finished" in "\n".join(analysis.summary_lines(nothing))
    traces = "\n".join(analysis.summary_lines(make(steps=5, kind="rademacher")))
    assert "mean eigenvalue" in traces
    assert "mass" not in traces


def test_labels():
    assert labels.bits_label(1.58, 16) == "W1.58A16"
    assert labels.bits_label(None, 16) == ""
    assert labels.bits_label(4, float("nan")) == "W4"
    assert [labels.step_label(s) for s in (None, 0, 800, 10_000, 1_500_000)] == [
        "", "0", "800", "10K", "1.5M",
    ]  # fmt: skip
    assert labels.model_name({"checkpoint": {"path": "HuggingFaceTB/SmolLM2-135M"}}) == (
        "HuggingFaceTB/SmolLM2-135M"
    )
    assert (
        labels.model_name({"checkpoint": {"path": "/a/b/run/checkpoint-8"}}) == "run/checkpoint-8"
    )
    assert labels.model_name({"checkpoint": {"path": "/tiny"}}) == "tiny"
    assert labels.count_label(106_168_320) == "106M"


def test_the_summary_leads_with_what_is_known(several):
    """No row is an interval that says nothing; one line says from where shares are known."""
    lines = analysis.summary_lines(several)
    names = [line.split("  ")[0] for line in lines]
    assert names.index("λmin") < names.index("rms eigenvalue")
    shares = [line for line in lines if line.startswith("share near zero, τ = ")]
    assert shares
    for line in shares:
        low, high = ends(re.search(r"\[[^]]*\]", line)[0])
        assert high - low <= 0.05 + 2e-3
    finest = several.resolution()[0]
    assert f"τ = {finest:g}" in shares[0]
    (told,) = (line for line in lines if line.startswith("resolved down to"))
    assert f"τ = {finest:g} (width ≤ 0.05)" in told
    assert "node sum" not in "\n".join(lines)
    assert "[0.00, 1.00]" not in "\n".join(lines)


def test_a_table_of_soft_shares_says_from_where_they_are_known(runs):
    shown = analysis.table(runs).set_index("run")
    cells = shown.filter(like="share τ=").to_numpy().ravel()
    assert cells.size
    for cell in cells:
        assert re.match(r"\[.*\]$|from τ=|more steps$|–$", cell), cell
    assert shown["resolved τ"].ne("–").any()
    assert "resolved τ: known from there" in analysis.table_text(runs)
