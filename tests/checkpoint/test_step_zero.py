"""A float checkpoint with a quantizer and widths: step 0 of quantization-aware training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.checkpoint import describe, load_checkpoint
from spectra.errors import UsageError
from spectra.quant import get_quantizer, prepare, quant_layers, spec
from tests.checkpoint.quantized import IDS
from tests.checkpoint.saved import build
from tests.quant.cases import CASES


@pytest.mark.parametrize(
    ("kind", "name", "bits"), [*(("llama", *case) for case in CASES), ("gpt2", "paretoq", 2)]
)
def test_the_model_is_the_prepared_one(tmp_path: Path, kind: str, name: str, bits: float) -> None:
    build(kind).save_pretrained(tmp_path / "f")
    flags: dict[str, Any] = {"quantizer": name, "w_bits": bits}
    ckpt = load_checkpoint(tmp_path / "f", device="cpu", **flags)
    model = build(kind)
    prepare(model, spec(name, w_bits=bits))
    assert torch.equal(ckpt.model(IDS).logits, model(IDS).logits)
    assert ckpt.qat is not None
    assert (ckpt.qat.source, ckpt.qat.step, ckpt.qat.method) == ("initial", 0, None)
    assert ckpt.qat.scales == ("initial" if get_quantizer(name).learns_scale else None)
    assert (ckpt.meta.step, ckpt.meta.w_bits, ckpt.meta.quantizer) == (0, bits, name)
    assert any("float checkpoint quantized on loading" in note for note in ckpt.meta.notes)
    assert describe(tmp_path / "f", **flags).qat == ckpt.qat


def test_the_hash_is_that_of_the_float_checkpoint(llama: Path) -> None:
    plain = load_checkpoint(llama, device="cpu")
    quantized = load_checkpoint(llama, device="cpu", w_bits=2)
    assert quantized.meta.sha256 == plain.meta.sha256
    assert quantized.meta.parameters == plain.meta.parameters
    assert plain.qat is None
    assert quantized.qat is not None
    assert quantized.qat.spec == spec("paretoq", w_bits=2)


def test_a_step_of_float_training_stays_in_the_record(llama: Path) -> None:
    ckpt = load_checkpoint(llama.rename(llama.with_name("checkpoint-30")), device="cpu", w_bits=1)
    assert ckpt.qat is not None
    assert (ckpt.meta.step, ckpt.qat.step) == (30, 0)


def test_all_widths_together_and_in_float64(llama: Path) -> None:
    flags: dict[str, Any] = {"w_bits": 4, "a_bits": 8, "kv_bits": 8, "dtype": "float64"}
    ckpt = load_checkpoint(llama, device="cpu", **flags)
    assert ckpt.qat is not None
    assert ckpt.qat.spec == spec("paretoq", w_bits=4, a_bits=8, kv_bits=8)
    for layer in quant_layers(ckpt.model).values():
        assert layer.scale is not None
        assert layer.scale.dtype == torch.float64
        assert torch.equal(layer.scale, layer.weight.abs().amax(1, keepdim=True) / 7)


def test_tiny() -> None:
    ckpt = load_checkpoint("tiny", device="cpu", quantizer="lsq", w_bits=2)
    assert ckpt.meta.quantizer == "lsq"
    assert len(quant_layers(ckpt.model)) == 7 * ckpt.model.config.num_hidden_layers


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"quantizer": "lsq"}, r"width of the weights is missing; .*--w_bits with one of 1\.58, 2"),
        ({"a_bits": 8}, "width of the weights is missing"),
        ({"kv_bits": 8}, "width of the weights is missing"),
        ({"initialize_scales": True}, "nothing in ckpt=.* says that it has any; pass --w_bits"),
        ({"w_bits": 5}, r"w_bits=5 is not defined by the quantizer 'paretoq'; pass one of 1, 1\."),
    ],
)
def test_what_only_the_checkpoint_can_refuse(
    llama: Path, flags: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        load_checkpoint(llama, device="cpu", **flags)
    assert describe(llama, **flags).refusal == str(caught.value)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"quantizer": "paretoc", "w_bits": 2}, "'paretoc' is not known; did you mean paretoq"),
        ({"quantizer": "lsq", "w_bits": 1}, "w_bits=1 is not defined by the quantizer 'lsq'"),
        ({"w_bits": 0}, r"w_bits=0 is not defined .*ternary is 1\.58"),
        ({"w_bits": 9}, "w_bits=9 is not defined"),
        ({"w_bits": "2"}, "w_bits='2' is no width"),
        ({"w_bits": 2, "a_bits": 1}, "a_bits=1 is not defined for activations"),
        ({"a_bits": 32}, "a_bits=32 is not defined for activations"),
        ({"w_bits": 2, "kv_bits": 1.58}, r"kv_bits=1\.58 is not defined"),
    ],
)
@pytest.mark.parametrize("call", [load_checkpoint, describe])
def test_nonsense_is_refused_before_a_file_is_read(
    tmp_path: Path, call: Any, flags: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        call(tmp_path / "nowhere", **flags)


def test_models_that_cannot_be_quantized_so(tmp_path: Path) -> None:
    build("gpt2").save_pretrained(tmp_path / "f")
    flags: dict[str, Any] = {"w_bits": 2, "kv_bits": 8}
    with pytest.raises(UsageError, match="kv_bits=8 needs layers named k_proj and v_proj"):
        load_checkpoint(tmp_path / "f", device="cpu", **flags)
    assert "kv_bits=8 needs" in describe(tmp_path / "f", **flags).refusal
