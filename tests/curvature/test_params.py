"""Selections: which weights, in which order, and what is refused."""

import pytest
import torch
from torch import nn

from spectra.curvature import select_parameters
from spectra.errors import UsageError
from tests.curvature.models import gpt2, llama


def test_linear_is_the_weights_of_the_blocks():
    model = llama(layers=2)
    names = select_parameters(model).names
    assert len(names) == 2 * 7
    assert all(n.startswith("model.layers.") and n.endswith("proj.weight") for n in names)
    conv = select_parameters(gpt2(layers=2)).names
    assert len(conv) == 2 * 4
    assert all(".h." in name and name.endswith(".weight") for name in conv)


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_count_once_under_all_their_names(build, tied):
    model = build(tied=tied)
    everything = select_parameters(model, "all")
    assert everything.dim == sum(p.numel() for p in model.parameters())
    embedding = select_parameters(model, "embedding")
    assert embedding.shapes == (model.get_input_embeddings().weight.shape,)
    assert ("lm_head.weight" in embedding.aliases[0]) == tied
    assert select_parameters(model, "lm_head.weight").dim == embedding.dim


def test_order_does_not_depend_on_the_globs():
    model = llama(layers=2)
    forward = select_parameters(model, ["*q_proj*", "*down_proj*"])
    backward = select_parameters(model, "*down_proj*, *q_proj*")
    assert forward.names == backward.names
    assert select_parameters(model, "linear,embedding").dim == (
        select_parameters(model).dim + select_parameters(model, "embedding").dim
    )


def test_requires_grad_does_not_matter():
    model = llama()
    before = select_parameters(model, "all")
    model.requires_grad_(False)
    assert select_parameters(model, "all") == before


def test_vectors_split_into_views_and_back():
    selection = select_parameters(llama())
    v = torch.arange(float(selection.dim))
    blocks = selection.split(v)
    assert all(b.data_ptr() != 0 and b._base is v for b in blocks)
    assert torch.equal(selection.flatten(blocks, like=v), v)
    V = torch.stack([v, -v])
    assert torch.equal(selection.flatten(selection.split(V), like=V, lead=(2,)), V)
    for (name, place), block in zip(selection.slices(), blocks, strict=True):
        assert name in selection.names
        assert torch.equal(v[place], block.reshape(-1))
    hole = selection.flatten([None, *blocks[1:]], like=v)
    assert not hole[: selection.sizes[0]].any()


def test_a_plain_module_offers_every_linear_layer():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    assert select_parameters(model).names == ("1.weight", "2.weight")
    assert select_parameters(model, "embedding").names == ("0.weight",)


def test_nothing_selected_lists_near_names():
    with pytest.raises(UsageError, match=r"did you mean .*mlp\.down_proj\.weight"):
        select_parameters(llama(), "model.layers.0.mlp.down_prj.weight")
    with pytest.raises(UsageError, match="names no parameter"):
        select_parameters(llama(), " , ")
    with pytest.raises(UsageError, match="selects none"):
        select_parameters(nn.LayerNorm(3), "linear")


def test_fused_experts_are_refused_by_name():
    from transformers import MixtralConfig, MixtralForCausalLM

    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=11,
            hidden_size=4,
            intermediate_size=6,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=2,
        )
    )
    with pytest.raises(UsageError, match=r"layers\.0\.mlp\.experts\.gate_up_proj"):
        select_parameters(model)
    assert select_parameters(model, "*experts*").dim > 0


def test_the_head_is_left_out_where_there_are_no_blocks():
    class Flat(nn.Module):
        config = None

        def __init__(self):
            super().__init__()
            self.embed, self.inner, self.head = (
                nn.Embedding(5, 3),
                nn.Linear(3, 3),
                nn.Linear(3, 5),
            )

        @property
        def base_model(self):
            return self

        def get_input_embeddings(self):
            return self.embed

        def get_output_embeddings(self):
            return self.head

    assert select_parameters(Flat()).names == ("inner.weight",)


def test_weights_without_derivative_and_computed_weights_are_refused():
    stored = nn.Linear(2, 2)
    stored.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UsageError, match="int8"):
        select_parameters(stored)
    assert select_parameters(stored, "all").names == ("bias",)
    computed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(UsageError, match="computed from other parameters"):
        select_parameters(computed)
