"""Records on disk as a tidy table."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.load import find_records, rms_of
from spectra.errors import RecordError, SpectraWarning, UsageError


@pytest.fixture(scope="module")
def root(tmp_path_factory, one, several, reference):
    place = tmp_path_factory.mktemp("results")
    one.save(place / "w2" / "step-1000")
    several.save(place / "w2" / "step-200")
    reference.save(place / "ref")
    return place


@pytest.fixture(scope="module")
def runs(root):
    return analysis.load(root)


def test_importing_analysis_leaves_torch_out():
    code = (
        "import sys, analysis; heavy = {'torch', 'transformers'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_record_at_any_depth_is_one_row_in_natural_order(runs):
    assert runs["name"].tolist() == ["ref", "w2/step-200", "w2/step-1000"]


def test_a_record_itself_its_file_and_a_directory_above_are_the_same_record(root):
    place = root / "w2" / "step-200"
    frame = analysis.load([place, place / "spectrum.npz", str(root / "w2")])
    assert frame["name"].tolist() == ["step-200", "step-1000"]


def test_estimates_carry_their_intervals(runs, several):
    row = runs.set_index("name").loc["w2/step-200"]
    low, high = several.extremes()
    assert row["lambda_max"] == pytest.approx(high.value)
    assert (row["lambda_min_lower"], row["lambda_min_upper"]) == (low.lower, low.upper)
    near = several.mass(-0.01, 0.01)
    got = [row[f"near_zero_0.01{end}"] for end in ("", "_lower", "_upper", "_node_sum")]
    np.testing.assert_allclose(got, [near.value, near.lower, near.upper, near.node_sum])
    assert np.isnan(row["near_zero_0.0015"])  # below the product error
    assert row["trace"] == pytest.approx(several.moment(1).value * 6000)
    assert row["rms_eigenvalue"] == pytest.approx(several.moment(2).value ** 0.5)
    radius = max(abs(end) for end in several.measure.span)
    assert row["near_zero_rel_0.001_tau"] == pytest.approx(1e-3 * radius)
    assert row["masked_fraction"] == 0.25
    assert row["tokens"] == 4 * 255


def test_population_intervals_are_missing_below_three_batches(root, several):
    frame = analysis.load(root, scope="population").set_index("name")
    population = several.mass(-0.1, 0.1, scope="population")
    assert frame.loc["w2/step-200", "near_zero_0.1_upper"] == pytest.approx(population.upper)
    assert np.isnan(frame.loc["w2/step-1000", "near_zero_0.1_upper"])
    assert set(frame["scope"]) == {"population"}


def test_columns_are_plain(runs):
    kinds = {"step": "int64", "dim": "int64", "complete": "bool", "w_bits": "float64"}
    kinds |= {"lambda_max": "float64", "product_error": "float64"}
    assert {name: str(runs[name].dtype) for name in kinds} == kinds
    assert not runs["protocol"].isna().any()
    assert set(runs.dtypes.map(str)) <= {"int64", "float64", "bool", "str", "object"}


def test_missing_integers_become_floats_not_objects(tmp_path, make):
    make(steps=5, checkpoint={"step": None, "w_bits": None}).save(tmp_path / "a")
    make(steps=5).save(tmp_path / "b")
    steps = analysis.load(tmp_path)["step"]
    assert str(steps.dtype) == "float64"
    assert np.isnan(steps[0])
    assert steps[1] == 800


def test_a_record_with_almost_no_metadata_loads(tmp_path, make):
    spectrum = make(steps=8)
    spectrum.metadata.clear()
    spectrum.metadata.update({"schema": 1, "dim": 6000})
    spectrum.save(tmp_path / "bare")
    row = analysis.load(tmp_path).iloc[0]
    assert row["lambda_max"] > 20  # the summary is computed where it is missing
    assert row["num_probes"] == 1
    assert analysis.summary_lines(analysis.spectrum(row))
    assert "bare" in analysis.table_text(analysis.load(tmp_path))


def test_an_unfinished_record_is_a_row_that_says_so(tmp_path, make):
    make(steps=5, batches=2, unfinished=2).save(tmp_path / "begun")
    row = analysis.load(tmp_path).iloc[0]
    assert not row["complete"]
    assert np.isnan(row["lambda_max"])


def test_loss_is_weighted_by_tokens(tmp_path, make):
    spectrum = make(steps=5, batches=3)
    spectrum.losses[:] = 1.0, 2.0, np.nan
    spectrum.tokens[:] = 100, 300, 0
    spectrum.save(tmp_path / "r")
    row = analysis.load(tmp_path).iloc[0]
    assert row["loss"] == pytest.approx(1.75)
    assert row["loss_se"] == pytest.approx(np.sqrt(2 * (0.25**2 * 0.75**2 + 0.75**2 * 0.25**2)))


def test_equal_token_counts_give_the_usual_standard_error(runs, several):
    row = runs.set_index("name").loc["w2/step-200"]
    assert row["loss_se"] == pytest.approx(several.losses.std(ddof=1) / 2)


def test_a_damaged_record_is_named_and_left_out(tmp_path, make):
    make(steps=5).save(tmp_path / "good")
    make(steps=5).save(tmp_path / "bad")
    file = tmp_path / "bad" / "spectrum.npz"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.warns(analysis.RecordWarning, match="bad"):
        frame = analysis.load(tmp_path)
    assert frame["name"].tolist() == ["good"]
    assert issubclass(analysis.RecordWarning, SpectraWarning)
    with (
        pytest.warns(analysis.RecordWarning),
        pytest.raises(RecordError, match="none of the 1 records"),
    ):
        analysis.load(tmp_path / "bad")


def test_nothing_to_load_is_one_sentence(tmp_path):
    with pytest.raises(RecordError, match="holds no record"):
        analysis.load(tmp_path)
    with pytest.raises(RecordError, match="not a directory"):
        analysis.load(tmp_path / "absent")
    with pytest.raises(RecordError, match="empty list"):
        analysis.load([])
    with pytest.raises(UsageError, match="scope"):
        analysis.load(tmp_path, scope="universe")


def test_spectrum_follows_rows_tuples_and_paths(runs, root, several):
    wanted = several.alphas
    rows = runs[runs["name"] == "w2/step-200"]
    for row in (rows.iloc[0], next(rows.itertuples()), rows.iloc[0]["path"], several):
        np.testing.assert_array_equal(analysis.spectrum(row).alphas, wanted)
    with pytest.raises(UsageError, match="path"):
        analysis.spectrum(pd.Series({"name": "x"}))


def test_names_are_relative_to_the_root_asked_for(root):
    assert list(find_records([root / "w2"]).values()) == ["step-200", "step-1000"]


def test_root_of_a_mean_square():
    got = rms_of({"value": 4.0, "stderr": 0.4, "lower": -0.1, "upper": 9.0})
    assert got == {"value": 2.0, "lower": 0.0, "upper": 3.0, "stderr": pytest.approx(0.1)}
    assert rms_of({}) == {}


def test_the_config_id_names_what_was_asked_and_not_what_came_out(make):
    base = make(steps=5)
    same = make(steps=5, cost={"seconds": 99.0}, environment={"device": "cuda"})
    other = make(steps=5, estimator={"seed": 4})
    assert analysis.config_id(base.metadata) == analysis.config_id(same.metadata)
    assert analysis.config_id(base.metadata) != analysis.config_id(other.metadata)
