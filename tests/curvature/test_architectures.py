"""Several families: the split at the head equals the model's own logits under plain autograd."""

import pytest
import torch
import transformers
from torch import nn

from spectra.curvature import hessian, select_parameters
from tests.curvature.models import VOCAB, batch, random_vectors, relative_error

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
FAMILIES = {
    "Qwen2": {"num_key_value_heads": 1},
    "Qwen3": {"num_key_value_heads": 1, "head_dim": 4},
    "Mistral": {"num_key_value_heads": 1, "head_dim": 4, "sliding_window": 3},
    "GPTNeoX": {},
    "Phi": {},
    "Phi3": {"num_key_value_heads": 1},
    "Gemma": {"num_key_value_heads": 1, "head_dim": 4},
    "OPT": {"ffn_dim": 12, "word_embed_proj_dim": 8, "max_position_embeddings": 16},
    "Granite": {"num_key_value_heads": 1, "logits_scaling": 3.0},
}


def build(name):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **FAMILIES[name]})
    return getattr(transformers, f"{name}ForCausalLM")(config)


def next_token_loss(model, one):
    logits, labels = model(one.input_ids).logits[:, :-1], one.labels[:, 1:]
    keep = labels != -100
    return nn.functional.cross_entropy(logits[keep], labels[keep], reduction="sum"), keep.sum()


@pytest.mark.parametrize("params", ["linear", "all"])
@pytest.mark.parametrize("name", FAMILIES)
def test_split_at_the_head_equals_the_model_s_own_logits(name, params):
    model, data = build(name), [batch(2, 6, masked=0.3), batch(1, 4, seed=1)]
    H = hessian(model, data, params=params, dtype="float64")
    plain = hessian(model, data, params=params, dtype="float64", loss=next_token_loss)
    v = random_vectors(1, H.dim)[0]
    assert relative_error(H.matvec(v), plain.matvec(v)) <= 1e-11
    assert ("the model's own logits" in H.metadata()["loss"]) == (name == "Granite")


@pytest.mark.parametrize("name", FAMILIES)
def test_linear_takes_the_blocks_weights_only(name):
    model = build(name)
    parameters = dict(model.named_parameters())
    names = select_parameters(model).names
    assert len(names) >= 2 * 4
    assert all(parameters[n].ndim == 2 and n.endswith(".weight") for n in names)
    outside = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    assert not outside & {id(parameters[n]) for n in names}
