"""EfficientQAT, BitNet and torchao on disk: exact weights, what tells of them, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.checkpoint import describe
from spectra.checkpoint.formats.efficientqat_save import pack_fields, save_packed
from spectra.errors import UsageError
from spectra.quant import quant_layers, quantizer_names, spec
from tests.checkpoint.packing import (
    check_weights,
    damaged,
    load,
    plain_state,
    save_bitnet,
    save_efficientqat,
    words,
    write,
)
from tests.checkpoint.quantized import IDS, NAMES, refused, worn
from tests.checkpoint.saved import build

WIDE = {"hidden_size": 32, "intermediate_size": 48}
UP = "model.layers.1.mlp.up_proj"
DIVIDES: dict[str, Any] = {}
MULTIPLIES = {"linear_class": "autobitlinear", "quantization_mode": "offline"}


@pytest.mark.parametrize(("bits", "group"), [(2, 16), (3, 8), (4, 4)])
@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_efficientqat_is_unpacked_exactly(
    tmp_path: Path, bits: int, group: int, kind: torch.dtype
) -> None:
    encoded = save_efficientqat(tmp_path / "q", bits, group, kind, **WIDE)
    ckpt = load(tmp_path / "q")
    check_weights(ckpt, encoded, **WIDE)
    for name, layer in quant_layers(ckpt.model).items():
        assert torch.equal(layer.weight.data, encoded[name].float())
    assert ckpt.qat.spec == spec("efficientqat", w_bits=bits, group_size=group, clamp_steps=False)
    assert (ckpt.qat.source, ckpt.qat.scales, ckpt.meta.w_bits) == ("efficientqat", "stored", bits)
    said = describe(tmp_path / "q").why
    assert f"{bits} bits by the shapes of qweight and qzeros, groups of {group}" in said


def test_efficientqat_steps_are_used_as_stored_in_every_precision(tmp_path: Path) -> None:
    encoded = save_efficientqat(tmp_path / "q", 4, 16, **WIDE)
    for dtype in ("float64", "bfloat16"):
        for name, layer in quant_layers(load(tmp_path / "q", dtype=dtype).model).items():
            torch.testing.assert_close(layer.quantized_weight().double(), encoded[name])


def test_the_folder_or_the_flag_decides_a_width_that_the_shapes_leave_open(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "vocab_size": 64}
    encoded = save_efficientqat(tmp_path / "q", 3, 4, **sizes)
    refused(tmp_path / "q", "at a width that its shapes leave open; pass --w_bits 2 or 3 or 4")
    check_weights(load(tmp_path / "q", w_bits=3), encoded, **sizes)
    (tmp_path / "q").rename(tmp_path / "model-w3g4")
    check_weights(load(tmp_path / "model-w3g4"), encoded, **sizes)
    assert "3 bits by the name of its folder" in describe(tmp_path / "model-w3g4").why
    save_efficientqat(tmp_path / "model-w3g16", 4, 16, **WIDE)
    refused(tmp_path / "model-w3g16", "named w3g16, but .* shapes of 4 bits; pass --w_bits 4")
    assert load(tmp_path / "model-w3g16", w_bits=4).meta.w_bits == 4
    refused(tmp_path / "model-w3g16", "shapes of 4 bits, not 2; leave", UsageError, w_bits=2)
    refused(tmp_path / "model-w3g16", "not by lsq; leave --quant", UsageError, quantizer="lsq")


@pytest.mark.parametrize(
    ("change_it", "match"),
    [
        (lambda s: s.pop(f"{UP}.scales"), f"lacks the tensor {UP}.scales"),
        (lambda s: s.pop(f"{UP}.qzeros"), f"lacks the tensor {UP}.qzeros"),
        (lambda s: s.pop(f"{UP}.qweight"), f"lacks packed weights of 1 of its 14 .*: {UP}"),
        (
            lambda s: s.update({f"{UP}.qweight": s[f"{UP}.qweight"].long()}),
            f"{UP}.qweight is stored as int64, and its format has int32 there",
        ),
        (
            lambda s: s.update({f"{UP}.scales": s[f"{UP}.scales"].int()}),
            f"{UP}.scales is stored as int32",
        ),
        (
            lambda s: s.update({f"{UP}.qweight": s[f"{UP}.qweight"][:-1]}),
            "shapes of its qweight and qzeros are those of none of 2, 3 and 4",
        ),
        (
            lambda s: s.update({f"{UP}.qzeros": s[f"{UP}.qzeros"][:-1]}),
            r"qzeros is stored with shape \(3, 5\), but its format and config.json make it \(4, 5",
        ),
        (
            lambda s: s.update({f"extra.{n}": torch.ones(2) for n in ("qweight",)}),
            "packed weights of no linear layer: extra",
        ),
    ],
)
def test_damaged_efficientqat(
    tmp_path: Path, change: Callable[..., None], change_it: Any, match: str
) -> None:
    save_efficientqat(tmp_path / "q", 3, 8, **WIDE)
    change(tmp_path / "q", change_it)
    refused(tmp_path / "q", match)


def test_bits_above_the_codes_and_infinite_steps_are_damage(
    tmp_path: Path, change: Callable[..., None]
) -> None:
    save_efficientqat(tmp_path / "q", 3, 8, **WIDE)
    change(tmp_path / "q", lambda s: s[f"{UP}.qweight"][0, 0].bitwise_or_(1 << 30))
    damaged(tmp_path / "q", f"{UP}.qweight has bits set above its 10 codes of 3 bits")
    save_efficientqat(tmp_path / "q", 3, 8, **WIDE)
    change(tmp_path / "q", lambda s: s[f"{UP}.scales"][0, :2].fill_(float("inf")))
    damaged(tmp_path / "q", f"scales of {UP} hold 2 values among 192 that are NaN or Inf")


def test_another_order_of_columns_is_refused(tmp_path: Path, change: Callable[..., None]) -> None:
    save_efficientqat(tmp_path / "q", 3, 8, **WIDE)
    change(tmp_path / "q", lambda s: s[f"{UP}.g_idx"][1:2].fill_(5))
    damaged(tmp_path / "q", f"{UP}.g_idx puts columns into groups that are not neighbours")


def test_the_packing_of_gptq_is_refused(tmp_path: Path, change: Callable[..., None]) -> None:
    save_efficientqat(tmp_path / "q", 4, 8, **WIDE)
    change(tmp_path / "q", quantization_config={"quant_method": "gptq", "bits": 4})
    refused(tmp_path / "q", "quantization_config of method gptq, whose packing differs")


@pytest.mark.parametrize(
    ("said", "divides", "why"),
    [
        (DIVIDES, True, "divides, since its quantization_config means, saying nothing, bitlinear"),
        ({"linear_class": "bitlinear"}, True, "divides, since .* says bitlinear"),
        (MULTIPLIES, False, "multiplies, since its quantization_config says autobitlinear"),
    ],
)
def test_bitnet_is_unpacked_exactly_by_the_convention_of_its_class(
    tmp_path: Path, said: dict[str, Any], divides: bool, why: str
) -> None:
    encoded = save_bitnet(tmp_path / "q", said, divides=divides)
    ckpt = load(tmp_path / "q", a_bits=16)
    check_weights(ckpt, encoded)
    assert (ckpt.meta.w_bits, ckpt.qat.scales, ckpt.meta.method) == (1.58, None, "bitnet")
    assert load(tmp_path / "q").meta.a_bits == 8
    assert re.search(why, describe(tmp_path / "q").why)
    for name in NAMES:
        assert len(encoded[name].unique()) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports
def test_bitnet_agrees_with_the_packing_of_transformers(tmp_path: Path) -> None:
    """Packed by the library's own function, read here."""
    from transformers.integrations.bitnet import pack_weights

    model, state = plain_state()
    codes = {n: (state[f"{n}.weight"] * 50).round().clamp(-1, 1) for n in NAMES}
    for name, code in codes.items():
        state[f"{name}.weight"] = pack_weights(code.clone())
        state[f"{name}.weight_scale"] = torch.tensor([20.0])
    write(tmp_path / "q", state, model, quantization_config={"quant_method": "bitnet"})
    for name, layer in quant_layers(load(tmp_path / "q").model).items():
        assert torch.equal(layer.weight.data, codes[name] / 20)


