"""GGUF: a small file written by the package gguf, and what breaks it."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spectra.checkpoint import describe, load_checkpoint
from spectra.checkpoint.formats.gguf import read_gguf_header
from spectra.data import token_batches
from spectra.errors import CheckpointError
from spectra.quant import prepare, spec
from tests.checkpoint.saved import VOCAB, build

gguf = pytest.importorskip("gguf")

SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_key_value_heads": 2}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    """The GGUF name of a Llama parameter."""
    if "layers" not in name:
        return {"model.embed_tokens.weight": "token_embd.weight"}.get(name, "output_norm.weight")
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def interleave(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of a query or key projection in the rotary order of GGUF."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def write(path: Path, model: Any, kind: Any) -> dict[str, torch.Tensor]:
    """Write `model` with matrices quantized as `kind`; return the values that the file encodes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCAB)
    letters = [*"abcdefghijklmnopqrstuvwxyz", "ab", *(f"x{i}" for i in range(VOCAB - 28))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*letters, "<|endoftext|>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * (VOCAB - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(VOCAB - 1)
    encoded = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy().astype(np.float32)
        if "q_proj" in name or "k_proj" in name:
            weight = interleave(weight, 2)
        if weight.ndim == 1:
            writer.add_tensor(gguf_name(name), weight)
            encoded[name] = parameter.detach()
            continue
        blocks = gguf.quants.quantize(weight, kind)
        writer.add_tensor(gguf_name(name), blocks, raw_dtype=kind)
        plain = gguf.quants.quantize(parameter.detach().numpy().astype(np.float32), kind)
        encoded[name] = torch.from_numpy(gguf.quants.dequantize(plain, kind).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return encoded


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    write(path, build(**SIZES), gguf.GGMLQuantizationType.Q8_0)
    return path


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_1", "BF16", "F16"])
def test_weights_are_those_the_file_encodes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "small.gguf"
    encoded = write(path, build(**SIZES), gguf.GGMLQuantizationType[kind])
    ckpt = load_checkpoint(path, device="cpu")
    # Quantization is per block of 32 along a row, so permuting rows commutes with it.
    for name, parameter in ckpt.model.named_parameters():
        assert type(parameter) is torch.nn.Parameter
        torch.testing.assert_close(parameter.detach(), encoded[name], rtol=1e-6, atol=1e-7)
    assert ckpt.meta.format == "gguf"
    assert ckpt.meta.stored_dtype == f"{kind}, F32"
    assert ckpt.meta.notes[0] == f"weights were dequantized from {kind}, F32 blocks of a GGUF file"
    assert ckpt.model.lm_head.weight is ckpt.model.model.embed_tokens.weight
    assert {type(m).__name__ for m in ckpt.model.modules() if "Linear" in type(m).__name__} == {
        "Linear"
    }
    assert not hasattr(ckpt.model.config, "quantization_config")
    assert not hasattr(ckpt.model, "hf_quantizer")


def test_tokenizer_type_and_description(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ckpt = load_checkpoint(file.parent, device="cpu", dtype="float64")
    assert {p.dtype for p in ckpt.model.parameters()} == {torch.float64}
    assert ckpt.tokenizer is not None
    assert ckpt.tokenizer.eos_token_id == VOCAB - 1
    assert len(ckpt.tokenizer) == VOCAB == ckpt.model.config.vocab_size
    assert ckpt.tokenizer("bab", add_special_tokens=False)["input_ids"] == [1, 26]
    seen = describe(file)
    assert (seen.format, seen.stored_dtype, seen.tied) == ("gguf", "Q8_0, F32", True)
    assert (seen.hidden, seen.layers, seen.vocab) == (64, 2, VOCAB)
    assert seen.parameters == ckpt.meta.parameters
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.02, 0.5, 0.999])
def test_truncated(file: Path, keep: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    match = "is not a GGUF file" if keep == 0 else "is truncated"
    for call in (load_checkpoint, describe):
        with pytest.raises(CheckpointError, match=match):
            call(file)


def test_damaged(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4] = 99  # version
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged, or of a GGUF version"):
        load_checkpoint(file)
    file.write_bytes(b"no such file at all")
    with pytest.raises(CheckpointError, match="is not a GGUF file"):
        load_checkpoint(file)


def test_damage_anywhere_in_the_header_is_an_error_of_ours_or_none(file: Path) -> None:
    content = file.read_bytes()
    for at in range(4, 1200, 7):
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        file.write_bytes(damaged)
        try:
            read_gguf_header(file)
        except CheckpointError as error:
            assert str(error).endswith(".")  # noqa: PT017


def test_without_the_package(file: Path, monkeypatch: Any) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CheckpointError, match=r"needs the package gguf; pip install 'spectra-qat"):
        load_checkpoint(file)


def test_nan(tmp_path: Path) -> None:
    model = build(**SIZES)
    with torch.no_grad():
        model.model.norm.weight[5] = float("nan")
    write(tmp_path / "nan.gguf", model, gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds 1 NaN among 64"):
        load_checkpoint(tmp_path / "nan.gguf", device="cpu")


@pytest.mark.skipif("SPECTRA_SMOLLM2" not in os.environ, reason="needs SPECTRA_SMOLLM2=FILE.gguf")
@pytest.mark.skipif("SPECTRA_TEXT" not in os.environ, reason="needs SPECTRA_TEXT=FILE.txt")
def test_a_real_language_model_predicts_text() -> None:
    ckpt = load_checkpoint(os.environ["SPECTRA_SMOLLM2"], device="cpu")
    assert ckpt.meta.parameters == 134_515_008
    data = token_batches(os.environ["SPECTRA_TEXT"], ckpt.tokenizer, seq_len=512, num_batches=8)
    with torch.no_grad():
        losses = [float(ckpt.model(b.input_ids, labels=b.labels).loss) for b in data]
    assert np.mean(losses) < 3.5


def test_a_file_can_be_quantized_again(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", build(**SIZES), gguf.GGMLQuantizationType.Q8_0)
    ckpt = load_checkpoint(tmp_path / "m.gguf", device="cpu", w_bits=2)
    plain = load_checkpoint(tmp_path / "m.gguf", device="cpu").model
    prepare(plain, spec("paretoq", w_bits=2))
    ids = torch.arange(8)[None]
    assert torch.equal(ckpt.model(ids).logits, plain(ids).logits)
    assert describe(tmp_path / "m.gguf", w_bits=2).qat == ckpt.qat
    assert any("dequantized" in note for note in ckpt.meta.notes)
