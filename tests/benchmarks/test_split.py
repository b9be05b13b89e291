"""Parts add up to what was cut, products of parts to the whole, and every part of `gpu` reports."""

from __future__ import annotations

import json

import pytest
import torch

from spectra.benchmarks import gpu, split
from spectra.benchmarks.__main__ import main
from spectra.benchmarks.subject import SHAPES, Subject, load


@pytest.fixture(scope="module")
def subject() -> Subject:
    SHAPES["llama-test"] = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32,
    }  # fmt: skip
    return load("llama-test", seq_len=8, batch_size=2)


@pytest.mark.parametrize(("kind", "bits"), [("bfloat16", 8), ("tf32", 11)])
def test_parts_round_to_nearest_and_add_up(kind, bits):
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    for count in (1, 2, 3):
        found = split.parts(x, kind, count)
        left = (x.double() - sum(part.double() for part in found)).abs() / x.double().abs()
        assert float(left.max()) <= 2.0 ** (-bits * count)
        for part in found:
            significand, _ = torch.frexp(part.double())
            assert torch.equal(significand * 2**bits, (significand * 2**bits).round())


def test_errors_fall_with_the_parts_as_derived():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(64, 64, generator=generator) for _ in range(2))
    exact, scale = a.double() @ b.double(), a.double().norm() * b.double().norm()

    def error(kind: str, count: int) -> float:
        product = split.split_product(torch.mm, a, b, kind, count)
        return float((product.double() - exact).norm() / scale)

    plain = error("float32", 1)
    assert error("bfloat16", 2) < 2**-7 * error("bfloat16", 1)
    assert error("tf32", 2) < 2**-9 * error("tf32", 1)
    for kind, count in (("bfloat16", 3), ("tf32", 2)):
        assert error(kind, count) < 2 * plain
    assert error("bfloat16", 2) > 10 * plain


def test_whole_products_are_replaced(subject):
    rows = {row["products as"]: row for row in split.measure(subject, 1)}
    exact = rows["float32"]["relative"]
    assert rows["bfloat16"]["relative"] > 1e3 * exact
    assert rows["3 bfloat16 parts, 6 products"]["relative"] < 4 * exact
    assert rows["2 TF32 parts, 3 products"]["relative"] < 4 * exact
    for row in rows.values():
        assert row["replaced"] >= 3 * 7  # seven linear layers, forward and both backwards
        assert row["told"].startswith("unmeasured") == (subject.device.type == "cpu")


def test_the_gpu_benchmark_leaves_nothing_out(subject, tmp_path, capsys, monkeypatch):
    out = tmp_path / "gpu.json"
    flags = ["--model", "llama-test", "--seq_len", "8", "--rounds", "1", "--steps", "4"]
    assert main(["gpu", *flags, "--device", "cpu", "--output", str(out)]) == 0
    rows = {row["part"]: row for row in json.loads(out.read_text())["gpu"]}
    for graph in ("keep", "recompute", "blocks"):
        assert rows[f"graph {graph}"]["graph"] == graph
        assert rows[f"graph {graph}"]["seconds"] > 0
    assert rows["bfloat16, matmuls highest"]["delta"] > rows["float32, matmuls highest"]["delta"]
    assert rows["product as a CUDA graph"]["told"] == "unmeasured: needs CUDA"
    assert rows["density of 4 steps"]["seconds"] > 0
    assert "unmeasured: needs CUDA" in capsys.readouterr().out

    def broken(*_):
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setattr(gpu, "_several", broken)
    rows = {row["part"]: row for row in gpu.measure(subject, 1, 3)}
    assert rows["4 vectors at once"] == {
        "part": "4 vectors at once",
        "told": "unmeasured: no such kernel",
    }
