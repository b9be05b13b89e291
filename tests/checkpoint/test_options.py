"""Options of a quantizer behind its name: read, kept, compared with what a checkpoint has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spectra.checkpoint import load_checkpoint
from spectra.checkpoint.qat import Asked
from spectra.errors import UsageError
from spectra.quant import quant_layers, spec
from tests.checkpoint.packing import save_efficientqat
from tests.checkpoint.quantized import refused, save_own


def test_options_reach_the_quantizer(llama: Path) -> None:
    ckpt = load_checkpoint(llama, device="cpu", quantizer="efficientqat:group_size=8", w_bits=2)
    assert ckpt.qat is not None
    assert ckpt.qat.spec == spec("efficientqat", w_bits=2, group_size=8)
    for layer in quant_layers(ckpt.model).values():
        assert layer.scale is not None
        assert layer.scale.shape == (layer.out_features, layer.in_features // 8)
    two = Asked("efficientqat:group_size=-1, clamp_steps=false", 3).spec()
    assert two == spec("efficientqat", w_bits=3, group_size=-1, clamp_steps=False)


@pytest.mark.parametrize("size", [4, 8])
def test_options_must_be_those_of_the_checkpoint(tmp_path: Path, size: int) -> None:
    save_own(tmp_path / "own", spec("efficientqat", w_bits=2, group_size=8))
    changes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48}
    save_efficientqat(tmp_path / "packed", 2, 8, **changes)
    flag = f"efficientqat:group_size={size}"
    for place in (tmp_path / "own", tmp_path / "packed"):
        if size == 8:
            qat = load_checkpoint(place, device="cpu", quantizer=flag).qat
            assert qat is not None
            assert qat.spec.build().group_size == 8  # type: ignore[attr-defined]
        else:
            refused(place, "group_size=", UsageError, quantizer=flag)


@pytest.mark.parametrize(
    ("flag", "match"),
    [
        ("efficientqat:64", "assigns nothing in '64'"),
        ("efficientqat:", "assigns nothing in ''"),
        ("efficientqat:size=64", "has no option 'size'"),
        ("efficientqat:group_size=0", "group_size=0 is no number of weights"),
        ("nothing:group_size=0", "quantizer 'nothing' is not known"),
    ],
)
def test_options_that_are_none(llama: Path, flag: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        load_checkpoint(llama, device="cpu", quantizer=flag, w_bits=2)
