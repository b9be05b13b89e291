"""Attention in closed form against autograd through torch's math kernel, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectra.curvature import attention, softmax_attention

Tensor = torch.Tensor
SHAPES = [(7, 7), (5, 8), (8, 5)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax_attention, "ROWS", 3)
    monkeypatch.setattr(softmax_attention, "ELEMENTS", 40)


def _inputs(T: int, S: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(T * S)
    return tuple(  # type: ignore[return-value]
        torch.randn(2, 3, rows, width, dtype=torch.float64)
        for rows, width in ((T, 4), (S, 4), (S, 6))
    )


def _mask(kind: str, T: int, S: int) -> dict[str, Any]:
    if kind == "causal":
        return {"is_causal": True}
    if kind == "boolean":
        seen = torch.rand(2, 1, T, S) > 0.3
        seen[0, 0, 2] = False  # a row that sees nothing
        return {"attn_mask": seen}
    return {"attn_mask": torch.randn(T, S, dtype=torch.float64)} if kind == "added" else {}


def _derivatives(fn: Any, inputs: tuple[Tensor, ...], **options: Any) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    with sdpa_kernel(SDPBackend.MATH):
        out = fn(*leaves, **options)
    first = torch.autograd.grad(out.sin().sum(), leaves, create_graph=True)
    found = [out, *first]
    directions = [torch.sin(3 * x + 1) for x in inputs]
    for chosen in ([0, 1, 2], [0], [1], [2], [0, 2]):
        found += torch.autograd.grad(
            [first[i] for i in chosen],
            leaves,
            [directions[i] for i in chosen],
            retain_graph=True,
        )
    several = [torch.stack([u, 2 * u, u * u]) for u in directions]
    found += torch.autograd.grad(first, leaves, several, is_grads_batched=True)
    return [x.detach() for x in found]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["none", "causal", "boolean", "added"])
def test_both_derivatives_are_those_of_the_math_kernel(shape: tuple[int, int], kind: str) -> None:
    inputs, options = _inputs(*shape), _mask(kind, *shape)
    expected = _derivatives(functional.scaled_dot_product_attention, inputs, **options)
    found = _derivatives(attention._attend, inputs, **options)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_grouped_queries_and_a_scale() -> None:
    q, k, v = _inputs(6, 6)
    inputs = (q.repeat_interleave(2, 1), k, v)
    options = {"is_causal": True, "scale": 0.3, "enable_gqa": True}
    expected = _derivatives(functional.scaled_dot_product_attention, inputs, **options)
    found = _derivatives(attention._attend, inputs, **options)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_half_precision_is_computed_in_float32() -> None:
    q, k, v = (x.to(torch.bfloat16) for x in _inputs(9, 9))
    found = softmax_attention.softmax_attention(q, k, v, causal=True)
    wide = softmax_attention.softmax_attention(q.float(), k.float(), v.float(), causal=True)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wide.to(torch.bfloat16), rtol=0, atol=0)


@pytest.mark.parametrize(("causal", "share"), [(False, 1.0), (True, 0.75)])
def test_one_array_of_probabilities_is_kept(
    causal: bool, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax_attention, "ROWS", 32)
    q, k, v = (torch.randn(1, 2, 64, 4, requires_grad=True) for _ in range(3))
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = softmax_attention.softmax_attention(q, k, v, causal=causal)
        first = torch.autograd.grad(out.sum(), (q, k, v), create_graph=True)
    assert first[0].requires_grad
    small = 20 * q.untyped_storage().nbytes()  # of queries, keys, values and cotangents
    assert share * 2 * 64 * 64 * 4 <= sum(kept.values()) <= share * 2 * 64 * 64 * 4 + small


def test_the_mode_replaces_the_call_of_a_model() -> None:
    q, k, v = (x.requires_grad_() for x in _inputs(5, 5))
    with attention.evaluation(torch.nn.Linear(1, 1), None):
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert "_Attention" in _names(out.grad_fn)
    with attention.evaluation(torch.nn.Linear(1, 1), None):
        dropped = functional.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    assert "_Attention" not in _names(dropped.grad_fn)
    assert not torch.equal(out, functional.scaled_dot_product_attention(q, k, v))


def _names(node: Any) -> str:
    seen, waiting = "", [node]
    while waiting:
        found = waiting.pop()
        seen += f" {found.name()}"
        waiting += [following for following, _ in found.next_functions if following is not None]
    return seen
