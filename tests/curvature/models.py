"""Small models, batches and dense Hessians that share no code with spectra.curvature."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from spectra.data import Batch

VOCAB = 11


def llama(
    *, hidden=4, layers=1, heads=2, kv_heads=1, inner=6, tied=False, vocab=VOCAB, seed=0, **more
) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
        **more,
    )
    return LlamaForCausalLM(config)


def gpt2(*, hidden=4, layers=1, heads=2, vocab=VOCAB, positions=12, tied=True, seed=0):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab,
        n_embd=hidden,
        n_layer=layers,
        n_head=heads,
        n_positions=positions,
        tie_word_embeddings=tied,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def batch(rows, length, *, seed=0, masked=0.0, vocab=VOCAB) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab, (rows, length), generator=generator)
    labels = ids.clone()
    hide = torch.rand(rows, length, generator=generator) < masked
    hide[0, 1] = False
    labels[hide] = -100
    return Batch(ids, labels)


class _Norm(nn.Module):
    def __init__(self, weight, eps):
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x):
        return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()


class _Rotary(nn.Module):
    def __init__(self, inv_freq):
        super().__init__()
        self.register_buffer("inv_freq", inv_freq.double(), persistent=False)

    def forward(self, _, position_ids):
        angles = position_ids[..., None].double() * self.inv_freq
        angles = torch.cat((angles, angles), -1)
        return angles.cos(), angles.sin()


def reference_copy(model):
    """A float64 twin of `model` whose normalization and rotary angles never leave float64."""
    twin = copy.deepcopy(model).double().eval()
    twin.config._attn_implementation = "sdpa"
    for name, module in list(twin.named_modules()):
        new = None
        if type(module).__name__ == "LlamaRMSNorm":
            new = _Norm(module.weight, module.variance_epsilon)
        elif type(module).__name__ == "LlamaRotaryEmbedding":
            original = model.get_submodule(name)
            new = _Rotary(original.inv_freq.detach())
        if new is not None:
            parent, _, attribute = name.rpartition(".")
            setattr(twin.get_submodule(parent), attribute, new)
    return twin


def token_loss(model, values, batches):
    """Mean over all counted labels of all batches, from the model's logits and plain autograd."""
    total, count = 0.0, 0
    for one in batches:
        with sdpa_kernel(SDPBackend.MATH):
            out = torch.func.functional_call(
                model,
                values,
                kwargs={"input_ids": one.input_ids, "use_cache": False},
                tie_weights=False,
            )
        logits, labels = out.logits[:, :-1], one.labels[:, 1:]
        total = total + nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            labels.reshape(-1),
            ignore_index=-100,
            reduction="sum",
        )
        count += int((labels != -100).sum())
    return total / count


def dense(model, names, batches, loss=token_loss):
    """(loss, gradient (n,), Hessian (n, n)) in float64 with respect to `names`, flattened."""
    twin = reference_copy(model)
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    shapes = [parameters[name].shape for name in names]
    theta = torch.cat([parameters[name].detach().reshape(-1) for name in names]).requires_grad_()
    pieces = theta.split([shape.numel() for shape in shapes])
    values = {
        alias: piece.view(shape)
        for name, piece, shape in zip(names, pieces, shapes, strict=True)
        for alias, other in parameters.items()
        if other is parameters[name]
    }
    value = loss(twin, values, batches)
    (gradient,) = torch.autograd.grad(value, theta, create_graph=True)
    eye = torch.eye(len(theta), dtype=torch.float64)
    (rows,) = torch.autograd.grad(gradient, theta, eye, is_grads_batched=True)
    return value.detach(), gradient.detach(), rows


def operator_matrix(operator):
    """The matrix of an operator or of a family's mean, a product for each column, all at once."""
    operator = getattr(operator, "mean", operator)
    operator.batched_products = True
    return operator.matvecs(torch.eye(operator.dim, dtype=operator.dtype)).T


def random_vectors(count, dim, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64).to(dtype)


def relative_error(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())
