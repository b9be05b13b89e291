"""The benchmarks run and tell what they say they tell; how long anything takes is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectra.benchmarks import default, machine, modes, policies, processes, stream, versus
from spectra.benchmarks.__main__ import main
from spectra.benchmarks.subject import SHAPES, Subject, load
from spectra.errors import UsageError


@pytest.fixture(scope="module", autouse=True)
def small() -> None:
    SHAPES["llama-test"] = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32,
    }  # fmt: skip


@pytest.fixture(scope="module")
def subject(small: None) -> Subject:
    return load("llama-test", seq_len=8, batch_size=2)


def test_a_product_is_two_gradients_of_flops(tmp_path: Path, capsys) -> None:
    out = tmp_path / "b" / "product.json"
    flags = ["--model", "llama-test", "--seq_len", "8", "--rounds", "1", "--output", str(out)]
    assert main(["product", *flags]) == 0
    (row,) = json.loads(out.read_text())["product"]
    assert 1.5 < row["gradients_a_product_flops"] < 2.1
    assert row["parameters"] == 16 * 16 * 7
    assert str(row["parameters"]) in capsys.readouterr().out


def test_tools_that_are_missing_are_named_with_the_reason(subject, monkeypatch) -> None:
    def missing(_: Subject) -> None:
        raise ImportError("No module named 'nothing'")

    kept = ("spectra", "hessian-eigenthings", "reference procedure")
    monkeypatch.setattr(versus, "TOOLS", {n: versus.TOOLS[n] for n in kept} | {"nothing": missing})
    rows = {row["tool"]: row for row in versus.measure(subject, 1, density=True)}
    assert rows["nothing"]["failed"] == "ImportError: No module named 'nothing'"
    assert rows["spectra"]["product_over_spectra"] == 1
    for name in kept:
        assert rows[name]["product_seconds"] > 0
        assert rows[name]["density_seconds"] > 0


def test_policies_are_told_against_full_reorthogonalization() -> None:
    rows = policies.measure(2000, 120)
    for kind in policies.KINDS:
        mine = {row["policy"]: row for row in rows if row["operator"] == kind}
        full, none = mine["full, float32"], mine["none"]
        assert full["w1_over_range"] == 0
        assert full["basis_bytes"] == 4 * 2000 * 120
        assert none["basis_bytes"] == 0
        part = mine["100 vectors, then converged"]
        assert part["basis_bytes"] == 4 * 2000 * 100
        assert full["band"] <= part["band"] <= none["band"]
        assert full["outliers"] == part["outliers"] < none["outliers"]


def test_the_stream_is_of_the_bytes_that_passes_read() -> None:
    assert stream.measure(1000, 5, 1)["bytes"] == 2 * 4 * 1000 * 15


def test_the_machine_is_described() -> None:
    import torch

    found = machine.describe(torch.device("cpu"))
    assert found["threads"] == torch.get_num_threads()
    assert found["processor"]


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(UsageError, match="llama-5x"):
        load("llama-5x", seq_len=8, batch_size=1)


def test_every_policy_has_the_time_of_the_whole_basis(subject) -> None:
    rows = {row["policy"]: row for row in default.measure(subject, 9)}
    assert rows["whole"]["products"] == 9
    assert rows["none"]["basis_bytes"] == 0
    assert rows["whole"]["basis_bytes"] == 9 * 4 * rows["whole"]["parameters"]
    assert all(row["seconds"] > 0 for row in rows.values())
    assert all(0 <= row["width_0.9"] <= 1 for row in rows.values())


def test_shapes_of_two_architectures(monkeypatch) -> None:
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 32}
    monkeypatch.setitem(SHAPES, "gpt2-test", shape)
    assert type(load("gpt2-test", seq_len=8, batch_size=1).model).__name__ == "GPT2LMHeadModel"


@pytest.mark.slow
def test_processes_share_work_and_find_the_same() -> None:
    rows = processes.measure("tiny", 16, 3, 1, 2)
    assert [row["shared"] for row in rows] == ["2 batches", "2 probes", "2 batches"]
    assert all(row["equal"] for row in rows)
    assert all(row["throughput"] > 0 for row in rows)


def test_ways_to_hold_a_graph(subject) -> None:
    rows = modes.measure(subject)
    assert [row["graph"] for row in rows] == 2 * ["keep", "recompute", "blocks"]
    kept, rebuilt, blocks = (row["gradients_a_product"] for row in rows[:3])
    assert 1.5 < kept < rebuilt < blocks < 4.2
    assert all(row["peak_bytes"] > row["vector_bytes"] for row in rows)
