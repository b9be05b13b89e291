"""torchao, llm-compressor and LLM-QAT on disk: exact weights, what tells, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.checkpoint import describe
from spectra.errors import UsageError
from spectra.quant import quant_layers, quantizer_names, spec
from tests.checkpoint.packing import (
    check_weights,
    damaged,
    load,
    plain_state,
    save_dense,
    save_torchao_converted,
    save_torchao_learned,
    write,
)
from tests.checkpoint.quantized import refused
from tests.checkpoint.saved import build

UP = "model.layers.1.mlp.up_proj"


def test_torchao_after_convert_is_unpacked_exactly(
    tmp_path: Path, change: Callable[..., None]
) -> None:
    encoded = save_torchao_converted(tmp_path / "q", 8)
    ckpt = load(tmp_path / "q")
    check_weights(ckpt, encoded)
    assert ckpt.qat.spec == spec("efficientqat", w_bits=4, group_size=8, clamp_steps=False)
    assert any("asymmetrically, to 8 bits, which is not applied" in n for n in ckpt.meta.notes)
    assert "after convert; 4 bits by its layer" in describe(tmp_path / "q").why
    damaged(tmp_path / "q", r"codes outside \[-2, 1\], those of 2 bits", w_bits=2)
    change(tmp_path / "q", lambda s: s[f"{UP}.weight"][0, :2].fill_(9))
    damaged(tmp_path / "q", rf"{UP}.weight holds 2 codes outside \[-8, 7\]")
    change(tmp_path / "q", lambda s: s.pop(f"{UP}.zeros"))
    refused(tmp_path / "q", f"lacks the tensor {UP}.zeros")
    change(tmp_path / "q", lambda s: s.update({f"{UP}.scales": torch.ones(24, 5)}))
    refused(tmp_path / "q", rf"{UP}.scales is stored with shape \(24, 5\); one scale for each")


@pytest.mark.parametrize(("bits", "zero"), [(2, True), (4, True), (4, False)])
def test_learned_ranges_of_torchao_need_their_width(tmp_path: Path, bits: int, zero: bool) -> None:
    encoded = save_torchao_learned(tmp_path / "q", bits, 8, zero=zero)
    refused(tmp_path / "q", "nothing in it says the width; pass --w_bits with one of 2, 3, 4")
    refused(tmp_path / "q", "--w_bits with one of 2, 3, 4, not 8", UsageError, w_bits=8)
    ckpt = load(tmp_path / "q", w_bits=bits)
    for name, layer in quant_layers(ckpt.model).items():
        torch.testing.assert_close(layer.quantized_weight().double(), encoded[name])
        assert torch.equal(layer.weight, build().get_submodule(name).weight)
    if (bits, zero) == (4, True):
        damaged(tmp_path / "q", r"zero points outside \[-2, 1\], those of signed codes", w_bits=2)


def test_scales_of_torchao_that_are_not_positive_are_refused(
    tmp_path: Path, change: Callable[..., None]
) -> None:
    save_torchao_learned(tmp_path / "q", 4, 8, zero=False)
    name = f"{UP}.weight_fake_quantizer.scale"
    change(tmp_path / "q", lambda s: s[name].view(-1)[:2].fill_(-1.0))
    damaged(tmp_path / "q", r"hold 2 values among \d+ that are not positive", w_bits=4)


def test_torchao_without_learned_ranges_is_a_float_checkpoint(tmp_path: Path) -> None:
    model, state = plain_state()
    write(tmp_path / "q", state, model)
    assert load(tmp_path / "q").qat is None
    write(tmp_path / "sub", state, model, quantization_config={"quant_method": "torchao"})
    refused(tmp_path / "sub", "holds tensor subclasses, which are not read; pass the checkpoint")


def test_llm_qat_is_recognised_by_its_width_of_keys_and_values(tmp_path: Path) -> None:
    model, state = plain_state()
    state["teacher.model.norm.weight"] = torch.ones(16)
    write(tmp_path / "q", state, model, w_bits=4, a_bits=8, kv_bits=4)
    ckpt = load(tmp_path / "q")
    name = "llm-qat" if "llm-qat" in quantizer_names() else "rtn"
    assert ckpt.qat.spec == spec(name, w_bits=4, a_bits=8, kv_bits=4)
    assert (ckpt.qat.source, ckpt.qat.scales) == ("llm-qat", None)
    assert "1 stored tensors of the teacher are not used" in ckpt.meta.notes
    assert describe(tmp_path / "q").why == "LLM-QAT's config.json: kv_bits, and no scales"
    for layer_name, layer in quant_layers(ckpt.model).items():
        w = state[f"{layer_name}.weight"]
        a = w.abs().amax(1, keepdim=True) / 7
        off = ((w / a).frac().abs() - 0.5).abs() > 1e-3  # away from ties, where 1e-6 could tell
        truth = (w / a).round() * a
        torch.testing.assert_close(layer.quantized_weight()[off], truth[off], rtol=1e-4, atol=1e-6)
    (tmp_path / "q" / "config.json").write_text(
        json.dumps(json.loads((tmp_path / "q" / "config.json").read_text()) | {"kv_bits": None})
    )
    refused(tmp_path / "q", "stores no weight_clip_val.*pass --quantizer (rtn|llm-qat) if LLM-QAT")


@pytest.mark.parametrize("group", [None, 8])
def test_dense_weights_of_llm_compressor_are_loaded_as_they_are(
    tmp_path: Path, change: Callable[..., None], group: int | None
) -> None:
    encoded = save_dense(tmp_path / "q", 2, group)
    ckpt = load(tmp_path / "q")
    check_weights(ckpt, encoded)
    assert (ckpt.meta.w_bits, ckpt.qat.scales, ckpt.qat.source) == (2, None, "compressed-tensors")
    assert describe(tmp_path / "q").why.endswith("compressed-tensors, dense, 2 bits")
    refused(tmp_path / "q", "already of 2 bits, not 3; leave", UsageError, w_bits=3)
    change(tmp_path / "q", lambda s: s[f"{UP}.weight"][0, :2].add_(s[f"{UP}.weight_scale"][0] / 3))
    damaged(tmp_path / "q", f"2 of 384 weights of {UP} are not on the grid of its weight_scale")
    change(tmp_path / "q", lambda s: s.update({f"{UP}.weight_scale": torch.ones(24, 5)}))
    refused(tmp_path / "q", rf"{UP}.weight_scale is stored with shape \(24, 5\); one scale")
    change(tmp_path / "q", lambda s: s.pop(f"{UP}.weight_scale"))
    refused(tmp_path / "q", f"lacks weight_scale of 1 of its 14 linear layers: {UP}")


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"format": "pack-quantized"}, "format 'pack-quantized' with 1 groups .*; save it with"),
        ({"config_groups": {"a": {"weights": {"num_bits": "2"}}}}, "num_bits='2' .* no width"),
        (
            {"config_groups": {"a": {"weights": {"num_bits": 2}, "input_activations": {"b": 8}}}},
            "quantizes activations as compressed-tensors does, which is not read",
        ),
    ],
)
def test_other_formats_of_llm_compressor_are_refused(
    tmp_path: Path, said: dict[str, Any], match: str
) -> None:
    save_dense(tmp_path / "q", 2, None, **said)
    refused(tmp_path / "q", match)
