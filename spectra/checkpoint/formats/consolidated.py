"""Directories with consolidated.00.pth and params.json: Meta's naming -> that of transformers.

    tok_embeddings.weight                 model.embed_tokens.weight
    layers.N.attention.w{q,k,v,o}         model.layers.N.self_attn.{q,k,v,o}_proj
    layers.N.feed_forward.w{1,3,2}        model.layers.N.mlp.{gate,up,down}_proj
    layers.N.{attention,ffn}_norm         model.layers.N.{input,post_attention}_layernorm
    norm.weight, output.weight            model.norm.weight, lm_head.weight

`weight_clip_val` and `weight_clip_val_list.<bits>`, the scales of ParetoQ and WinQ, follow their
layer. Meta rotates pairs of neighbouring features, transformers the two halves of a head, so the
rows of wq and wk are reordered within each head, from 2j + i to i·d/2 + j, i = 0, 1; their clip
values, one for each row, with them. `rope.freqs` is recomputed and left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from spectra.checkpoint.locate import PARAMS
from spectra.errors import CheckpointError
from spectra.record.jsonfile import read_json

NEEDED = ("dim", "n_layers", "n_heads")
_MODULES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_OUTER = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
_INNER = re.compile(r"layers\.(\d+)\.([a-z_]+(?:\.w[qkvo123])?)\.(weight.*)")
_LEFT_OUT = ("rope.freqs",)


def read_params(path: Path) -> dict[str, Any]:
    """Return params.json, checked.

    Raises:
        CheckpointError: If it is no JSON object, or lacks a number.
    """
    try:
        params = read_json(path)
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise CheckpointError(f"{str(path)!r} is not JSON; copy it again.") from None
    if isinstance(params, dict) and isinstance(params.get("model"), dict):
        params = params | params["model"]
    if not isinstance(params, dict):
        raise CheckpointError(f"{str(path)!r} is not a JSON object; copy it again.")
    for key in NEEDED:
        if not isinstance(params.get(key), int) or isinstance(params[key], bool) or params[key] < 1:
            raise CheckpointError(
                f"{str(path)!r} has {key}={params.get(key)!r}; a model needs a number there: use "
                "the file saved with it."
            )
    return params


def llama_config(params: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return what config.json would hold.

    Args:
        params: What `read_params` returned.
        shapes: Shapes of the stored tensors by their names here: the widths of the feed-forward
            layers and of the vocabulary are theirs.
    """
    heads = params["n_heads"]
    gate = shapes.get("model.layers.0.mlp.gate_proj.weight", (0, 0))
    vocab = shapes.get("model.embed_tokens.weight", (params.get("vocab_size", 0), 0))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": params["dim"],
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": params.get("n_kv_heads") or heads,
        "head_dim": params.get("head_dim") or params["dim"] // heads,
        "intermediate_size": gate[0],
        "vocab_size": vocab[0],
        "rms_norm_eps": params.get("norm_eps", 1e-5),
        "rope_theta": params.get("rope_theta", 10000.0),
        "max_position_embeddings": params.get("max_seq_len", 2048),
        "tie_word_embeddings": "lm_head.weight" not in shapes,
        "attention_bias": False,
        "mlp_bias": False,
    }
    if params.get("use_scaled_rope"):
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": float(params.get("rope_scaling_factor", 8.0)),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    return config


def here(name: str) -> str | None:
    """Return the name of a stored tensor in transformers, None for one that is left out.

    A name that is not Meta's stays as it is.
    """
    if name in _LEFT_OUT:
        return None
    head, _, rest = name.partition(".")
    if head in _OUTER:
        return f"{_OUTER[head]}.{rest}"
    match = _INNER.fullmatch(name)
    if match is None or match[2] not in _MODULES:
        return name
    return f"model.layers.{match[1]}.{_MODULES[match[2]]}.{match[3]}"


def rotated(name: str, tensor: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
    """Return a stored tensor with its rows in the order of transformers.

    Args:
        name: Its name here.
        tensor: (out, anything), rows in Meta's order.
        params: What `read_params` returned.

    Raises:
        CheckpointError: If its rows are not those of the heads.
    """
    heads = params["n_heads"]
    if ".k_proj." in name:
        heads = params.get("n_kv_heads") or heads
    elif ".q_proj." not in name:
        return tensor
    if tensor.ndim == 0 or tensor.shape[0] % (2 * heads):
        raise CheckpointError(
            f"the tensor {name} has shape {tuple(tensor.shape)}, whose rows are not those of "
            f"{heads} heads; use the {PARAMS} saved with it."
        )
    pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
