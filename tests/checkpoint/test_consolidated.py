"""Meta's layout: names and rows translated, clip values with them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.checkpoint import describe, load_checkpoint
from spectra.checkpoint.formats.consolidated import here, rotated
from spectra.errors import CheckpointError, UsageError
from spectra.quant import quant_layers, spec
from tests.checkpoint.packing import apart, meta_state, plain_state, save_consolidated
from tests.checkpoint.quantized import IDS, NAMES, public_weight, refused

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
UP = "layers.1.feed_forward.w3"


def load(place: Path, **flags: Any) -> Any:
    return load_checkpoint(place, device="cpu", **flags)


def clipped(state: dict[str, torch.Tensor], suffix: str = "weight_clip_val") -> dict[str, Any]:
    """The scales of every layer, all rows different."""
    scales = {}
    for name in NAMES:
        size = state[f"{name}.weight"].abs().amax(1, keepdim=True)
        steps = torch.linspace(0.5, 1.1, len(size))[:, None]
        scales[f"{name}.{suffix}"] = size * steps
    return scales


def reference(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Scores q·k at positions 3 and 5 of one head, pairs of neighbouring features rotated."""
    size = len(q)
    angles = 10000.0 ** (-torch.arange(0, size, 2) / size)
    turned = []
    for vector, position in ((q, 3), (k, 5)):
        z = torch.view_as_complex(vector.reshape(-1, 2).contiguous())
        turned.append(
            torch.view_as_real(z * torch.polar(torch.ones_like(angles), angles * position))
        )
    return (turned[0] * turned[1]).sum()


def test_the_order_of_rows_is_the_one_that_keeps_rotary_scores() -> None:
    """Rotation of neighbours in Meta's order is rotation of halves in ours."""
    torch.manual_seed(0)
    ours_q, ours_k = torch.randn(8), torch.randn(8)
    angles = 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    both = torch.cat([angles, angles])
    half = [torch.cat([-v[4:], v[:4]]) for v in (ours_q, ours_k)]
    turned = [
        v * (both * p).cos() + h * (both * p).sin()
        for v, h, p in zip((ours_q, ours_k), half, (3, 5), strict=True)
    ]
    theirs = [apart(v[:, None], 1)[:, 0] for v in (ours_q, ours_k)]
    torch.testing.assert_close((turned[0] * turned[1]).sum(), reference(*theirs))


@pytest.mark.parametrize("tied", [True, False])
def test_a_float_model_is_the_same_in_both_layouts(tmp_path: Path, tied: bool) -> None:
    model, state = plain_state(tie_word_embeddings=tied, **HEADS)
    if not tied:
        state["lm_head.weight"] = model.lm_head.weight.data.clone()
    save_consolidated(tmp_path / "q", state, model)
    ckpt = load(tmp_path / "q")
    assert ckpt.qat is None
    assert ckpt.meta.format == "consolidated .pth"
    for name, parameter in model.named_parameters():
        assert torch.equal(ckpt.model.get_parameter(name), parameter)
    with torch.no_grad():
        torch.testing.assert_close(ckpt.model(IDS).logits, model(IDS).logits)
    found = describe(tmp_path / "q")
    assert (found.layers, found.tied, found.vocab) == (2, tied, 64)


def test_clip_values_follow_the_rows_of_their_weights(tmp_path: Path) -> None:
    model, state = plain_state(**HEADS)
    scales = clipped(state)
    save_consolidated(tmp_path / "q", state | scales, model)
    refused(tmp_path / "q", "stores weight_clip_val, .* has no w_bits, .* pass --w_bits")
    ckpt = load(tmp_path / "q", w_bits=3)
    assert ckpt.qat.spec == spec("paretoq", w_bits=3)
    for name, layer in quant_layers(ckpt.model).items():
        scale = scales[f"{name}.weight_clip_val"]
        assert torch.equal(layer.scale, scale)
        truth = public_weight(state[f"{name}.weight"], scale, 3)
        torch.testing.assert_close(layer.quantized_weight().detach(), truth)
    assert "weight_clip_val tensors" in describe(tmp_path / "q", w_bits=3).why


