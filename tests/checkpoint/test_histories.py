"""Amax histories in a checkpoint: loaded bit for bit, missing, damaged, orphaned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.checkpoint import describe, load_checkpoint
from spectra.errors import CheckpointError
from spectra.quant import SavedQuantization, advance_histories, amax_histories, prepare, spec
from spectra.quant.saved import FILE
from tests.checkpoint.quantized import IDS, refused
from tests.checkpoint.saved import build

SPEC = spec("hif8", w_bits=8, a_bits=8, g_bits=8, history=4, skip_last=1)
LAYER = "model.layers.0.mlp.up_proj.scaling"


def trained(kind: str = "llama", asked: Any = SPEC, steps: int = 2) -> Any:
    """A model whose histories hold `steps` entries."""
    model = build(kind)
    prepare(model, asked)
    model.train()
    for step in range(steps):
        model(IDS + step).logits.pow(2).mean().backward()
        advance_histories(model)
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    trained().save_pretrained(tmp_path / "q")
    SavedQuantization(spec=SPEC, method="dts", step=2).save(tmp_path / "q")
    return tmp_path / "q"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("name", ["hif8", "fp8_e4m3"])
def test_histories_and_what_follows_from_them_come_back(
    tmp_path: Path, kind: str, name: str
) -> None:
    asked = spec(name, w_bits=8, a_bits=8, g_bits=8, history=4)
    model = trained(kind, asked)
    cold = trained(kind, asked, steps=0)
    assert not torch.equal(model(IDS).logits, cold(IDS).logits)
    model.save_pretrained(tmp_path / "q")
    SavedQuantization(spec=asked).save(tmp_path / "q")
    ckpt = load_checkpoint(tmp_path / "q", device="cpu")
    assert torch.equal(ckpt.model(IDS).logits, model(IDS).logits)
    found, expected = amax_histories(ckpt.model), amax_histories(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n].amax, expected[n].amax) for n in found)
    assert describe(tmp_path / "q").qat == ckpt.qat
    assert not any("cold" in note or "not part of" in note for note in ckpt.meta.notes)
    assert ckpt.meta.stored_dtype == "float32"


def test_only_the_selected_layers_are_quantized(saved: Path) -> None:
    ckpt = load_checkpoint(saved, device="cpu")
    assert {name.split(".")[2] for name in amax_histories(ckpt.model)} == {"0"}
    assert torch.equal(ckpt.model(IDS).logits, trained()(IDS).logits)


def drop(state: dict[str, torch.Tensor]) -> None:
    for name in [n for n in state if n.endswith(".amax")]:
        del state[name]


def test_without_histories_every_tensor_starts_cold_and_that_is_told(
    saved: Path, change: Callable[..., None]
) -> None:
    change(saved, drop)
    ckpt = load_checkpoint(saved, device="cpu")
    assert any("no amax history is stored" in note for note in ckpt.meta.notes)
    assert torch.equal(ckpt.model(IDS).logits, trained(steps=0)(IDS).logits)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda s: s.pop(f"{LAYER}.inputs.amax"), rf"have 21: it lacks {LAYER}.inputs.amax; save"),
        (
            lambda s: s.update({"model.layers.1.mlp.up_proj.scaling.inputs.amax": torch.ones(4)}),
            "it has model.layers.1.mlp.up_proj.scaling.inputs.amax besides",
        ),
        (
            lambda s: s.update({f"{LAYER}.inputs.amax": torch.ones(5)}),
            "has 5 entries, and the history of its quantization file has 4",
        ),
    ],
)
def test_histories_that_do_not_fit(
    saved: Path, change: Callable[..., None], damage: object, match: str
) -> None:
    change(saved, damage)
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(saved, device="cpu")


def test_a_lost_quantization_file(saved: Path) -> None:
    (saved / FILE).unlink()
    refused(saved, r"inputs.amax and \d+ more, scales of a quantizer that nothing describes")


def test_widths_and_options_that_go_without_saying(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path / "f")
    ckpt = load_checkpoint(tmp_path / "f", device="cpu", quantizer="hif8")
    assert ckpt.qat is not None
    assert ckpt.qat.spec == spec("hif8", w_bits=8, a_bits=8)
    options = {"policy": "mean", "history": 3}
    flags: dict[str, Any] = {"quantizer": "hif8:policy=mean,history=3", "a_bits": 16}
    ckpt = load_checkpoint(tmp_path / "f", device="cpu", **flags)
    assert ckpt.qat is not None
    assert ckpt.qat.spec == spec("hif8", w_bits=8, a_bits=16, **options)
    plain = load_checkpoint(tmp_path / "f", device="cpu", quantizer="hif8", w_bits=16)
    assert plain.qat is not None
    assert plain.qat.spec.a_bits == 16


def test_options_that_are_asked_must_be_those_stored(saved: Path) -> None:
    from spectra.errors import UsageError

    match = r"its spectra_quantization.json has policy=max, not mean;"
    refused(saved, match, UsageError, quantizer="hif8:policy=mean,history=4")
