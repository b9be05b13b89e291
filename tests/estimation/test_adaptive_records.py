"""Adaptive estimates of checkpoints and families: records, resuming, memory, data, the terminal."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import analysis
import spectra
from analysis.adaptive import adaptive_lines
from spectra.cli.main import main
from spectra.errors import RecordError, UsageError
from spectra.estimation import SLQSettings, engine, memory
from tests.estimation.test_adaptive import Counted, outcome, pile, within

SIZES = {"seq_len": 16, "num_batches": 3, "dtype": "float64"}
ASKED = {"tol": 0.06, "tau": "0.2", "max_hvps": 600, "edge": "sharp"}


def estimate(checkpoint, tokens, output, **changes):
    options = SIZES | ASKED | changes
    return spectra.estimate(
        str(checkpoint), data=str(tokens), output=str(output), progress=False, **options
    )


def assert_same(one, two):
    for name in ("alphas", "betas", "steps", "nodes", "weights", "losses", "grad_norms"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    for key in ("summary", "checks", "adaptive", "estimator", "notes"):
        assert one.metadata[key] == two.metadata[key], key
    assert one.metadata["cost"]["hvps"] == two.metadata["cost"]["hvps"]


@pytest.fixture(scope="module")
def whole(checkpoint, tokens, tmp_path_factory):
    """A finished record on disk: three batches, asked for one mass."""
    output = tmp_path_factory.mktemp("adaptive") / "whole"
    return estimate(checkpoint, tokens, output), output


def test_batches_differ_in_steps_and_the_record_is_a_record(whole):
    found, output = whole
    assert outcome(found)["stopped"] == "reached"
    assert found.complete
    assert len(set(found.steps[:, 0].tolist())) > 1
    again = spectra.load(output)
    assert_same(again, found)
    assert json.loads((output / "spectrum.json").read_text())["adaptive"] == outcome(again)
    assert again.mass(-0.2, 0.2).width <= 0.12
    assert analysis.load(output).iloc[0]["lanczos_steps"] == found.steps.max()
    assert analysis.plot_record(again) is not None


def test_an_easy_batch_pays_for_a_hard_one(whole):
    found, _ = whole
    widths = []
    for b in range(3):
        L, U = spectra.quadrature.sharp_bounds(
            found.alphas[b, 0, : found.steps[b, 0]],
            found.betas[b, 0, : found.steps[b, 0]],
            np.array([-0.2, 0.2]),
        )
        widths.append(min(1, U[1] - L[0]) - max(0, L[1] - U[0]))
    (row,) = outcome(found)["functionals"]
    assert row["resolution"] == pytest.approx(np.mean(widths), abs=1e-5)
    assert max(widths) > min(widths)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2])
def test_interrupted_and_resumed_is_uninterrupted(
    whole, checkpoint, tokens, tmp_path, monkeypatch, after
):
    count, write = 0, engine._write

    def write_and_stop(store, output):
        nonlocal count
        write(store, output)
        count += 1
        if count == after:
            raise StoppedError

    monkeypatch.setattr(engine, "_write", write_and_stop)
    with pytest.raises(StoppedError):
        estimate(checkpoint, tokens, tmp_path / "cut")
    monkeypatch.setattr(engine, "_write", write)
    cut = spectra.load(tmp_path / "cut")
    assert (cut.finished, outcome(cut)["stopped"]) == (after, None)
    assert adaptive_lines(cut) == []
    assert analysis.summary_lines(cut)
    resumed = estimate(checkpoint, tokens, tmp_path / "cut", resume=True)
    assert_same(resumed, whole[0])
    assert_same(spectra.load(tmp_path / "cut"), whole[0])


def test_more_products_are_spent_on_what_fell_short_and_told(checkpoint, tokens, tmp_path):
    short = estimate(checkpoint, tokens, tmp_path / "r", max_hvps=60)
    assert (outcome(short)["stopped"], outcome(short)["products"]) == ("budget", 60)
    more = estimate(checkpoint, tokens, tmp_path / "r", max_hvps=600, resume=True)
    assert outcome(more)["stopped"] == "reached"
    assert more.metadata["cost"]["hvps"] == 60 + int(more.steps.sum())
    assert any("60 products of an earlier part" in note for note in more.metadata["notes"])
    again = estimate(checkpoint, tokens, tmp_path / "r", max_hvps=700, resume=True)
    assert np.array_equal(again.steps, more.steps)


def test_adaptive_and_plain_records_do_not_go_on_from_each_other(
    whole, checkpoint, tokens, tmp_path
):
    plain = {"tol": None, "tau": None, "max_hvps": None, "edge": "soft", "lanczos_steps": 8}
    with pytest.raises(RecordError, match=r"estimator\.adaptive differs"):
        estimate(checkpoint, tokens, whole[1], resume=True, **plain)
    estimate(checkpoint, tokens, tmp_path / "plain", **plain)
    with pytest.raises(RecordError, match=r"estimator\.adaptive differs"):
        estimate(checkpoint, tokens, tmp_path / "plain", resume=True)


def test_the_population_is_told_by_batches(checkpoint, tokens, tmp_path):
    found = estimate(
        checkpoint, tokens, tmp_path / "r", scope="population", num_batches=5, tol=0.15
    )
    (row,) = outcome(found)["functionals"]
    estimated = found.mass(-0.2, 0.2, scope="population")
    assert (row["lower"], row["upper"]) == (estimated.lower, estimated.upper)
    assert row["probes"] is None
    assert row["batches"] > 0
    assert row["reached"] == (row["width"] <= 0.3)
    assert found.steps.shape == (5, 1)


def test_a_spread_that_steps_cannot_narrow_ends_the_run(checkpoint, tokens, tmp_path):
    asked = {"scope": "population", "tol": 0.004, "tau": "1", "max_hvps": 5000}
    told = outcome(estimate(checkpoint, tokens, tmp_path / "r", **asked))
    (row,) = told["functionals"]
    assert told["stopped"] == "batches"
    assert row["batches"] > 0.008
    assert row["batches_needed"] > 3
    assert told["products"] < 5000


def test_masked_zeros_are_counted_exactly(checkpoint, tokens, tmp_path):
    quantized = {"quantizer": "lsq", "w_bits": 2, "initialize_scales": True}
    found = estimate(checkpoint, tokens, tmp_path / "r", **quantized)
    (row,) = outcome(found)["functionals"]
    masked = found.metadata["masked_fraction"]
    assert masked > 0
    assert row["reached"]
    assert row["lower"] >= masked
    assert row["width"] <= row["resolution"] + row["probes"] + 1e-9
    assert max(found.steps.flat) <= found.metadata["dim_unmasked"]


def test_winq_protocol_has_its_own_steps(checkpoint, tokens, tmp_path):
    with pytest.raises(UsageError, match="has a fixed number of steps"):
        estimate(checkpoint, tokens, tmp_path / "r", protocol="winq")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_beyond_the_memory_bounds_stay_valid_and_more_steps_make_up(dtype):
    lam = pile()
    asked = {"tol": 0.1, "tau": 0.1, "num_probes": 2, "progress": False}
    kept = spectra.slq(Counted(lam, dtype), **asked)
    itemsize = torch.empty(0, dtype=dtype).element_size()
    room = int((6 + 40.5) * lam.size * itemsize / 0.85)
    cut = spectra.slq(Counted(lam, dtype), max_memory=room, **asked)
    none = spectra.slq(Counted(lam, dtype), basis="none", **asked)
    assert outcome(kept)["basis_steps"] == 600
    assert outcome(cut)["basis_steps"] == 40
    assert outcome(none)["basis_steps"] == 0
    assert any("a basis of 40 vectors fits" in note for note in cut.metadata["notes"])
    for found in (kept, cut, none):
        (row,) = outcome(found)["functionals"]
        assert row["reached"]
        assert row["lower"] <= within(lam, 0.1) <= row["upper"]
    spent = [outcome(found)["products"] for found in (kept, cut, none)]
    assert spent[0] <= spent[1] <= 1.2 * spent[2]
    assert np.array_equal(cut.alphas[0, 0, :40], kept.alphas[0, 0, :40])


def test_the_terminal_says_asked_reached_and_why(checkpoint, tokens, tmp_path, capsys):
    places = ["--ckpt", checkpoint, "--data", tokens, "--output", tmp_path / "r", "--no_figure"]
    sizes = ["--seq_len", "16", "--num_batches", "2", "--dtype", "float64"]
    asked = ["--tol", "0.1", "--tau", "0.2,0.01", "--negative-mass", "--max_hvps", "120"]
    asked += ["--edge", "sharp"]
    code = main([str(a) for a in ["estimate", *places, *sizes, *asked]])
    printed = capsys.readouterr().out
    assert code == 0
    assert "asked: intervals no wider than 0.2 (±0.1), for these 2 batches" in printed
    assert "of it resolution" in printed
    assert "mass |λ| ≤ 0.01" in printed
    assert "mass λ < 0" in printed
    assert "stopped at 120 of 120 products, not reached" in printed
    assert "products (--max_hvps) would do" in printed
    code = main([str(a) for a in ["info", checkpoint, "--tol", "0.1", "--max_hvps", "90"]])
    assert code == 0
    assert "3 operators × 1 probes × 30 steps = 90" in capsys.readouterr().out
    code = main(["estimate", "--ckpt", str(checkpoint), "--tau", "0.1"])
    assert code == 2
    assert "pass tol with it" in capsys.readouterr().err


def test_soft_shares_are_the_default_and_resumed_bit_for_bit(checkpoint, tokens, tmp_path):
    soft = {"edge": "soft", "tau": "0.1,0.4", "tol": 0.12}
    found = estimate(checkpoint, tokens, tmp_path / "whole", **soft)
    told = outcome(found)
    assert told["asked"]["edge"] == "soft"
    assert [row["name"] for row in told["functionals"]] == ["soft_share"] * 2
    for row in told["functionals"]:
        share = found.soft_mass(row["tau"])
        assert (row["lower"], row["upper"]) == (share.lower, share.upper)
        assert row["reached"] == (share.width <= 0.24)
        rows = [r for r in found.metadata["summary"]["soft"] if r["tau"] == row["tau"]]
        assert rows
    words = "\n".join(adaptive_lines(found))
    assert "share near zero, τ = 0.1" in words
    again = estimate(checkpoint, tokens, tmp_path / "whole", resume=True, **soft)
    assert_same(found, again)
    sharp = estimate(checkpoint, tokens, tmp_path / "sharp", **(soft | {"edge": "sharp"}))
    assert outcome(found)["products"] <= outcome(sharp)["products"]
    with pytest.raises(UsageError, match="edge='round'"):
        estimate(checkpoint, tokens, tmp_path / "no", edge="round")
    with pytest.raises(UsageError, match="edge belongs to an adaptive estimate"):
        spectra.slq(Counted(pile()), edge="sharp")


@pytest.mark.parametrize(
    ("settings", "free", "kept", "where"),
    [
        ({}, 1000, 100, "device, working dtype"),
        ({}, 31.1, 50, "device, float16"),
        ({"basis_dtype": "float32"}, 31.1, 0, "none"),
        ({"basis": "device"}, 56.1, 50, "device, working dtype"),
        ({"basis": "none"}, 1000, 0, "none"),
    ],
)
def test_on_a_gpu_half_precision_keeps_twice_as_many(monkeypatch, settings, free, kept, where):
    dim = 1000
    monkeypatch.setattr(memory, "available_bytes", lambda _: int(dim * 4 * free / 0.85))
    asked = SLQSettings(lanczos_steps=100, **settings)
    plan = memory.plan_basis(asked, dim, torch.float32, torch.device("cuda"))
    assert (plan.kept, plan.policy.describe()) == (kept, where)
    assert bool(plan.note) == (0 < kept < 100 or (kept == 0 and "basis" not in settings))
    resumed = memory.plan_basis(asked, dim, torch.float32, torch.device("cuda"), kept)
    assert (resumed.kept, resumed.policy) == (kept, plan.policy)
