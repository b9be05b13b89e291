"""Quantized checkpoints on disk: this package's own, and the public code's, built by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from spectra.checkpoint import describe, load_checkpoint
from spectra.errors import CheckpointError
from spectra.quant import QuantSpec, SavedQuantization, prepare, quant_layers
from tests.checkpoint.saved import VOCAB, build

IDS = torch.arange(VOCAB)[None, :24]
LLAMA = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
NAMES = [f"model.layers.{i}.{name}" for i in range(2) for name in LLAMA]


def worn(spec: QuantSpec, kind: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
    """A quantized model whose scales training has moved from where they began."""
    model = build(kind).to(dtype)
    prepare(model, spec)
    generator = torch.Generator().manual_seed(1)
    for layer in quant_layers(model).values():
        if layer.scale is not None:
            factor = 0.4 + 0.8 * torch.rand(layer.scale.shape, generator=generator)
            layer.scale.data *= factor.to(layer.scale.dtype)
    return model


def save_own(
    place: Path, spec: QuantSpec, kind: str = "llama", shards: str = "50GB", **facts: Any
) -> Any:
    """Write a directory as this package's training does; return the model that is in it."""
    model = worn(spec, kind)
    model.save_pretrained(place, max_shard_size=shards)
    SavedQuantization(spec=spec, **facts).save(place)
    return model


def public_weight(w: torch.Tensor, a: torch.Tensor, code: int) -> torch.Tensor:
    """Q(W) as the public code has it, from its description: `code` 0 is ternary."""
    a = torch.where(a > 1e-5, a, torch.tensor(1e-5))
    if code == 1:
        return torch.sign(w) * a
    if code in (0, 2):
        half, shift = (1.5, 0.0) if code == 0 else (2.0, 0.5)
        return (torch.round(torch.clamp(w / a, -0.99, 0.99) * half - shift) + shift) / half * a
    top = 2 ** (code - 1)
    return torch.clamp(torch.round(w / a), -top, top - 1) * a


def save_public(
    place: Path, code: int | None, *, clips: bool = True, **config: Any
) -> tuple[dict[str, torch.Tensor], Any]:
    """Write a directory as the public code does, in bfloat16; return tensors and its forward.

    The forward is that of a plain float32 model that holds Q(W). `code` None leaves w_bits out.
    """
    model = build()  # whose rotary buffers stay in float32, as on loading
    state = {n: p.bfloat16() for n, p in model.state_dict().items() if n != "lm_head.weight"}
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    generator = torch.Generator().manual_seed(2)
    for name in NAMES:
        weight = state[f"{name}.weight"].float()
        levels = 2 ** (code - 1) - 1 if code in (3, 4) else 1
        size = weight.abs().amax(1, keepdim=True) / levels
        factor = 0.5 + 0.5 * torch.rand(size.shape, generator=generator)
        state[f"{name}.weight_clip_val"] = (size * factor).bfloat16()
    if not clips:
        state = {n: t for n, t in state.items() if "clip" not in n}
    place.mkdir(parents=True, exist_ok=True)
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    stated = {} if code is None else {"w_bits": code}
    text = {**json.loads(model.config.to_json_string()), **stated, **config}
    (place / "config.json").write_text(json.dumps(text | {"architectures": ["LlamaForCausalLM"]}))
    return state, model


def fold(model: Any, state: dict[str, torch.Tensor], code: int) -> Any:
    """Put the public code's Q(W) into the plain `model`."""
    weights = dict(model.named_parameters())
    for name in NAMES:
        clip = state[f"{name}.weight_clip_val"].float()
        weights[f"{name}.weight"].data = public_weight(state[f"{name}.weight"].float(), clip, code)
    return model


def refused(place: Path, match: str, kind: type = CheckpointError, **flags: Any) -> None:
    """Assert that loading is refused in one sentence, and that a description says the same."""
    with pytest.raises(kind, match=match) as caught:
        load_checkpoint(place, device="cpu", **flags)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    assert caught.value.__cause__ is None
    assert describe(place, **flags).refusal == message
    assert describe(place, **flags).qat is None
