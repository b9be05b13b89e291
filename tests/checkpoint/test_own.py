"""Directories of this package: what was saved is what runs, bit for bit, or one clear refusal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spectra.checkpoint import Qat, describe, load_checkpoint, series
from spectra.errors import CheckpointError, InputWarning, UsageError
from spectra.quant import QuantLinear, SavedQuantization, get_quantizer, quant_layers, spec
from spectra.quant.saved import FILE
from tests.checkpoint.quantized import IDS, NAMES, refused, save_own, worn
from tests.checkpoint.saved import build
from tests.quant.cases import CASES

TWO = spec("paretoq", w_bits=2)
UP = "model.layers.0.mlp.up_proj"
BOTH = pytest.mark.parametrize("kind", ["llama", "gpt2"])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A two-bit checkpoint at step 40, right after its second reset."""
    place = tmp_path / "run" / "checkpoint-40"
    facts = {"method": "winq", "step": 40, "resets": 2, "steps_since_reset": 0}
    save_own(place, TWO, **facts, recipe={"reset_fraction": 0.4})
    return place


@BOTH
@pytest.mark.parametrize(("name", "bits"), [*CASES, ("paretoq", 16), ("rtn", 16)])
def test_the_loaded_model_runs_as_the_saved_one(
    tmp_path: Path, kind: str, name: str, bits: float
) -> None:
    asked = spec(name, w_bits=bits)
    model = save_own(tmp_path / "q", asked, kind)
    ckpt = load_checkpoint(tmp_path / "q", device="cpu")
    assert torch.equal(ckpt.model(IDS).logits, model(IDS).logits)
    assert ckpt.qat is not None
    assert ckpt.qat.spec == asked
    learns = bits != 16 and get_quantizer(name).learns_scale
    assert ckpt.qat.scales == ("stored" if learns else None)
    assert (ckpt.meta.w_bits, ckpt.meta.a_bits, ckpt.meta.kv_bits) == (bits, 16, 16)
    assert ckpt.meta.quantizer == name
    assert ckpt.meta.parameters == sum(p.numel() for p in build(kind).parameters())
    assert not any(module.training for module in ckpt.model.modules())
    assert all(layer.noise is None for layer in quant_layers(ckpt.model).values())
    seen = describe(tmp_path / "q")
    assert (seen.qat, seen.refusal) == (ckpt.qat, "")
    assert seen.parameters == ckpt.meta.parameters
    shapes = {n: p.shape for n, p in ckpt.model.named_parameters()}
    assert {n: p.shape for n, p in seen.skeleton.named_parameters()} == shapes


def test_activation_widths_and_options_are_kept(tmp_path: Path) -> None:
    asked = spec("paretoq", w_bits=1.58, a_bits=8, kv_bits=4, ternary_outside="saturation")
    model = save_own(tmp_path / "q", asked)
    ckpt = load_checkpoint(tmp_path / "q", device="cpu")
    assert torch.equal(ckpt.model(IDS).logits, model(IDS).logits)
    assert ckpt.qat is not None
    assert ckpt.qat.spec == asked
    assert (ckpt.meta.w_bits, ckpt.meta.a_bits, ckpt.meta.kv_bits) == (1.58, 8, 4)
    kept = json.loads(json.dumps(ckpt.meta.metadata()))["quantization"]
    assert kept["options"] == {"ternary_outside": "saturation"}


@BOTH
def test_shards(tmp_path: Path, kind: str) -> None:
    model = save_own(tmp_path / "q", TWO, kind, shards="5KB")
    assert len(list((tmp_path / "q").glob("model-*.safetensors"))) > 2
    ckpt = load_checkpoint(tmp_path / "q", device="cpu")
    assert torch.equal(ckpt.model(IDS).logits, model(IDS).logits)
    assert ckpt.meta.format == "sharded safetensors"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefixed", [False, True])
