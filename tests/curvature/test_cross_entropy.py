"""The head's closed-form derivatives against autograd and finite differences."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import cross_entropy, linear

from spectra.curvature.cross_entropy import Memory, head_cross_entropy
from tests.curvature.models import relative_error

MEMORIES = {
    "kept": Memory(),
    "recomputed": Memory(keep_bytes=0),
    "chunks": Memory(chunk_bytes=1),
    "recomputed chunks": Memory(keep_bytes=0, chunk_bytes=1),
}


def problem(rows=5, width=3, vocab=7, *, bias=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(rows, width, generator=generator, dtype=dtype)
    W = torch.randn(vocab, width, generator=generator, dtype=dtype)
    b = torch.randn(vocab, generator=generator, dtype=dtype) if bias else None
    targets = torch.randint(0, vocab, (rows,), generator=generator)
    return h, W, b, targets


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
@pytest.mark.parametrize("active", ["h", "W", "b", "hW", "hWb"])
def test_first_and_second_derivatives_by_differences(active, memory):
    h, W, b, targets = problem(rows=18)
    chosen = {"h": h, "W": W, "b": b}
    inputs = [chosen[name].requires_grad_() for name in active]

    def loss(*_):
        return head_cross_entropy(h, W, b, targets, memory)

    assert gradcheck(loss, inputs)
    assert gradgradcheck(loss, inputs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_derivatives_of_a_nonlinear_use_equal_autograd(memory, bias):
    h, W, b, targets = problem(rows=37, width=4, vocab=9, bias=bias)
    inputs = [t.requires_grad_() for t in (h, W, b) if t is not None]

    def derivatives(loss):
        value = loss.exp() + loss.pow(2)
        gradient = torch.autograd.grad(value, inputs, create_graph=True)
        generator = torch.Generator().manual_seed(1)
        v = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in inputs]
        product = torch.autograd.grad(gradient, inputs, v)
        return [value, *gradient, *product]

    mine = derivatives(head_cross_entropy(h, W, b, targets, memory))
    theirs = derivatives(cross_entropy(linear(h, W, b), targets))
    for a, e in zip(mine, theirs, strict=True):
        assert relative_error(a.detach(), e.detach()) <= 1e-13


def test_several_cotangents_at_once():
    h, W, b, targets = problem(rows=20)
    inputs = [t.requires_grad_() for t in (h, W, b)]
    gradient = torch.autograd.grad(
        head_cross_entropy(h, W, b, targets, MEMORIES["chunks"]), inputs, create_graph=True
    )
    V = [torch.randn(3, *t.shape, dtype=t.dtype) for t in inputs]
    together = torch.autograd.grad(gradient, inputs, V, is_grads_batched=True, retain_graph=True)
    for k in range(3):
        alone = torch.autograd.grad(gradient, inputs, [v[k] for v in V], retain_graph=True)
        for a, e in zip(together, alone, strict=True):
            assert relative_error(a[k], e) <= 1e-14


def test_low_precision_rows_keep_a_float64_loss():
    h, W, _, targets = problem(rows=64, width=16, vocab=50, bias=False, dtype=torch.bfloat16)
    loss = head_cross_entropy(h.requires_grad_(), W, None, targets)
    (gradient,) = torch.autograd.grad(loss, h)
    exact = cross_entropy((h @ W.T).double(), targets)
    assert loss.dtype == torch.float64
    assert gradient.dtype == torch.bfloat16
    assert abs(float((loss - exact).detach())) <= 1e-6


def test_no_array_of_the_size_of_the_logits_when_nothing_may_be_kept():
    rows, width, vocab = 64, 4, 4096
    h, W, _, targets = problem(rows, width, vocab, bias=False, dtype=torch.float32)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    h.requires_grad_()
    with Watch():
        loss = head_cross_entropy(h, W, None, targets, Memory(keep_bytes=0, chunk_bytes=1))
        (gradient,) = torch.autograd.grad(loss, h, create_graph=True)
        torch.autograd.grad(gradient, h, torch.ones_like(h))
    assert largest <= 16 * vocab < rows * vocab
