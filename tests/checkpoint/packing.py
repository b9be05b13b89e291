"""Foreign checkpoints written by hand from the description of their layouts, and what they encode.

Every writer returns layer -> the weight (out, in) that the files encode, in float64.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from spectra.checkpoint import load_checkpoint
from spectra.errors import CheckpointError
from spectra.quant import quant_layers
from tests.checkpoint.quantized import IDS, NAMES
from tests.checkpoint.saved import build

Weights = dict[str, torch.Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def integers(low: int, high: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=generator(seed))


def words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 words (⌈rows/c⌉, columns) of codes (rows, columns), one code at a time."""
    fields = 32 // bits
    packed = torch.zeros(-(-codes.shape[0] // fields), codes.shape[1], dtype=torch.int64)
    for row in range(codes.shape[0]):
        packed[row // fields] |= codes[row].long() << (bits * (row % fields))
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def plain_state(**changes: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    model = build(**changes)
    state = {n: t.clone() for n, t in model.state_dict().items() if n != "lm_head.weight"}
    return model, state


def write(place: Path, state: dict[str, torch.Tensor], model: Any, **config: Any) -> None:
    place.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    text = json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__]}
    (place / "config.json").write_text(json.dumps(text | config))


def shape(state: dict[str, torch.Tensor], name: str) -> tuple[int, int]:
    out, columns = state[f"{name}.weight"].shape
    return out, columns


def save_efficientqat(
    place: Path, bits: int, group: int, kind: torch.dtype = torch.float16, **changes: Any
) -> Weights:
    model, state = plain_state(**changes)
    encoded = {}
    for index, name in enumerate(NAMES):
        out, columns = shape(state, name)
        groups = columns // group
        q = integers(0, 2**bits, columns, out, seed=index)
        z = integers(0, 2**bits, groups, out, seed=index + 100)
        s = (torch.rand(groups, out, generator=generator(index)) * 0.1 - 0.01).to(kind)
        del state[f"{name}.weight"]
        state[f"{name}.qweight"] = words(q, bits)
        state[f"{name}.qzeros"] = words(z.T, bits).T
        state[f"{name}.scales"] = s
        state[f"{name}.g_idx"] = torch.arange(columns, dtype=torch.int32) // group
        of = torch.arange(columns) // group
        encoded[name] = ((q - z[of]).double() * s[of].double()).T
    write(place, state, model)
    return encoded


def save_bitnet(place: Path, said: dict[str, Any] | None, *, divides: bool) -> Weights:
    model, state = plain_state()
    encoded = {}
    for index, name in enumerate(NAMES):
        out, columns = shape(state, name)
        codes = integers(-1, 2, out, columns, seed=index)
        rows = -(-out // 4)
        packed = torch.zeros(rows, columns, dtype=torch.uint8)
        for row in range(out):
            field, line = divmod(row, rows)
            packed[line] |= (codes[row] + 1).to(torch.uint8) << (2 * field)
        scale = torch.tensor([1 / 0.037 if divides else 0.037 + index / 100], dtype=torch.bfloat16)
        state[f"{name}.weight"], state[f"{name}.weight_scale"] = packed, scale
        encoded[name] = codes / scale.double() if divides else codes * scale.double()
    config = {} if said is None else {"quantization_config": {"quant_method": "bitnet"} | said}
    write(place, state, model, **config)
    return encoded


def save_dense(place: Path, bits: int, group: int | None, **said: Any) -> Weights:
    """As llm-compressor saves uncompressed: weights on their grid, scales beside them."""
    model, state = plain_state()
    encoded = {}
    for index, name in enumerate(NAMES):
        out, columns = shape(state, name)
        groups = 1 if group is None else columns // group
        q = integers(-(2 ** (bits - 1)), 2 ** (bits - 1), out, columns, seed=index)
        s = torch.rand(out, groups, generator=generator(index)) * 0.1 + 1e-3
        of = torch.arange(columns) // (columns // groups)
        encoded[name] = q.double() * s[:, of].double()
        state[f"{name}.weight"] = q * s[:, of]
        state[f"{name}.weight_scale"] = s
        state[f"{name}.weight_zero_point"] = torch.zeros(out, groups, dtype=torch.int8)
    weights = {"num_bits": bits, "symmetric": True}
    config = {"quant_method": "compressed-tensors", "format": "dense"}
    config |= {"config_groups": {"group_0": {"weights": weights}}}
    write(place, state, model, quantization_config=config | said)
    return encoded


def save_torchao_converted(place: Path, group: int) -> Weights:
    model, state = plain_state()
    encoded = {}
    for index, name in enumerate(NAMES):
        out, columns = shape(state, name)
        q = integers(-8, 8, out, columns, seed=index)
        z = integers(-8, 8, out, columns // group, seed=index + 50)
        s = torch.rand(out, columns // group, generator=generator(index)) * 0.1 + 1e-3
        state[f"{name}.weight"] = q.to(torch.int8)
        state[f"{name}.scales"], state[f"{name}.zeros"] = s, z.float()
        of = torch.arange(columns) // group
        encoded[name] = (q - z[:, of]).double() * s[:, of].double()
    write(place, state, model)
    return encoded


def save_torchao_learned(place: Path, bits: int, group: int, *, zero: bool = True) -> Weights:
    model, state = plain_state()
    encoded, half = {}, 2 ** (bits - 1)
    for index, name in enumerate(NAMES):
        out, columns = shape(state, name)
        w, groups = state[f"{name}.weight"], columns // group
        s = w.abs().amax() / half * (0.5 + torch.rand(out, groups, generator=generator(index)))
        z = integers(-half, half, out, groups, seed=index) if zero else torch.zeros(out, groups)
        state[f"{name}.weight_fake_quantizer.scale"] = s
        if zero:
            state[f"{name}.weight_fake_quantizer.zero_point"] = z.float()
        of = torch.arange(columns) // group
        code = ((w / s[:, of]).round() + z[:, of]).clamp(-half, half - 1)
        encoded[name] = ((code - z[:, of]) * s[:, of]).double()
    write(place, state, model)
    return encoded


def apart(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection in Meta's order: feature j of half i at 2j + i."""
    size = weight.shape[0] // heads
    rows = torch.empty_like(weight)
    for head in range(heads):
        for j in range(size // 2):
            for i in (0, 1):
                rows[head * size + 2 * j + i] = weight[head * size + i * (size // 2) + j]
    return rows


META = {
    "model.embed_tokens.": "tok_embeddings.",
    "model.norm.": "norm.",
    "lm_head.": "output.",
    "model.layers.": "layers.",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def meta_state(state: dict[str, torch.Tensor], *, heads: int, kv: int) -> dict[str, torch.Tensor]:
    """Our names and order of rows -> Meta's."""
    found = {}
    for name, tensor in state.items():
        count = heads if "q_proj" in name else kv if "k_proj" in name else None
        theirs = name
        for ours, other in META.items():
            theirs = theirs.replace(ours, other)
        found[theirs] = tensor.clone() if count is None else apart(tensor, count)
    return found


def save_consolidated(
    place: Path, state: dict[str, torch.Tensor], model: Any, **params: Any
) -> None:
    config = model.config
    place.mkdir(parents=True, exist_ok=True)
    theirs = meta_state(state, heads=config.num_attention_heads, kv=config.num_key_value_heads)
    torch.save(theirs | {"rope.freqs": torch.ones(4)}, place / "consolidated.00.pth")
    said = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "norm_eps": config.rms_norm_eps,
        "vocab_size": -1,
    }
    (place / "params.json").write_text(json.dumps(said | params))


def load(place: Path, **flags: Any) -> Any:
    return load_checkpoint(place, device="cpu", **flags)


def check_weights(ckpt: Any, encoded: Weights, **changes: Any) -> None:
    """Q(W) is what the file encodes, and the model computes what a plain one with it does."""
    plain = build(**changes)
    layers = quant_layers(ckpt.model)
    assert set(layers) == set(encoded) == set(NAMES)
    for name, layer in layers.items():
        assert torch.equal(layer.quantized_weight().detach(), encoded[name].float())
        assert layer.mask().all()
        plain.get_submodule(name).weight.data = encoded[name].float().contiguous()
    with torch.no_grad():
        if ckpt.meta.a_bits == 16:
            assert torch.equal(ckpt.model(IDS).logits, plain(IDS).logits)
    assert not ckpt.model.training


def damaged(place: Path, match: str, **flags: Any) -> None:
    """Assert that loading is refused in one sentence for what only the contents show."""
    with pytest.raises(CheckpointError, match=match) as caught:
        load(place, **flags)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