def test_pytorch_files_and_names_of_the_base_model_alone(
    tmp_path: Path, legacy: bool, prefixed: bool
) -> None:
    model, place = worn(TWO), tmp_path / "bin"
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(place)
    cut = "" if prefixed else "model."
    state = {n.removeprefix(cut): t for n, t in model.state_dict().items() if "lm_head" not in n}
    torch.save(state, place / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    SavedQuantization(spec=TWO).save(place)
    ckpt = load_checkpoint(place, device="cpu")
    assert torch.equal(ckpt.model(IDS).logits, model(IDS).logits)
    assert describe(place).refusal == ""


def test_what_is_told(saved: Path) -> None:
    ckpt = load_checkpoint(saved, device="cpu")
    assert ckpt.qat == Qat(
        TWO, "spectra", "stored", "winq", 40, 2, 0, recipe={"reset_fraction": 0.4}
    )
    assert (ckpt.meta.method, ckpt.meta.step) == ("winq", 40)
    assert list(quant_layers(ckpt.model)) == NAMES
    (note,) = ckpt.meta.notes
    assert note == (
        "its latent weights are quantized on loading (paretoq, 2-bit weights, with the scales it "
        "stores); stock transformers would run them in full precision"
    )
    assert ckpt.meta.metadata()["quantization"]["steps_since_reset"] == 0
    assert describe(saved).notes == ckpt.meta.notes


def test_the_hash_covers_the_quantization(saved: Path) -> None:
    files = ("model.safetensors", "config.json", FILE)
    contents = b"".join((saved / name).read_bytes() for name in files)
    before = load_checkpoint(saved, device="cpu").meta.sha256
    assert before == hashlib.sha256(contents).hexdigest()
    SavedQuantization(spec=TWO, method="baseline", step=40).save(saved)
    assert load_checkpoint(saved, device="cpu").meta.sha256 != before


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "auto"])
def test_scales_are_held_at_least_in_float32(saved: Path, dtype: str) -> None:
    model, ckpt = worn(TWO), load_checkpoint(saved, device="cpu", dtype=dtype)
    wide = torch.float64 if dtype == "float64" else torch.float32
    expected = quant_layers(model)
    for name, layer in quant_layers(ckpt.model).items():
        assert layer.scale is not None
        assert layer.scale.dtype == wide
        assert torch.equal(layer.scale, expected[name].scale.to(wide))
        assert layer.weight.dtype == (torch.bfloat16 if dtype == "bfloat16" else wide)
        assert layer.quantized_weight().dtype == wide
    if dtype != "bfloat16":
        exact = model(IDS).logits
        torch.testing.assert_close(ckpt.model(IDS).logits.float(), exact, rtol=1e-4, atol=1e-5)
    rounded = [note for note in ckpt.meta.notes if "rounded" in note]
    assert len(rounded) == (2 if dtype == "bfloat16" else 0)


def test_float64_checkpoints_keep_their_digits(tmp_path: Path) -> None:
    model = worn(TWO, dtype=torch.float64)
    model.save_pretrained(tmp_path / "q")
    SavedQuantization(spec=TWO).save(tmp_path / "q")
    ckpt = load_checkpoint(tmp_path / "q", device="cpu", dtype="float64")
    assert torch.equal(ckpt.model(IDS).logits, model(IDS).logits)


def test_trained_noise_is_told_and_not_used(saved: Path, change: Callable[..., None]) -> None:
    stds = {f"{UP}.{kind}_noise_std": torch.tensor(0.1) for kind in ("weight", "scale")}
    change(saved, lambda state: state.update(stds))
    ckpt = load_checkpoint(saved, device="cpu")
    assert torch.equal(ckpt.model(IDS).logits, worn(TWO)(IDS).logits)
    assert any("2 trained standard deviations of noise are not used" in n for n in ckpt.meta.notes)


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        ({"w_bits": 3}, "w_bits=2, not 3"),
        ({"w_bits": 8}, "w_bits=2, not 8"),
        ({"w_bits": 16}, "w_bits=2, not 16"),
        ({"quantizer": "lsq"}, "quantizer=paretoq, not lsq"),
        ({"quantizer": "lsq", "w_bits": 4}, "quantizer=paretoq, not lsq and w_bits=2, not 4"),
        ({"a_bits": 8}, "a_bits=16, not 8"),
        ({"kv_bits": 8}, "kv_bits=16, not 8"),
    ],
)
def test_what_is_asked_must_be_what_is_stored(
    saved: Path, flags: dict[str, object], difference: str
) -> None:
    match = f"is quantized differently from what is asked: its {FILE} has {difference};"
    refused(saved, match, UsageError, **flags)


def test_flags_that_agree_are_welcome(saved: Path) -> None:
    flags = {"quantizer": "paretoq", "w_bits": 2.0, "a_bits": 16, "initialize_scales": True}
    ckpt = load_checkpoint(saved, device="cpu", **flags)  # type: ignore[arg-type]
    assert torch.equal(ckpt.model(IDS).logits, worn(TWO)(IDS).logits)
    assert ckpt.qat is not None
    assert ckpt.qat.scales == "stored"


