"""What is loaded is what was saved: numbers, types, tying, step, hash, tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import spectra.tiny
from spectra.checkpoint import describe, load_checkpoint
from spectra.errors import CheckpointError, UsageError
from tests.checkpoint.saved import VOCAB, build


def same(first: Any, second: Any) -> bool:
    """Whether two models have equal parameters under equal names."""
    one, two = dict(first.named_parameters()), dict(second.named_parameters())
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_numbers_mode_and_facts(llama: Path) -> None:
    ckpt = load_checkpoint(llama, device="cpu")
    assert same(ckpt.model, build())
    assert not any(module.training for module in ckpt.model.modules())
    assert ckpt.qat is None
    assert ckpt.meta.architecture == "LlamaForCausalLM"
    assert ckpt.meta.format == "safetensors"
    assert ckpt.meta.stored_dtype == "float32"
    assert ckpt.meta.parameters == sum(p.numel() for p in build().parameters())
    assert (ckpt.meta.path, ckpt.meta.revision, ckpt.meta.step) == (str(llama), None, None)
    assert (ckpt.meta.w_bits, ckpt.meta.a_bits, ckpt.meta.method) == (None, None, None)
    assert ckpt.meta.notes == ()
    assert json.loads(json.dumps(ckpt.meta.metadata()))["sha256"] == ckpt.meta.sha256
    with pytest.raises(dataclasses.FrozenInstanceError):
        ckpt.model = None  # type: ignore[misc]


def test_tied_weights_are_one_tensor_and_untied_two(llama: Path, tmp_path: Path) -> None:
    tied = load_checkpoint(llama, device="cpu").model
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    build(tie_word_embeddings=False).save_pretrained(tmp_path / "untied")
    untied = load_checkpoint(tmp_path / "untied", device="cpu")
    assert untied.model.lm_head.weight is not untied.model.model.embed_tokens.weight
    assert same(untied.model, build(tie_word_embeddings=False))


def test_tied_by_config_but_stored_twice_is_noted(llama: Path, change: Callable[..., None]) -> None:
    def add_head(state: dict[str, torch.Tensor]) -> None:
        state["lm_head.weight"] = state["model.embed_tokens.weight"] + 1

    change(llama, add_head)
    ckpt = load_checkpoint(llama, device="cpu")
    head, embedding = ckpt.model.lm_head.weight, ckpt.model.model.embed_tokens.weight
    assert torch.equal(head, embedding + 1)
    assert any("two different tensors are stored" in note for note in ckpt.meta.notes)


def test_shards_hold_the_same_model(sharded: Path) -> None:
    ckpt = load_checkpoint(sharded, device="cpu")
    assert same(ckpt.model, build())
    assert ckpt.meta.format == "sharded safetensors"
    assert ckpt.tokenizer is None


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_files(tmp_path: Path, shards: bool, legacy: bool) -> None:
    model, place = build(tie_word_embeddings=False), tmp_path / "bin"
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(place)
    items = list(model.state_dict().items())
    parts = [dict(items[:5]), dict(items[5:])] if shards else [dict(items)]
    names = [f"pytorch_model-{i}.bin" for i in range(2)] if shards else ["pytorch_model.bin"]
    for name, part in zip(names, parts, strict=True):
        torch.save(part, place / name, _use_new_zipfile_serialization=not legacy)
    if shards:
        index = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        (place / "pytorch_model.bin.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": index})
        )
    ckpt = load_checkpoint(place, device="cpu")
    assert same(ckpt.model, model)
    assert ckpt.meta.format == ("sharded " if shards else "") + "pytorch_model.bin"
    assert ckpt.meta.stored_dtype == "float32"


def test_gpt2_loads(tmp_path: Path) -> None:
    build("gpt2").save_pretrained(tmp_path / "gpt2")
    ckpt = load_checkpoint(tmp_path / "gpt2", device="cpu")
    assert same(ckpt.model, build("gpt2"))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_types(llama: Path, dtype: str) -> None:
    ckpt = load_checkpoint(llama, device="cpu", dtype=dtype)
    wanted = getattr(torch, dtype)
    expected = dict(build().named_parameters())
    for name, parameter in ckpt.model.named_parameters():
        assert parameter.dtype == wanted
        assert torch.equal(parameter, expected[name].to(wanted))
    rounded = "stored weights were rounded to " + dtype
    assert (rounded in ckpt.meta.notes) == (dtype in {"bfloat16", "float16"})
    assert ckpt.meta.stored_dtype == "float32"


def test_float64_files_are_not_rounded_on_the_way(tmp_path: Path) -> None:
    model = build().double()
    with torch.no_grad():
        model.model.norm.weight += 1e-12
    model.save_pretrained(tmp_path / "f64")
    exact = load_checkpoint(tmp_path / "f64", device="cpu", dtype="float64")
    assert same(exact.model, model)
    assert exact.meta.notes == ()
    rounded = load_checkpoint(tmp_path / "f64", device="cpu", dtype="float32")
    assert "stored weights were rounded to float32" in rounded.meta.notes


def test_auto_is_the_stored_type_and_float32_the_default(tmp_path: Path) -> None:
    build().to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
    auto = load_checkpoint(tmp_path / "bf16", device="cpu", dtype="auto")
    assert {p.dtype for p in auto.model.parameters()} == {torch.bfloat16}
    default = load_checkpoint(tmp_path / "bf16", device="cpu")
    assert {p.dtype for p in default.model.parameters()} == {torch.float32}
    assert default.meta.stored_dtype == "bfloat16"
    assert default.meta.notes == ()


def test_mixed_types_are_listed_most_frequent_first(
    llama: Path, change: Callable[..., None]
) -> None:
    def mix(state: dict[str, torch.Tensor]) -> None:
        for name in state:
            if "norm" not in name:
                state[name] = state[name].bfloat16()

    change(llama, mix)
    ckpt = load_checkpoint(llama, device="cpu")
    assert ckpt.meta.stored_dtype == "bfloat16, float32"


def test_hash_is_of_contents_not_of_places(llama: Path, change: Callable[..., None]) -> None:
    meta = load_checkpoint(llama, device="cpu").meta
    contents = [(llama / name).read_bytes() for name in ("model.safetensors", "config.json")]
    assert meta.sha256 == hashlib.sha256(b"".join(contents)).hexdigest()
    moved = llama.rename(llama.with_name("elsewhere"))
    assert load_checkpoint(moved, device="cpu").meta.sha256 == meta.sha256
    change(moved, rms_norm_eps=1e-4)
    assert load_checkpoint(moved, device="cpu").meta.sha256 != meta.sha256


def test_hash_of_shards_is_in_the_order_of_names(sharded: Path) -> None:
    digest = hashlib.sha256()
    for file in [*sorted(sharded.glob("*.safetensors")), sharded / "config.json"]:
        digest.update(file.read_bytes())
    assert load_checkpoint(sharded, device="cpu").meta.sha256 == digest.hexdigest()


def test_tokenizer_own_of_the_run_given_or_none(llama: Path, tmp_path: Path) -> None:
    own = load_checkpoint(llama, device="cpu").tokenizer
    assert own is not None
    text = "3.14>2"
    ids = own(text, add_special_tokens=False)["input_ids"]
    assert own.decode(ids) == text
    bare = llama / "checkpoint-7"
    bare.mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(llama / name, bare)
    above = load_checkpoint(bare, device="cpu")
    assert above.tokenizer is not None
    assert above.meta.step == 7
    assert "the tokenizer is that of the run directory" in above.meta.notes
    alone = Path(shutil.copytree(bare, tmp_path / "alone"))
    assert load_checkpoint(alone, device="cpu").tokenizer is None
    given = load_checkpoint(alone, tokenizer=str(llama), device="cpu")
    assert given.tokenizer is not None
    assert load_checkpoint(alone, tokenizer=own, device="cpu").tokenizer is own


def test_tokenizer_larger_than_the_embedding_is_noted(llama: Path) -> None:
    class Large:
        def __len__(self) -> int:
            return VOCAB + 1

    ckpt = load_checkpoint(llama, tokenizer=Large(), device="cpu")
    assert f"the tokenizer has {VOCAB + 1} entries, the embedding {VOCAB} rows" in ckpt.meta.notes


def test_bad_tokenizers(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer='/no/such/place' does not exist"):
        load_checkpoint(llama, tokenizer="/no/such/place", device="cpu")
    (llama / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"The tokenizer of .* cannot be read"):
        load_checkpoint(llama, device="cpu")


def test_unexpected_tensors_are_noted(llama: Path, change: Callable[..., None]) -> None:
    change(llama, lambda state: state.update({"value_head.weight": torch.zeros(2)}))
    (note,) = load_checkpoint(llama, device="cpu").meta.notes
    assert note == "1 stored tensors are not part of the model: value_head.weight"


def test_loading_leaves_no_trace(llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_checkpoint(llama, device="cpu", dtype="bfloat16")
            describe(llama)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.get_default_dtype() == torch.float32
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
        assert caught == []
    finally:
        logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")


def test_silent_in_a_fresh_interpreter_with_warnings_as_errors(llama: Path) -> None:
    code = f"import spectra; spectra.load_checkpoint({str(llama)!r}, device='cpu')"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize(
    ("dtype", "match"),
    [
        ("float23", r"dtype='float23' is not a type to load in.*did you mean float32"),
        ("int8", "dtype='int8' is not a type"),
        (torch.int64, "dtype='int64' is not a type"),
        ("", "is not a type"),
    ],
)
def test_nonsense_types(llama: Path, dtype: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        load_checkpoint(llama, dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "cud", "cuda:x", "", "cpu:cpu"])
def test_nonsense_devices(llama: Path, device: str) -> None:
    with pytest.raises(UsageError, match="is not a device; pass auto, cpu"):
        load_checkpoint(llama, device=device)


def test_devices_that_are_absent(llama: Path, monkeypatch: Any) -> None:
    with pytest.raises(UsageError, match="device='meta' is not supported"):
        load_checkpoint(llama, device="meta")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"device='cuda' is absent .*; pass --device cpu or auto"):
        load_checkpoint(llama, device="cuda")
    assert next(load_checkpoint(llama, device="auto").model.parameters()).device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="2 CUDA devices are visible; pass cuda:0 to cuda:1"):
        load_checkpoint(llama, device="cuda:2")


TINY = Path(str(spectra.tiny.__file__)).parent / "model"


@pytest.mark.skipif(not TINY.is_dir(), reason="the built-in model is not there yet")
def test_tiny_from_any_directory(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    ckpt = load_checkpoint("tiny", device="cpu")
    assert ckpt.meta.path == "tiny"
    assert ckpt.tokenizer is not None
    assert len(ckpt.tokenizer) <= ckpt.model.config.vocab_size
    assert 500_000 < ckpt.meta.parameters < 2_000_000
    with pytest.raises(CheckpointError, match=r"ckpt='\./tiny' is an empty directory"):
        load_checkpoint("./tiny")


@pytest.mark.gpu
def test_on_a_gpu(llama: Path) -> None:
    ckpt = load_checkpoint(llama, device="auto", dtype="float64")
    assert {p.device.type for p in ckpt.model.parameters()} == {"cuda"}
    assert same(ckpt.model.cpu(), build().double())
