"""Each check passes on a sound operator and catches the fault it is for."""

import pytest
import torch
from torch import nn

from spectra.curvature import checks, ggn, hessian
from spectra.curvature.checks import (
    check_determinism,
    check_difference,
    check_symmetry,
    measure_product_error,
    reference_product,
    run_checks,
)
from spectra.errors import NumericalError
from tests.curvature.models import batch, gpt2, llama, operator_matrix, random_vectors


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("build", [llama, gpt2])
def test_sound_operators_pass(build, dtype):
    H = hessian(build(layers=2), [batch(2, 8), batch(1, 6, seed=1)], dtype=dtype)
    found = run_checks(H)
    assert found.determinism_error == 0.0
    assert found.symmetry_error <= {"float32": 1e-4, "float64": 1e-12, "bfloat16": 0.2}[dtype]
    assert found.difference_error <= 1e-6
    assert found.product_error > 0
    assert H.product_error == found.product_error


def test_gauss_newton_operators_pass_without_the_difference():
    found = run_checks(ggn(llama(layers=2), [batch(2, 6)], dtype="float64"))
    assert found.difference_error is None
    assert found.symmetry_error <= 1e-12


def test_the_reference_is_the_float64_operator():
    model, batches = llama(layers=2), [batch(2, 8)]
    H = hessian(model, batches)
    v = random_vectors(1, H.dim, dtype=torch.float32)[0]
    exact = hessian(model, batches, dtype="float64").matvec(v.double())
    assert torch.allclose(reference_product(H, v), exact, rtol=1e-13, atol=0)


def language_model():
    model = llama(hidden=32, heads=4, layers=2, inner=64, vocab=64)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(0.2)  # 0.1, a scale at which trained models live
    return model


def test_product_error_of_bfloat16_is_about_its_rounding():
    H = hessian(language_model().bfloat16(), [batch(2, 32, vocab=64)])
    v = random_vectors(1, H.dim)[0]
    delta = measure_product_error(H, v)
    relative = delta / float(reference_product(H, v / v.norm()).norm())
    assert 1e-3 < relative < 2e-2
    assert H.product_error == delta
    assert measure_product_error(H, random_vectors(1, H.dim, seed=1)[0]) <= H.product_error


def test_dropout_that_ignores_evaluation_mode_is_caught():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return nn.functional.dropout(self.inner(x), p=0.5, training=True)

    H = hessian(Noisy(), [torch.ones(30, 4)], loss=lambda m, x: m(x).pow(2).mean())
    with pytest.raises(NumericalError, match="between two evaluations"):
        run_checks(H)


def test_a_noisy_loss_is_caught():
    model = llama()

    def loss(module, ids):
        return module(ids).logits.pow(2).mean() + 0.01 * torch.randn(())

    H = hessian(model, [batch(1, 5).input_ids], loss=loss)
    with pytest.raises(NumericalError, match="between two evaluations"):
        check_determinism(H)


def test_an_asymmetric_operator_is_caught(monkeypatch):
    class Quantize(torch.autograd.Function):
        """A straight-through rounding whose step size has a surrogate gradient."""

        @staticmethod
        def forward(ctx, w, s):
            ctx.save_for_backward(w, s)
            return (w / s).round() * s

        @staticmethod
        def backward(ctx, g):
            w, s = ctx.saved_tensors
            return g, (g * ((w / s).round() - w / s)).sum(0, keepdim=True)

    class Quantized(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.weight = nn.Parameter(torch.randn(6, 6))
            self.scale = nn.Parameter(torch.full((1, 6), 0.7))

        def forward(self, x):
            return torch.tanh(x @ Quantize.apply(self.weight, self.scale))

    data = [torch.randn(8, 6, generator=torch.Generator().manual_seed(1))]

    def loss(module, x):
        return module(x).pow(2).mean()

    both = hessian(Quantized(), data, params="all", loss=loss, dtype="float64")
    with pytest.raises(NumericalError, match="not symmetric"):
        check_symmetry(both)
    matrix = operator_matrix(both)
    exact = float((matrix - matrix.T).norm() / (2 * matrix.norm()))
    monkeypatch.setattr(checks, "_allowed", lambda _: 10.0)
    found = [check_symmetry(both, seed=seed) for seed in range(20)]
    assert exact / 2 <= sum(found) / len(found) <= 3 * exact
    weights = hessian(Quantized(), data, params="weight", loss=loss, dtype="float64")
    assert check_symmetry(weights) <= 1e-12


def test_a_missing_second_derivative_is_caught():
    class Detached(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.pow(3)

        @staticmethod
        def backward(ctx, g):
            return g * 3 * ctx.saved_tensors[0].detach().pow(2)

    model = nn.Linear(3, 3)
    data = [torch.randn(5, 3, generator=torch.Generator().manual_seed(0))]
    H = hessian(model, data, loss=lambda m, x: Detached.apply(m(x)).pow(2).sum())
    with pytest.raises(NumericalError, match="difference of gradients"):
        check_difference(H)
    sound = hessian(model, data, loss=lambda m, x: m(x).pow(3).pow(2).sum())
    assert check_difference(sound) <= 1e-8


@pytest.mark.parametrize("frequency", [1e6, 1e9])
def test_a_sharp_bend_is_no_missing_derivative(frequency):
    """The gradient turns around within a millionth, or a thousandth of that, of the weights."""
    model = nn.Linear(4, 1, bias=False).double()
    nn.init.constant_(model.weight, 0.5)

    def loss(model, batch):
        return (torch.cos(frequency * model.weight) / frequency**2).mean()

    H = hessian(model, [torch.zeros(1)], loss=loss, params="all", dtype="float64")
    assert check_difference(H) < 0.05