def test_bitnet_without_a_configuration_is_ambiguous(tmp_path: Path) -> None:
    save_bitnet(tmp_path / "q", None, divides=True)
    refused(tmp_path / "q", "nothing says whether weight_scale multiplies or divides .*; add the")


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"linear_class": "other"}, "linear_class='other' .* neither bitlinear nor autobitlinear"),
        ({"quantization_mode": "on"}, "quantization_mode='on' .* neither offline nor online"),
        (MULTIPLIES | {"quantization_mode": "online"}, "online, which quantizes full weights"),
        ({"use_rms_norm": True}, "use_rms_norm .* is not read"),
    ],
)
def test_bitnet_configurations_that_do_not_fit(
    tmp_path: Path, said: dict[str, Any], match: str
) -> None:
    save_bitnet(tmp_path / "q", said, divides=True)
    refused(tmp_path / "q", match)


@pytest.mark.parametrize(
    ("change_it", "match"),
    [
        (lambda s: s.pop(f"{UP}.weight_scale"), f"lacks the weight_scale of 1 .*: {UP}.weight"),
        (
            lambda s: s.update({f"{UP}.weight": s[f"{UP}.weight"][:-1]}),
            rf"{UP}.weight is stored with shape \(5, 16\), but .* make it \(6, 16\)",
        ),
        (
            lambda s: s.update({f"{UP}.weight": s[f"{UP}.weight"].to(torch.int8)}),
            f"{UP}.weight is stored as int8, and its format has uint8 there",
        ),
        (
            lambda s: s.update({f"{UP}.weight_scale": torch.ones(24)}),
            rf"{UP}.weight_scale is stored with shape \(24,\)",
        ),
    ],
)
def test_damaged_bitnet(
    tmp_path: Path, change: Callable[..., None], change_it: Any, match: str
) -> None:
    save_bitnet(tmp_path / "q", DIVIDES, divides=True)
    change(tmp_path / "q", change_it)
    if "int8" in match:
        damaged(tmp_path / "q", "int8")
    else:
        refused(tmp_path / "q", match)


