"""Damaged, incomplete and foreign checkpoints: each one sentence that names the cause."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.checkpoint import describe, load_checkpoint
from spectra.checkpoint.tensors import read_header
from spectra.errors import CheckpointError
from tests.checkpoint.saved import build


def refused(path: Path | str, match: str) -> str:
    """Assert that loading `path` is refused in one sentence that matches."""
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    assert caught.value.__cause__ is None
    return message


@pytest.mark.parametrize("keep", [0, 3, 8, 100, -1, -1000])
def test_truncated_safetensors(llama: Path, keep: int) -> None:
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(llama, r"model\.safetensors' is truncated: [\d,]+ bytes of at least [\d,]+")


def header_bytes(header: Any, data: int = 0) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + b"\0" * data


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 64,
        header_bytes(b"{not json"),
        header_bytes([1, 2]),
        header_bytes({"a": 3}),
        header_bytes({"a": {"dtype": "F32", "shape": [2]}}),
        header_bytes({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, 4),
        header_bytes({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}),
        header_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, 4),
        header_bytes(b"[" * 100_000),
    ],
)
def test_bad_header(llama: Path, content: bytes) -> None:
    (llama / "model.safetensors").write_bytes(content)
    refused(llama, "is not a safetensors file: its header cannot be parsed")


def test_a_pointer_of_git_lfs_is_recognized(llama: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    (llama / "model.safetensors").write_text(pointer)
    refused(llama, "is a Git LFS pointer, not the weights; run `git lfs pull`")


def test_header_agrees_with_the_library(llama: Path) -> None:
    from safetensors.torch import load_file

    expected = {k: (t.dtype, t.shape) for k, t in load_file(llama / "model.safetensors").items()}
    found = {t.name: (t.dtype, t.shape) for t in read_header(llama / "model.safetensors")}
    assert found == expected


def test_missing_shards_are_named(sharded: Path) -> None:
    files = sorted(sharded.glob("model-*.safetensors"))
    files[1].unlink()
    refused(sharded, rf"lacks 1 of its {len(files)} shards: {files[1].name}")


def test_index_that_promises_more_than_the_shards_hold(sharded: Path) -> None:
    file = sharded / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["model.ghost.weight"] = min(index["weight_map"].values())
    file.write_text(json.dumps(index))
    refused(sharded, r"lacks 1 of the \d+ tensors that the index promises: model\.ghost\.weight")


@pytest.mark.parametrize(
    "index",
    ["{", "[]", "{}", '{"metadata": {}, "weight_map": 3}', '{"weight_map": {"a": "b"}}'],
)
def test_bad_index(sharded: Path, index: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    refused(sharded, "is not a shard index")


@pytest.mark.parametrize("file", ["../out.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_index_that_points_outside(sharded: Path, file: str) -> None:
    index = json.dumps({"metadata": {}, "weight_map": {"w": file}})
    (sharded / "model.safetensors.index.json").write_text(index)
    refused(sharded, "outside its directory")


def test_wrong_shape(llama: Path, change: Callable[..., None]) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    change(llama, lambda state: state.update({name: torch.zeros(3, 5)}))
    refused(llama, rf"{name} is stored with shape \(3, 5\), but config\.json makes it \(24, 16\)")


def test_config_of_another_size(llama: Path, change: Callable[..., None]) -> None:
    change(llama, hidden_size=32, head_dim=16)
    refused(llama, r"stored with shape .* more tensors differ; use the config\.json saved with it")


def test_missing_tensors(llama: Path, change: Callable[..., None]) -> None:
    change(llama, lambda state: [state.pop(n) for n in list(state) if "layers.1.mlp" in n])
    message = refused(llama, "lacks 3 of the model's tensors")
    assert "model.layers.1.mlp.down_proj.weight" in message


def test_missing_head_of_an_untied_model(llama: Path, change: Callable[..., None]) -> None:
    change(llama, tie_word_embeddings=False)
    refused(llama, r"lacks 1 of the model's tensors: lm_head\.weight")


@pytest.mark.parametrize(
    ("value", "counted"),
    [(float("nan"), "2 NaN"), (float("inf"), "2 Inf"), (-float("inf"), "2 Inf")],
)
def test_not_finite(llama: Path, change: Callable[..., None], value: float, counted: str) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    change(llama, lambda state: state[name].view(-1)[3:5].fill_(value))
    refused(llama, rf"the tensor {name} holds {counted} among 256 values; use a checkpoint from")


def test_overflow_of_float16_is_told_from_divergence(
    llama: Path, change: Callable[..., None]
) -> None:
    change(llama, lambda state: state["model.norm.weight"].fill_(1e6))
    load_checkpoint(llama, device="cpu")
    with pytest.raises(CheckpointError, match=r"16 Inf among 16 values; load with dtype=float32"):
        load_checkpoint(llama, device="cpu", dtype="float16")


@pytest.mark.parametrize("name", ["qzeros", "weight_scale", "weight_scale_inv"])
def test_packed_formats_by_their_tensors(
    llama: Path, change: Callable[..., None], name: str
) -> None:
    tensor = f"model.layers.0.mlp.up_proj.{name}"
    change(llama, lambda state: state.update({tensor: torch.ones(24, 1)}))
    match = rf"in a quantized format that is not read \(it stores {tensor}\); loading it as float"
    message = refused(llama, match)
    assert describe(llama).refusal == message


@pytest.mark.parametrize("w_bits", [None, 2])
@pytest.mark.parametrize("tensor", ["a.scale", "model.layers.0.mlp.up_proj.scales"])
def test_scales_that_nothing_describes(
    llama: Path, change: Callable[..., None], w_bits: float | None, tensor: str
) -> None:
    change(llama, lambda state: state.update({tensor: torch.ones(24, 1)}))
    message = refused(llama, f"stores {tensor}, scales of a quantizer that nothing describes")
    assert describe(llama, w_bits=w_bits).refusal == message


def test_packed_formats_by_their_configuration(llama: Path, change: Callable[..., None]) -> None:
    change(llama, quantization_config={"quant_method": "hqq"})
    message = refused(llama, "quantization_config of method hqq")
    assert describe(llama).refusal == message


@pytest.mark.parametrize(("w_bits", "stated"), [(2, "w_bits=2"), (0, "w_bits=0")])
def test_quantized_by_its_configuration_alone(
    llama: Path, change: Callable[..., None], w_bits: int, stated: str
) -> None:
    change(llama, w_bits=w_bits)
    message = refused(llama, f"{stated} in its config.json and stores no weight_clip_val")
    assert describe(llama).refusal == message


def test_sixteen_or_more_bits_are_not_quantized(llama: Path, change: Callable[..., None]) -> None:
    change(llama, w_bits=32, a_bits=16)
    assert load_checkpoint(llama, device="cpu").meta.w_bits is None
    assert (describe(llama).qat, describe(llama).refusal) == (None, "")


@pytest.mark.parametrize(
    ("text", "match"),
    [("{", "is not JSON"), ("[1]", "is not a JSON object"), ("", "is not JSON")],
)
def test_malformed_config(llama: Path, text: str, match: str) -> None:
    (llama / "config.json").write_text(text)
    refused(llama, match)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"model_type": "lama"}, r"model_type='lama', which .* does not know; did you mean llama"),
        ({"model_type": 3}, "model_type=3, which this transformers does not know"),
        ({"model_type": "vit", "architectures": None}, "which is not a causal language model"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "not a causal language model"),
        (
            {"hidden_size": "wide"},
            "configuration is not accepted|no model can be built|not be loaded",
        ),
        ({"num_attention_heads": 0}, "not accepted|no model can be built|not be loaded"),
        ({"transformers_weights": "other.safetensors"}, "points to other weight files"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "a.B"}}, "allow it with --trust_remote"),
    ],
)
def test_unusable_config(
    llama: Path, change: Callable[..., None], config: dict[str, Any], match: str
) -> None:
    change(llama, **config)
    refused(llama, match)
    with pytest.raises(CheckpointError, match=match):
        describe(llama)


def test_code_beside_the_weights_does_not_run(llama: Path, change: Callable[..., None]) -> None:
    ran = llama / "ran"
    (llama / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    change(llama, model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    refused(llama, "whose code comes with the checkpoint")
    change(llama, model_type="llama", auto_map={"AutoModelForCausalLM": "mine.Model"})
    load_checkpoint(llama, device="cpu")  # a known architecture loads with the known code
    assert not ran.exists()


class Payload:
    """Runs a command when a careless reader unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_that_would_run_code(tmp_path: Path, legacy: bool) -> None:
    build().config.save_pretrained(tmp_path)
    target = tmp_path / "owned"
    content = {"model.norm.weight": Payload(target)}
    torch.save(content, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    refused(tmp_path, "is a pickle of more than tensors, which could run code when read")
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"garbage" * 50, b"PK\x03\x04 no archive"])
def test_damaged_pickles(tmp_path: Path, content: bytes) -> None:
    build().config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    refused(tmp_path, "is damaged or no PyTorch file")


def test_truncated_pickle_and_no_state_dict(tmp_path: Path) -> None:
    build().config.save_pretrained(tmp_path)
    file = tmp_path / "pytorch_model.bin"
    torch.save(build().state_dict(), file)
    file.write_bytes(file.read_bytes()[:4000])
    refused(tmp_path, "is damaged or no PyTorch file")
    torch.save([torch.zeros(3)], file)
    refused(tmp_path, "is not a state dict")
    torch.save({"model.norm.weight": 3}, file)
    refused(tmp_path, "is not a state dict")


def test_weights_of_integers_alone(llama: Path, change: Callable[..., None]) -> None:
    change(llama, lambda s: s.update({n: t.to(torch.int8) for n, t in s.items()}))
    refused(llama, "stores no floating-point weights")
    change(llama, lambda s: s.update({n: t.to(torch.float8_e4m3fn) for n, t in s.items()}))
    refused(llama, "stores weights of type float8_e4m3fn")
