"""Two records as a comparison: what may be compared, what is said, and in which order."""

import dataclasses
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

import analysis
from analysis.comparable import check_comparable
from analysis.comparison import quantity_words, record_pairs
from spectra.errors import RecordError, UsageError
from spectra.quadrature import differences, mass

DELTA = 1e-4


@pytest.fixture(scope="module")
def pair(make):
    """Three batches each; B is A scaled by 1.3, at other precision of measurement."""
    a = make(batches=3, steps=40, delta=DELTA, same=True)
    return a, make(batches=3, steps=50, delta=DELTA, same=True, scale=1.3)


@pytest.fixture(scope="module")
def comparison(pair):
    return analysis.compare(*pair)


def test_the_table_is_tidy_and_says_what_the_quadrature_says(pair, comparison):
    table = comparison.table.set_index("quantity")
    found = {row.name: row for row in differences(*(one.measure for one in pair))}
    assert list(table.index) == list(found)
    assert len(table) == 23
    for name, row in found.items():
        for column in ("value", "lower", "upper"):
            shown = table.loc[name, "difference" if column == "value" else column]
            assert shown == pytest.approx(getattr(row, column), nan_ok=True)
    assert table["resolved"].dtype == bool
    assert table.loc["lambda_max", "lower"] <= 0.3 * 30 <= table.loc["lambda_max", "upper"]
    assert table.loc["lambda_max", "resolved"]
    assert math.isnan(table.loc["wasserstein", "a"])
    alone = mass(pair[0].measure, -0.1, 0.1)
    ends = table.loc["near_zero_0.1", ["a_lower", "a_upper"]].tolist()
    assert ends == pytest.approx([alone.lower, alone.upper], abs=1e-6)


def test_the_text_leads_with_what_is_resolved_and_rounds_outward(comparison):
    lines = comparison.text().splitlines()
    assert lines[0].startswith("A  w2/checkpoint-800, W2A16, step 800")
    assert "B − A, 95 %, these 3 batches" in lines[2]
    first, second = (
        next(i for i, line in enumerate(lines) if line.startswith(head))
        for head in ("resolved", "not resolved")
    )
    assert first < second
    for row in comparison.table.to_dict("records"):
        words = f"  {quantity_words(row['quantity'], row['tau'])}  "
        place, line = next((i, x) for i, x in enumerate(lines) if x.startswith(words))
        assert (place < second) == row["resolved"]
        if math.isnan(row["lower"]):
            continue
        shown = re.findall(r"\[(\S+), (\S+)\]", line)[-1]
        low, high = (float(end.replace("−", "-")) for end in shown)
        assert low <= row["lower"] + 1e-6 * abs(row["lower"])
        assert high >= row["upper"] - 1e-6 * abs(row["upper"])
        assert line.rstrip().endswith(row["limited_by"] or "–")
    assert "what would narrow the rest: more steps" in comparison.text()
    assert "note: lanczos_steps differs: 40 in A, 50 in B" in lines


def test_a_record_does_not_differ_from_itself(pair):
    for scope in ("batches", "population"):
        itself = analysis.compare(pair[0], pair[0], scope=scope)
        assert not itself.table["resolved"].any()
        assert not any(line.startswith("resolved") for line in itself.text().splitlines())
        assert itself.notes == ("A and B are the same record: nothing can differ",)
    copy = dataclasses.replace(pair[0], metadata=dict(pair[0].metadata))
    assert analysis.compare(pair[0], copy).notes == itself.notes
    assert not any("same record" in note for note in analysis.compare(*pair).notes)


def test_scopes_thresholds_and_confidence(pair):
    over = analysis.compare(*pair, scope="population", taus=[0.3, 0.05], confidence=0.9)
    words = over.text()
    assert "90 %, population over data" in words
    names = [name for name in over.table["quantity"] if name.startswith("near_zero_0")]
    assert names == ["near_zero_0.05", "near_zero_0.3"]
    assert set(over.table["scope"]) == {"population"}
    with pytest.raises(UsageError, match="scope='all'"):
        analysis.compare(*pair, scope="all")
    with pytest.raises(UsageError, match="tau=-1"):
        analysis.compare(*pair, taus=[-1])


def test_rows_paths_and_directories_are_records(pair, tmp_path):
    for name, one in zip("ab", pair, strict=True):
        one.save(tmp_path / name / "run")
    runs = analysis.load(tmp_path)
    from_rows = analysis.compare(runs.iloc[0], runs.iloc[1])
    from_paths = analysis.compare(str(tmp_path / "a"), tmp_path / "b" / "run")
    assert from_rows.table.equals(from_paths.table)
    with pytest.raises(UsageError, match="holds 2 records"):
        analysis.compare(tmp_path, tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="no record"):
        analysis.compare(tmp_path / "empty", tmp_path / "b")


def test_records_below_two_directories_are_paired_by_name(one, tmp_path):
    for place in ("a/step-2", "a/step-10", "b/step-10", "b/step-2", "c/step-2", "c/x", "d/z"):
        one.save(tmp_path / place)
    found = record_pairs(tmp_path / "a", tmp_path / "b")
    assert list(found) == ["step-2", "step-10"]
    assert found["step-2"] == (tmp_path / "a/step-2", tmp_path / "b/step-2")
    with pytest.warns(analysis.RecordWarning, match=r"step-10 \(A only\), x \(B only\)"):
        assert list(record_pairs(tmp_path / "a", tmp_path / "c")) == ["step-2"]
    assert list(record_pairs(tmp_path / "a/step-2", tmp_path / "d")) == [""]
    with pytest.raises(UsageError, match="no name in common"):
        record_pairs(tmp_path / "a", tmp_path / "d")