def test_codes_that_bitnet_does_not_have(tmp_path: Path, change: Callable[..., None]) -> None:
    save_bitnet(tmp_path / "q", DIVIDES, divides=True)
    change(tmp_path / "q", lambda s: s[f"{UP}.weight"][0, :3].fill_(0b11_01_01_01))
    damaged(tmp_path / "q", f"{UP}.weight holds 3 codes outside {{0, 1, 2}}")
    refused(
        tmp_path / "q", "stores packed ternary weights, not .* lsq", UsageError, quantizer="lsq"
    )
    refused(tmp_path / "q", "stores packed ternary weights, not .* 2 bits", UsageError, w_bits=2)


def test_masters_of_bitnet_are_quantized_by_its_quantizer(tmp_path: Path) -> None:
    model, state = plain_state()
    said = {"quant_method": "bitnet"} | MULTIPLIES
    online = said | {"quantization_mode": "online"}
    write(tmp_path / "q", state, model, quantization_config=online)
    write(tmp_path / "off", state, model, quantization_config=said)
    refused(tmp_path / "off", "says quantization_mode offline, .* and stores full ones; pass")
    full = load(tmp_path / "q", w_bits=16, a_bits=16)
    assert torch.equal(full.model(IDS).logits, build()(IDS).logits)
    if "bitnet" not in quantizer_names():
        refused(tmp_path / "q", "there is no quantizer 'bitnet' here; pass --w_bits 16")
        return
    ckpt = load(tmp_path / "q")
    assert ckpt.qat.spec == spec("bitnet", w_bits=1.58, a_bits=8)
    for name, layer in quant_layers(ckpt.model).items():
        w = state[f"{name}.weight"]
        gamma = w.abs().mean()
        truth = (w / gamma).round().clamp(-1, 1) * gamma
        torch.testing.assert_close(layer.quantized_weight().detach(), truth)


def test_info_says_what_was_recognised_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from spectra.cli.main import main

    save_efficientqat(tmp_path / "eqat", 2, 16, **WIDE)
    save_bitnet(tmp_path / "bitnet", MULTIPLIES, divides=False)
    for place, quantized, told in (
        ("eqat", "efficientqat, 2-bit weights", "EfficientQAT's packed tensors"),
        ("bitnet", "packed ternary weights, 8-bit activations", "weight_scale multiplies"),
    ):
        assert main(["info", str(tmp_path / place), "--seq_len", "16", "--num_batches", "1"]) == 0
        out = capsys.readouterr().out
        assert quantized in out
        assert told in next(line for line in out.splitlines() if line.startswith("told by"))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_what_is_written_packed_is_read_back_exactly(tmp_path: Path, bits: int) -> None:
    model = worn(spec("efficientqat", w_bits=bits, group_size=8))
    named = f"m-w{bits}g8"  # the layers are too small for shapes to tell the width
    ckpt = load(save_packed(model, tmp_path / named, scales=torch.float32))
    assert ckpt.meta.w_bits == bits
    theirs = quant_layers(model)
    for name, layer in quant_layers(ckpt.model).items():
        assert torch.equal(layer.codes(), theirs[name].codes())
        assert torch.equal(layer.quantized_weight(), theirs[name].quantized_weight())
    with torch.no_grad():
        assert torch.equal(ckpt.model(IDS).logits, model(IDS).logits)
    codes = torch.randint(0, 2**bits, (25, 7))
    assert torch.equal(pack_fields(codes, bits), words(codes, bits))
    half = load(save_packed(model, tmp_path / "half" / named))
    for name, layer in quant_layers(half.model).items():
        assert torch.equal(layer.scale.data, theirs[name].scale.data.half().float())


def test_only_its_own_quantizer_is_packed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is quantized by paretoq at 2 bits, which EfficientQAT's"):
        save_packed(worn(spec("paretoq", w_bits=2)), tmp_path)
