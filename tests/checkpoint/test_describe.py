"""A description agrees with the loaded model and reads no weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spectra.checkpoint import describe, load_checkpoint
from spectra.errors import CheckpointError
from tests.checkpoint.saved import build


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_agrees_with_the_loaded_model(tmp_path: Path, kind: str) -> None:
    build(kind).save_pretrained(tmp_path / kind)
    seen, ckpt = describe(tmp_path / kind), load_checkpoint(tmp_path / kind, device="cpu")
    meta, model = ckpt.meta, ckpt.model
    assert (seen.path, seen.format, seen.step) == (meta.path, meta.format, meta.step)
    assert (seen.architecture, seen.stored_dtype) == (meta.architecture, meta.stored_dtype)
    assert seen.parameters == meta.parameters
    assert (seen.hidden, seen.layers, seen.vocab, seen.context) == (16, 2, 64, 32)
    assert seen.tied
    assert not seen.tokenizer
    assert seen.weight_bytes == (tmp_path / kind / "model.safetensors").stat().st_size
    assert len(seen.linear) == {"llama": 14, "gpt2": 8}[kind]
    for name, shape in seen.linear.items():
        module = model.get_submodule(name)
        inputs = torch.zeros(1, shape[1])
        assert module(inputs).shape == (1, shape[0])
    names = {name: p.shape for name, p in seen.skeleton.named_parameters()}
    assert names == {name: p.shape for name, p in model.named_parameters()}
    assert {p.device.type for p in seen.skeleton.parameters()} == {"meta"}


def test_reads_no_weight(llama: Path) -> None:
    file = llama / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as handle:
        header = 8 + int.from_bytes(handle.read(8), "little")
        handle.seek(header)
        handle.write(b"\xff" * (size - header))  # all of it NaN
    assert describe(llama).weight_bytes == size
    with pytest.raises(CheckpointError, match="NaN"):
        load_checkpoint(llama, device="cpu")


def test_a_checkpoint_that_would_be_refused_is_described(
    llama: Path, change: Callable[..., None]
) -> None:
    change(llama, lambda state: state.update({"a.weight_clip_val": torch.ones(2)}))
    seen = describe(llama)
    assert "stores weight_clip_val, but its config.json has no w_bits" in seen.refusal
    assert seen.qat is None
    assert seen.parameters == describe(llama).parameters


def test_finds_the_tokenizer(llama: Path) -> None:
    assert describe(llama).tokenizer
