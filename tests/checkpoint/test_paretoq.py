"""Directories of the public ParetoQ, WinQ and LLM-QAT code, built by hand from their description.

The forward they are compared with is computed here a second time, in a few lines.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spectra.checkpoint import Checkpoint, describe, load_checkpoint
from spectra.errors import CheckpointError, UsageError
from spectra.quant import quant_layers, spec
from tests.checkpoint.quantized import IDS, NAMES, fold, refused, save_public

WIDTHS = {1: 1, 0: 1.58, 2: 2, 3: 3, 4: 4}
UP = "model.layers.0.mlp.up_proj"
WINQ = {
    "noise_injection": True,
    "noise_sigma_weights": 0.001,
    "noise_sigma_clipvals": 0.001,
    "pre_quantization_noise": True,
    "share_embedding": True,
}


def load(place: Path, **flags: Any) -> Checkpoint:
    return load_checkpoint(place, device="cpu", **flags)


@pytest.mark.parametrize(("code", "bits"), WIDTHS.items())
def test_the_forward_is_that_of_the_public_code(tmp_path: Path, code: int, bits: float) -> None:
    state, plain = save_public(tmp_path / "q", code)
    ckpt = load(tmp_path / "q")
    expected = fold(plain, state, code)
    assert torch.equal(ckpt.model(IDS).logits, expected(IDS).logits)
    for name, layer in quant_layers(ckpt.model).items():
        assert torch.equal(layer.quantized_weight(), expected.get_submodule(name).weight)
        assert layer.scale is not None
        assert layer.scale.dtype == torch.float32
        assert torch.equal(layer.weight, state[f"{name}.weight"].float())
    assert list(quant_layers(ckpt.model)) == NAMES
    assert ckpt.qat is not None
    assert ckpt.qat.spec == spec("paretoq", w_bits=bits)
    assert (ckpt.qat.source, ckpt.qat.scales, ckpt.qat.method) == ("paretoq", "stored", "baseline")
    assert (ckpt.meta.w_bits, ckpt.meta.a_bits, ckpt.meta.stored_dtype) == (bits, 16, "bfloat16")
    assert any("stock transformers would run them in full" in note for note in ckpt.meta.notes)
    head = ckpt.model.lm_head.weight
    assert head is ckpt.model.model.embed_tokens.weight
    assert describe(tmp_path / "q").qat == ckpt.qat


def test_in_float64_the_codes_are_those_of_the_stored_numbers(tmp_path: Path) -> None:
    state, plain = save_public(tmp_path / "q", 2)
    ckpt = load(tmp_path / "q", dtype="float64")
    layer = quant_layers(ckpt.model)[UP]
    assert layer.scale is not None
    assert layer.scale.dtype == layer.weight.dtype == torch.float64
    expected = fold(plain, state, 2).get_submodule(UP).weight
    torch.testing.assert_close(layer.quantized_weight().float(), expected)


def test_wider_clip_values_are_not_rounded(tmp_path: Path, change: Callable[..., None]) -> None:
    save_public(tmp_path / "q", 2)

    def widen(state: dict[str, torch.Tensor]) -> None:
        state.update({n: t.float() * 1.001 for n, t in state.items() if "clip" in n})

    change(tmp_path / "q", widen)
    ckpt = load(tmp_path / "q", dtype="auto")
    stored = load_file(tmp_path / "q" / "model.safetensors")
    for name, layer in quant_layers(ckpt.model).items():
        assert layer.weight.dtype == torch.bfloat16
        assert torch.equal(layer.scale, stored[f"{name}.weight_clip_val"])
    assert not any("rounded" in note for note in ckpt.meta.notes)
    assert ckpt.meta.stored_dtype == "bfloat16, float32"


def test_negative_clip_values_work_as_in_the_public_code(
    tmp_path: Path, change: Callable[..., None]
) -> None:
    state, plain = save_public(tmp_path / "q", 3)
    clip = state[f"{UP}.weight_clip_val"]
    clip[0], clip[1] = -0.5, 0
    change(tmp_path / "q", lambda stored: stored.update({f"{UP}.weight_clip_val": clip}))
    with pytest.warns(UserWarning, match="2 of .* given scales are not above 1e-05"):
        ckpt = load(tmp_path / "q")
    assert torch.equal(ckpt.model(IDS).logits, fold(plain, state, 3)(IDS).logits)


@pytest.mark.parametrize(
    ("injection", "method", "told"), [(True, "winq", 1), (False, None, 1), (None, "baseline", 0)]
)
def test_winq_is_told_from_paretoq(
    tmp_path: Path, injection: bool | None, method: str | None, told: int
) -> None:
    config = {} if injection is None else WINQ | {"noise_injection": injection}
    save_public(tmp_path / "checkpoint-600", 2, **config)
    ckpt = load(tmp_path / "checkpoint-600")
    assert ckpt.qat is not None
    assert ckpt.qat.source == ("paretoq" if injection is None else "winq")
    assert (ckpt.qat.method, ckpt.meta.method) == (method, method)
    assert (ckpt.qat.step, ckpt.qat.resets) == (600, None)
    assert ckpt.qat.recipe.get("noise_injection") == injection
    assert "share_embedding" not in ckpt.qat.recipe
    assert sum("WinQ's code wrote it" in note for note in ckpt.meta.notes) == told


def test_noise_buffers_are_noted(tmp_path: Path, change: Callable[..., None]) -> None:
    state, plain = save_public(tmp_path / "q", 2, **WINQ)
    sigma = {f"{UP}.noise_sigma": torch.ones(1)}
    change(tmp_path / "q", lambda stored: stored.update(sigma))
    ckpt = load(tmp_path / "q")
    assert torch.equal(ckpt.model(IDS).logits, fold(plain, state, 2)(IDS).logits)
    assert f"1 stored tensors are not part of the model: {UP}.noise_sigma" in ckpt.meta.notes


@pytest.mark.parametrize(
    ("code", "says"), [(None, "no w_bits"), (32, "w_bits=32"), (16, "w_bits=16")]
)
def test_clip_values_without_a_width_need_one(tmp_path: Path, code: int | None, says: str) -> None:
    state, plain = save_public(tmp_path / "q", code)
    latent = plain(IDS).logits
    match = rf"has {says}, which the public code takes for no quantization; pass --w_bits .* 3, 4\)"
    refused(tmp_path / "q", match)
    full = load(tmp_path / "q", w_bits=16)
    assert torch.equal(full.model(IDS).logits, latent)
    assert full.qat is not None
    assert full.qat.scales is None
    assert "14 stored weight_clip_val tensors are not used" in full.meta.notes
    ckpt = load(tmp_path / "q", w_bits=2)
    assert torch.equal(ckpt.model(IDS).logits, fold(plain, state, 2)(IDS).logits)
    assert any("is what was asked for" in note for note in ckpt.meta.notes)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"w_bits": 3}, "its config.json has w_bits=2, not 3; leave --w_bits out"),
        ({"w_bits": 16}, "its config.json has w_bits=2, not 16"),
        ({"quantizer": "lsq"}, "weight_clip_val, the scales of paretoq, not of lsq"),
        ({"quantizer": "rtn", "w_bits": 2}, "the scales of paretoq, not of rtn"),
    ],
)
@pytest.mark.parametrize("clips", [True, False])
def test_what_is_asked_must_be_what_is_stored(
    tmp_path: Path, flags: dict[str, Any], match: str, clips: bool
) -> None:
    save_public(tmp_path / "q", 2, clips=clips)
    if clips or "quantizer" not in flags:
        match = f"quantized differently from what is asked: .*{match}"
        refused(tmp_path / "q", match, UsageError, **flags)


def test_lost_clip_values_are_derived_only_when_somebody_says_so(tmp_path: Path) -> None:
    save_public(tmp_path / "q", 0, clips=False)
    refused(
        tmp_path / "q",
        "has w_bits=0 in its config.json and stores no weight_clip_val.*complete directory, pass "
        "--quantizer (rtn|llm-qat) if LLM-QAT made it.*or pass --initialize_scales to derive",
    )
    ckpt = load(tmp_path / "q", initialize_scales=True)
    assert ckpt.qat is not None
    assert (ckpt.qat.scales, ckpt.qat.spec.w_bits) == ("initial", 1.58)
    assert any("scales derived from its latent weights: none are" in n for n in ckpt.meta.notes)
    for layer in quant_layers(ckpt.model).values():
        assert layer.scale is not None
        assert torch.equal(layer.scale, layer.weight.abs().amax(1, keepdim=True))
    other = load(tmp_path / "q", initialize_scales=True, quantizer="lsq")
    assert other.meta.quantizer == "lsq"


def test_llm_qat_has_scales_of_its_rows_and_applies_its_widths(tmp_path: Path) -> None:
    _, plain = save_public(tmp_path / "q", 4, clips=False, a_bits=8, kv_bits=4)
    ckpt = load(tmp_path / "q", quantizer="rtn")
    assert ckpt.qat is not None
    assert ckpt.qat.spec == spec("rtn", w_bits=4, a_bits=8, kv_bits=4)
    assert (ckpt.qat.source, ckpt.qat.scales) == ("llm-qat", None)
    for name, layer in quant_layers(ckpt.model).items():
        w = plain.get_submodule(name).weight
        q = 7 / (w.abs().amax(1, keepdim=True) + 1e-6)
        public = (w * q).round() / (q + 1e-6)
        # Its 1e-6 moves only weights that lie within it of a tie between two levels.
        near_tie = ((w * q).frac().abs() - 0.5).abs() < 1e-3
        torch.testing.assert_close(layer.quantized_weight()[~near_tie], public[~near_tie])
        assert near_tie.float().mean() < 0.02
    refused(tmp_path / "q", "has a_bits=8, not 16", UsageError, quantizer="rtn", a_bits=16)
    save_public(tmp_path / "eight", 8, clips=False)
    refused(
        tmp_path / "eight", "w_bits=8 in its .* pass --quantizer (rtn|llm-qat) if LLM-QAT made it"
    )
    refused(tmp_path / "eight", "w_bits=8 is not defined by .*'paretoq'", initialize_scales=True)
    assert load(tmp_path / "eight", quantizer="rtn").meta.w_bits == 8


def test_widths_of_activations_are_ignored_as_in_the_public_code(tmp_path: Path) -> None:
    state, plain = save_public(tmp_path / "q", 2, a_bits=8)
    ckpt = load(tmp_path / "q")
    assert ckpt.meta.a_bits == 16
    assert any("a_bits=8 of its config.json is not applied" in note for note in ckpt.meta.notes)
    weights_alone = fold(plain, state, 2)(IDS).logits
    assert torch.equal(ckpt.model(IDS).logits, weights_alone)
    asked = load(tmp_path / "q", a_bits=8)
    assert asked.meta.a_bits == 8
    assert not any("not applied" in note for note in asked.meta.notes)
    assert not torch.equal(asked.model(IDS).logits, weights_alone)


def test_activations_beside_float_weights_must_be_decided(tmp_path: Path) -> None:
    _, plain = save_public(tmp_path / "q", 32, clips=False, a_bits=8)
    refused(tmp_path / "q", "a_bits=8 .*pass --w_bits 16 --a_bits 8 to apply it, or --w_bits 16 ")
    out = load(tmp_path / "q", w_bits=16, a_bits=16)
    assert torch.equal(out.model(IDS).logits, plain(IDS).logits)
    applied = load(tmp_path / "q", w_bits=16, a_bits=8)
    assert (applied.meta.w_bits, applied.meta.a_bits) == (16, 8)
    assert not torch.equal(applied.model(IDS).logits, plain(IDS).logits)


def test_several_widths_in_one_file(tmp_path: Path, change: Callable[..., None]) -> None:
    state, plain = save_public(tmp_path / "q", 4)

    def several(stored: dict[str, torch.Tensor]) -> None:
        for name in NAMES:
            clip = stored.pop(f"{name}.weight_clip_val")
            for code in (0, 2, 4):
                stored[f"{name}.weight_clip_val_list.{code}"] = clip * (code + 1)

    change(tmp_path / "q", several)
    refused(tmp_path / "q", r"clip values for the widths 1\.58, 2, 4; pass --w_bits with one")
    match = r"for the widths 1\.58, 2, 4, and not for 3; pass"
    refused(tmp_path / "q", match, UsageError, w_bits=3)
    for code, bits in ((0, 1.58), (2, 2)):
        scaled = {n: t * (code + 1) if "clip" in n else t for n, t in state.items()}
        ckpt = load(tmp_path / "q", w_bits=bits)
        assert torch.equal(ckpt.model(IDS).logits, fold(plain, scaled, code)(IDS).logits)
        assert "28 stored weight_clip_val tensors are not used" in ckpt.meta.notes


@pytest.mark.parametrize(
    ("w_bits", "match"),
    [
        (5, r"w_bits=5 is not defined by the quantizer 'paretoq'; pass one of 1, 1\.58, 2, 3, 4"),
        ("2", "w_bits='2' in its config.json, which is no width"),
        (True, "w_bits=True in its config.json, which is no width"),
        (-1, "w_bits=-1 in its config.json, which is no width"),
    ],
)
def test_widths_that_are_none(
    tmp_path: Path, change: Callable[..., None], w_bits: Any, match: str
) -> None:
    save_public(tmp_path / "q", 2)
    change(tmp_path / "q", w_bits=w_bits)
    refused(tmp_path / "q", match)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_clip_values_that_are_not_finite(
    tmp_path: Path, change: Callable[..., None], value: float
) -> None:
    save_public(tmp_path / "q", 2)
    change(tmp_path / "q", lambda state: state[f"{UP}.weight_clip_val"][3].fill_(value))
    with pytest.raises(CheckpointError, match=f"scales {UP}.weight_clip_val hold 1 values"):
        load(tmp_path / "q")


def test_clip_values_that_do_not_fit(tmp_path: Path, change: Callable[..., None]) -> None:
    save_public(tmp_path / "q", 2)
    change(tmp_path / "q", lambda state: state.update({f"{UP}.weight_clip_val": torch.ones(1)}))
    refused(tmp_path / "q", r"weight_clip_val has shape \(1,\); one .*: \(24, 1\)")
    change(tmp_path / "q", lambda state: state.pop(f"{UP}.weight_clip_val"))
    refused(tmp_path / "q", f"lacks the scales of 1 of its 14 quantized layers: {UP}")