def drop_scales(state: dict[str, torch.Tensor]) -> None:
    for name in [n for n in state if n.endswith(".scale")]:
        del state[name]


def test_lost_scales_are_derived_only_when_somebody_says_so(
    saved: Path, change: Callable[..., None]
) -> None:
    change(saved, drop_scales)
    refused(saved, "stores none of the learned scales .* or pass --initialize_scales to derive")
    ckpt = load_checkpoint(saved, device="cpu", initialize_scales=True)
    assert ckpt.qat is not None
    assert ckpt.qat.scales == "initial"
    assert any("scales derived from its latent weights: none are" in n for n in ckpt.meta.notes)
    for layer in quant_layers(ckpt.model).values():
        assert layer.scale is not None
        assert torch.equal(layer.scale, layer.weight.abs().amax(1, keepdim=True))


def put(name: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda state: state.update({name: value})


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda s: s.pop(f"{UP}.scale"), rf"lacks the scales of 1 of its 14 .*: {UP}; save"),
        (put("model.norm.scale", torch.ones(16, 1)), r"1 scales of no quantized layer: model\.nor"),
        (put("model.scale", torch.ones(16, 1)), r"stores model\.scale, scales of a quantizer that"),
        (put(f"{UP}.scale", torch.ones(24)), r"scale has shape \(24,\); one .*: \(24, 1\)"),
        (put(f"{UP}.scale", torch.ones(1, 1)), r"scale has shape \(1, 1\)"),
        (put(f"{UP}.weight_clip_val", torch.ones(24, 1)), "weight_clip_val, scales of a quantizer"),
    ],
)
def test_scales_that_do_not_fit(
    saved: Path, change: Callable[..., None], damage: object, match: str, flag: bool
) -> None:
    change(saved, damage)
    refused(saved, match, initialize_scales=flag)


def test_scales_beside_a_quantizer_that_learns_none(
    saved: Path, change: Callable[..., None]
) -> None:
    SavedQuantization(spec=spec("rtn", w_bits=2)).save(saved)
    refused(saved, "stores .*scale and 12 more, scales of a quantizer that nothing describes")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_not_finite(saved: Path, change: Callable[..., None], value: float) -> None:
    change(saved, lambda state: state[f"{UP}.scale"][3].fill_(value))
    with pytest.raises(CheckpointError, match=rf"scales {UP}.scale hold 1 values among 24 that"):
        load_checkpoint(saved, device="cpu")


def test_scales_below_the_floor_warn_once_and_work_as_the_floor(
    saved: Path, change: Callable[..., None]
) -> None:
    change(saved, lambda state: state[f"{UP}.scale"][:2].copy_(torch.tensor([[-3.0], [0.0]])))
    match = rf"2 of \d+ given scales are not above 1e-05 \(the first in {UP}\)"
    with pytest.warns(InputWarning, match=match):
        ckpt = load_checkpoint(saved, device="cpu")
    assert "2 stored scales are not above 1e-05 and work as that" in ckpt.meta.notes
    assert torch.isfinite(ckpt.model(IDS).logits).all()  # a second warning would be an error
    layer = ckpt.model.get_submodule(UP)
    assert isinstance(layer, QuantLinear)
    assert float(layer.quantized_weight()[:2].abs().max().detach()) <= 1e-5


def test_a_lost_quantization_file(saved: Path) -> None:
    (saved / FILE).unlink()
    match = rf"scale and 12 more, scales of a quantizer that nothing describes; add the {FILE}"
    refused(saved, match)
    refused(saved, match, w_bits=2)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "is not JSON; copy it again"),
        ('{"version": 9}', "has version 9; this release reads version 1"),
        ('{"version": 1}', f"{FILE}': the quantization is 'null', not an object"),
    ],
)
def test_damaged_quantization_files(saved: Path, content: str, match: str) -> None:
    (saved / FILE).write_text(content)
    refused(saved, match)


def test_the_steps_of_a_run_with_final_weights(saved: Path) -> None:
    run = saved.parent
    save_own(run, TWO, step=60, method="winq")
    assert series(run) == [(40, str(saved)), (60, str(run))]
    assert load_checkpoint(run, device="cpu").meta.step == 60
    moved = saved.rename(run / "checkpoint-50")
    ckpt = load_checkpoint(moved, device="cpu")
    assert ckpt.meta.step == 50
    told = [note for note in ckpt.meta.notes if "40" in note]
    assert told == [f"its {FILE} says step 40, not 50"]