REFUSED = {
    "data.sha256 differs (cdcdcdcdcdcd… in A, ef": {"data": {"sha256": "ef" * 32}},
    "surface differs (latent in A, quantized in B)": {"surface": "quantized"},
    "reduce differs (per_batch in A, mean in B)": {"reduce": "mean"},
    "params differs:": {"params": {"names": ["layers.0.k"]}},
    "curvature differs (None in A, GGN in B)": {"estimator": {"curvature": "GGN"}},
    "protocol of B is 'winq'": {"estimator": {"protocol": "winq"}},
    "probe_kind of B is 'rademacher'": {"estimator": {"probe_kind": "rademacher"}},
    "structural_zero_fraction differs (0.05 in A, 0.06 in B)": {
        "checks": {"structural_zero_fraction": 0.06}
    },
}


def changed(one, change):
    metadata = dict(one.metadata)
    for key, value in change.items():
        metadata[key] = metadata[key] | value if isinstance(value, dict) else value
    return dataclasses.replace(one, metadata=metadata)


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_not_comparable_is_refused_by_the_key_that_differs(one, sentence):
    other = changed(one, REFUSED[sentence])
    with pytest.raises(UsageError) as found:
        check_comparable(one, other)
    assert sentence in str(found.value)
    assert str(found.value).count(".\n") == 0
    assert ";" in str(found.value)  # the cure
    if "of B" not in sentence:
        with pytest.raises(UsageError, match=re.escape(sentence.partition("differs")[0])):
            check_comparable(other, one)


def test_other_dimensions_tokens_and_nothing_finished_are_refused(one, make):
    with pytest.raises(UsageError, match=r"dim differs \(6000 in A, 5000 in B\)"):
        check_comparable(one, make(steps=5, dim=5000))
    with pytest.raises(UsageError, match="tokens differs"):
        check_comparable(one, dataclasses.replace(one, tokens=one.tokens + 1))
    with pytest.raises(UsageError, match="B has no finished probe"):
        check_comparable(one, make(steps=5, unfinished=1))


def test_structural_zeros_under_masks_are_compared_before_masking(one):
    """f masked coordinates may cover up to f of the zeros that few tokens force."""

    def other(structural, masked):
        checks = {"checks": {"structural_zero_fraction": structural}}
        return changed(one, checks | {"masked_fraction": masked})

    check_comparable(other(0.05, 0.02), other(0.04, 0.03))  # .05 to .07 and .04 to .07 meet
    check_comparable(other(0.05, 0.0), other(0.0, 0.06))
    with pytest.raises(UsageError, match="structural"):
        check_comparable(other(0.05, 0.0), other(0.0, 0.04))
    check_comparable(other(0.05, 0.0), other(0.0504, 0.0))  # rounding
    notes = check_comparable(one, other(None, 0.0))
    assert any("known of one of the two only" in note for note in notes)


def test_what_differs_and_may_is_told(one):
    point = {"point": {"toward_grid": 0.4, "rederived_scales": False}}
    moved = dataclasses.replace(one, metadata=one.metadata | point)
    other = changed(moved, {"estimator": {"seed": 4, "dtype": "float64", "num_probes": 9}})
    notes = "\n".join(check_comparable(one, other))
    point, error = "B at 0.4 to the grid (scales frozen)", "product error of A not measured"
    for words in ("seed differs: 3 in A, 4 in B", "dtype differs", "num_probes", point, error):
        assert words in notes
    nameless = changed(one, {"data": {"sha256": None}})
    assert "taken on trust" in "\n".join(check_comparable(nameless, nameless))


def test_batches_finished_in_one_only_are_left_out(pair, make):
    begun = make(batches=3, steps=40, delta=DELTA, same=True, unfinished=1)
    found = analysis.compare(pair[0], begun)
    assert found.batches == 2
    assert "unfinished: 2 of 3 batches compared" in found.notes
    assert "these 2 batches" in found.text()
    with pytest.raises(UsageError, match="at least 3 batches"):
        analysis.compare(pair[0], begun, scope="population")
    steps = np.array([[0], [0], [40]])
    with pytest.raises(UsageError, match="no batch is finished in both"):
        analysis.compare(dataclasses.replace(pair[0], steps=steps), begun)


def test_masked_shares_may_differ(make):
    a = make(batches=2, steps=40, masked=600, delta=DELTA)
    b = make(batches=2, steps=40, masked=1800, delta=DELTA)
    table = analysis.compare(a, b).table.set_index("quantity")
    assert table.loc["near_zero_0.1", "a_lower"] > 0.1
    assert table.loc["near_zero_0.1", "b_lower"] > 0.3
    assert (table["lower"].dropna() <= table["upper"].dropna()).all()


def test_the_figure_draws_both_with_bands(pair, make):
    ax = analysis.plot_comparison(*pair, scope="population", confidence=0.9)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [name[:2] for name in names] == ["A,", "B,"]
    assert all("90 % band, population over data" in name for name in names)
    assert len(ax.collections) == 2
    plt.close(ax.figure)
    own = plt.figure().subplots()
    masked = make(batches=1, steps=20, masked=600)
    assert analysis.plot_comparison(masked, masked, ax=own) is own
    assert "masked zeros" in [text.get_text() for text in own.get_legend().get_texts()]
    plt.close(own.figure)
    top, bottom = analysis.comparison_figure(*pair).axes
    assert len(top.get_lines()) == 2
    assert top.get_lines()[0].get_color() != top.get_lines()[1].get_color()
    assert "|λ| ≤ τ" in bottom.get_ylabel()
