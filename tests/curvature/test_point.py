"""The caller's model stays as it was, and the evaluation is what it says."""

import pytest
import torch
from torch import nn

from spectra.curvature import hessian
from spectra.errors import NumericalError, UsageError
from tests.curvature.models import batch, gpt2, llama, random_vectors


def state(model):
    return {
        "values": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "storage": [p.data_ptr() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grads": [p.grad for p in model.parameters()],
        "training": [module.training for module in model.modules()],
        "attention": model.config._attn_implementation,
        "use_cache": model.config.use_cache,
        "buffers": {name: (b.dtype, b.clone()) for name, b in model.named_buffers()},
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "default": torch.get_default_dtype(),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("dtype", [None, "float64"])
@pytest.mark.parametrize("build", [llama, gpt2])
def test_the_model_is_left_as_it_was(build, dtype):
    model = build(layers=2).train()
    next(iter(model.modules())).training = False
    model.get_input_embeddings().weight.requires_grad_(False)
    model.config._attn_implementation = "eager"
    before = state(model)
    H = hessian(model, [batch(2, 5)], params="all", dtype=dtype)
    H.matvec(random_vectors(1, H.dim, dtype=H.dtype)[0])
    assert same(state(model), before)


def test_the_model_is_left_as_it_was_after_a_failure():
    model = gpt2(positions=4).train()
    before = state(model)
    with pytest.raises(Exception, match="positions"):
        hessian(model, [batch(1, 6)], dtype="float64").prepare()
    assert same(state(model), before)


def test_dropout_is_off_and_the_caller_s_gradient_mode_does_not_matter():
    model = gpt2().train()
    H = hessian(model, [batch(2, 5)])
    v = random_vectors(1, H.dim, dtype=torch.float32)[0]
    with torch.no_grad():
        first = H.matvec(v)
    assert torch.equal(hessian(model.eval(), [batch(2, 5)]).matvec(v), first)
    with torch.inference_mode():
        inside = hessian(model, [batch(2, 5)]).matvec(v.clone())
    assert torch.equal(inside.clone(), first)


def test_replaced_attention_is_noted():
    model = llama()
    model.config._attn_implementation_internal = "flash_attention_2"
    H = hessian(model, [batch(1, 4)])
    H.prepare()
    assert any(
        "'flash_attention_2' evaluated as softmax in closed form" in n
        for n in H.metadata()["notes"]
    )
    assert model.config._attn_implementation == "flash_attention_2"


def test_values_share_storage_unless_another_type_is_asked_for():
    model = llama()
    H = hessian(model, [batch(1, 4)])
    parameters = dict(model.named_parameters())
    for name, leaf in zip(H.selection.names, H.point.leaves(), strict=True):
        assert leaf.data_ptr() == parameters[name].data_ptr()
        assert leaf.is_leaf
    wide = hessian(model, [batch(1, 4)], dtype="float64")
    first, second = wide.point.leaves()[0], wide.point.leaves()[0]
    assert first.data_ptr() == second.data_ptr()


def test_changing_a_parameter_under_a_kept_graph_is_noticed():
    model = llama()
    H = hessian(model, [batch(1, 4)])
    H.prepare()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.add_(1.0)
    with pytest.raises(NumericalError, match="was changed in place while"):
        H.matvec(torch.ones(H.dim))
    wide = hessian(model, [batch(1, 4)], dtype="float64")
    before = wide.point.vector()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.add_(1.0)
    assert not torch.equal(wide.point.vector(), before)


def test_offloaded_models_and_mixed_types_are_refused():
    with pytest.raises(UsageError, match="offloaded"):
        hessian(nn.Linear(2, 2, device="meta"), [1], loss=lambda _, b: b)
    model = llama()
    model.model.layers[0].mlp.down_proj.bfloat16()
    with pytest.raises(UsageError, match=r"bfloat16 and torch\.float32"):
        hessian(model, [batch(1, 4)])
    assert hessian(model, [batch(1, 4)], dtype="float32").dtype == torch.float32