def test_the_width_may_stand_in_params_and_lists_have_several(tmp_path: Path) -> None:
    model, state = plain_state(**HEADS)
    save_consolidated(tmp_path / "one", state | clipped(state), model, w_bits=0)
    assert load(tmp_path / "one").meta.w_bits == 1.58
    several = clipped(state, "weight_clip_val_list.2") | clipped(state, "weight_clip_val_list.4")
    save_consolidated(tmp_path / "two", state | several, model)
    refused(tmp_path / "two", "clip values for the widths 2, 4; pass --w_bits with one of them")
    assert load(tmp_path / "two", w_bits=4).meta.w_bits == 4
    refused(tmp_path / "two", "and not for 3; pass", UsageError, w_bits=3)


@pytest.mark.parametrize(
    ("change_it", "match"),
    [
        (lambda s: s.pop(f"{UP}.weight"), "lacks 1 of the model's tensors: model.layers.1.mlp.up"),
        (
            lambda s: s.update({f"{UP}.weight": torch.ones(3, 16)}),
            r"mlp.up_proj.weight is stored with shape \(3, 16\), but .* makes it \(24, 16\)",
        ),
        (
            lambda s: s.update({"layers.0.attention.wq.weight": torch.ones(6, 16)}),
            "q_proj.weight has shape .*, whose rows are not those of 4 heads; use the params.json",
        ),
    ],
)
def test_damaged_weights(tmp_path: Path, change_it: Any, match: str) -> None:
    model, state = plain_state(**HEADS)
    save_consolidated(tmp_path / "q", state, model)
    file = tmp_path / "q" / "consolidated.00.pth"
    theirs = torch.load(file, weights_only=True)
    change_it(theirs)
    torch.save(theirs, file)
    with pytest.raises(CheckpointError, match=match) as caught:
        load(tmp_path / "q")
    assert "\n" not in str(caught.value)


class Hidden:
    """What a pickle must not bring along."""


def test_a_pickle_of_code_several_shards_and_lost_or_bad_params_are_refused(
    tmp_path: Path,
) -> None:
    model, state = plain_state(**HEADS)
    place = tmp_path / "q"
    save_consolidated(place, state, model)
    params = json.loads((place / "params.json").read_text())
    for wrong in ({"dim": None}, {"n_heads": "4"}, {"n_layers": 0}):
        (place / "params.json").write_text(json.dumps(params | wrong))
        with pytest.raises(CheckpointError, match=f"{next(iter(wrong))}=.*; a model needs a num"):
            load(place)
    (place / "params.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is not a JSON object"):
        load(place)
    (place / "params.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds consolidated.00.pth but no params.json"):
        load(place)
    (place / "params.json").write_text(json.dumps(params))
    torch.save(state, place / "consolidated.01.pth")
    with pytest.raises(CheckpointError, match=r"holds 2 consolidated files .*; merge them"):
        load(place)
    (place / "consolidated.01.pth").unlink()
    torch.save({"a": Hidden()}, place / "consolidated.00.pth")
    with pytest.raises(CheckpointError, match=r"pickle of more than tensors, .* is refused"):
        load(place)


def test_names_and_rows_are_translated_one_to_one() -> None:
    model, state = plain_state(**HEADS)
    theirs = meta_state(state, heads=4, kv=2)
    params = {"n_heads": 4, "n_kv_heads": 2}
    assert {here(name) for name in theirs} == set(state)
    assert here("rope.freqs") is None
    for name, tensor in theirs.items():
        ours = here(name)
        assert ours is not None
        assert torch.equal(rotated(ours, tensor, params), state[ours])
    assert not torch.equal(theirs["layers.0.attention.wk.weight"], state[NAMES[1] + ".weight"])
    assert model.config.num_key_value_heads == 2
