"""Trace estimators: exact where they must be, covered by their intervals, better where promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spectra.errors import NumericalError, UsageError
from spectra.linalg import SymmetricOperator, probe, trace
from spectra.quadrature import Estimate
from tests.linalg.dense import F64, diagonal, rotated

N = 200
METHODS = ("hutchinson", "hutch++", "xtrace")
SPECTRA = {
    "geometric": 0.8 ** np.arange(N),
    "step": np.where(np.arange(N) < 20, 1.0, 1e-3),
    "indefinite": np.random.default_rng(0).standard_normal(N),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_cover_the_trace(method: str, name: str) -> None:
    lam = SPECTRA[name]
    op, truth = SymmetricOperator.from_matrix(rotated(lam)), float(lam.sum())
    found = [trace(op, method=method, num_matvecs=30, seed=seed) for seed in range(120)]
    hits = sum(e.lower <= truth <= e.upper for e in found)
    assert hits >= 0.94 * 120
    errors = np.array([e.value - truth for e in found])
    stderrs = np.array([e.stderr for e in found])
    assert abs(errors.mean()) <= 4 * errors.std() / math.sqrt(120) + 1e-12  # no bias
    assert 0.5 < np.sqrt(np.mean(stderrs**2)) / errors.std() < 2


def test_decaying_spectra_are_better_served_by_sketches() -> None:
    lam = SPECTRA["geometric"]
    op, truth = SymmetricOperator.from_matrix(rotated(lam)), float(lam.sum())
    error = {
        method: np.sqrt(np.mean([
            (trace(op, method=method, num_matvecs=48, seed=s).value - truth) ** 2
            for s in range(12)
        ]))
        for method in METHODS
    }  # fmt: skip
    assert error["hutch++"] < error["hutchinson"] / 5
    assert error["xtrace"] < error["hutch++"] / 2


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
def test_low_rank_is_exact_even_when_the_sketch_is_rank_deficient(method: str) -> None:
    lam = np.zeros(N)
    lam[:5] = [3.0, -1.0, 0.5, 7.0, 1e-3]
    op = SymmetricOperator.from_matrix(rotated(lam))
    found = trace(op, method=method, num_matvecs=36)
    assert found.value == pytest.approx(lam.sum(), abs=1e-11)
    assert found.stderr < 1e-11
    zero = trace(diagonal(np.zeros(N)), method=method, num_matvecs=36)
    assert (zero.value, zero.stderr) == (0, 0)


def test_the_identity_has_no_variance() -> None:
    op = diagonal(np.full(N, 2.5))
    for method in ("hutchinson", "xtrace"):  # Hutch++ does not normalize its residuals
        found = trace(op, method=method, num_matvecs=24)
        assert found.value == pytest.approx(2.5 * N, rel=1e-12)
        assert found.stderr <= 1e-9


def naive_xtrace(A: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return XTrace's k basic estimates from k QR factorizations, one for each left-out column."""
    n = A.shape[0]
    Omega = math.sqrt(n) * np.stack(
        [probe(n, seed=seed, probe=i, dtype=F64).numpy() for i in range(k)], axis=1
    )
    out = []
    for i in range(k):
        Q = np.linalg.qr(A @ np.delete(Omega, i, axis=1))[0]
        r = Omega[:, i] - Q @ (Q.T @ Omega[:, i])
        out.append(np.trace(Q.T @ A @ Q) + (n - k + 1) / (r @ r) * (r @ A @ r))
    return np.array(out)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_updating_formula_is_leaving_one_out(name: str) -> None:
    A = rotated(SPECTRA[name])
    samples = naive_xtrace(A.numpy(), 15, seed=4)
    found = trace(SymmetricOperator.from_matrix(A), method="xtrace", num_matvecs=30, seed=4)
    assert found.value == pytest.approx(samples.mean(), rel=1e-9)
    assert found.stderr == pytest.approx(samples.std(ddof=1) / math.sqrt(15), rel=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_as_many_products_as_dimensions_give_the_trace(method: str) -> None:
    calls = []
    A = rotated(SPECTRA["indefinite"][:40])

    def product(v: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return A @ v

    op = SymmetricOperator.from_matvec(product, 40, dtype=F64)
    found = trace(op, method=method, num_matvecs=500)
    assert len(calls) == 40
    assert found.value == pytest.approx(float(A.trace()), rel=1e-12)
    assert found.stderr == 0
    assert found.lower < found.value < found.upper  # products round
    assert found.width < 1e-11


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("products", [6, 17, 30])
def test_no_more_products_than_asked_for(method: str, products: int) -> None:
    calls = []
    values = torch.linspace(-1, 1, N, dtype=F64)

    def product(v: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return values * v

    trace(SymmetricOperator.from_matvec(product, N, dtype=F64), method=method, num_matvecs=products)
    assert products - 1 <= len(calls) <= products


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_number_and_other_seed_another(method: str) -> None:
    op = diagonal(SPECTRA["geometric"])
    one = trace(op, method=method, num_matvecs=12, seed=1)
    assert one == trace(op, method=method, num_matvecs=12, seed=1)
    assert isinstance(one, Estimate)
    if method != "hutchinson":  # Rademacher probes have no variance on a diagonal
        assert one.value != trace(op, method=method, num_matvecs=12, seed=2).value
    spherical = trace(op, method="hutchinson", num_matvecs=12, kind="sphere")
    scale = abs(spherical.value) + spherical.stderr
    assert spherical.stderr > 1e-6 * scale
    # On a diagonal Rademacher probes have no variance, so what is left is rounding.
    assert trace(op, method="hutchinson", num_matvecs=12).stderr < 1e-12 * scale


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_operators(method: str, dtype: torch.dtype) -> None:
    A = rotated(SPECTRA["step"]).to(dtype)
    A = (A + A.T) / 2
    op = SymmetricOperator.from_matrix(A)
    error = float(torch.finfo(dtype).eps)
    op.product_error = error
    found = trace(op, method=method, num_matvecs=48)
    assert found.lower <= float(A.double().trace()) <= found.upper
    assert found.width >= 2 * N * error


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**50])
@pytest.mark.parametrize("method", METHODS)
def test_scaling(method: str, factor: float) -> None:
    lam = SPECTRA["geometric"]
    one = trace(diagonal(lam), method=method, num_matvecs=20)
    two = trace(diagonal(factor * lam), method=method, num_matvecs=20)
    assert two.value == pytest.approx(factor * one.value, rel=1e-12)
    assert two.stderr == pytest.approx(factor * one.stderr, rel=1e-6, abs=1e-12 * factor)


def test_all_products_in_low_precision_are_as_wrong_as_they_are() -> None:
    A = rotated(SPECTRA["step"])
    for dtype in (torch.float32, torch.bfloat16):
        B = A.to(dtype)
        B = (B + B.T) / 2
        found = trace(SymmetricOperator.from_matrix(B), num_matvecs=N)
        assert found.lower < float(B.double().trace()) < found.upper
    zero = trace(diagonal(np.zeros(N)), num_matvecs=N)
    assert zero.lower < 0 < zero.upper  # a product may have underflowed


def test_few_rademacher_probes_have_no_interval() -> None:
    """A probe with entries ±1 sees (e₁ + e₂)(e₁ + e₂)ᵀ every second time."""
    A = torch.zeros(N, N, dtype=F64)
    A[:2, :2] = 1.0
    op = SymmetricOperator.from_matrix(A)
    values = {trace(op, method="hutchinson", num_matvecs=2, kind="rademacher", seed=s).value
              for s in range(20)}  # fmt: skip
    assert 0.0 in values
    blind = trace(op, method="hutchinson", num_matvecs=5, kind="rademacher")
    assert (blind.lower, blind.upper) == (-math.inf, math.inf)
    assert "no interval" in blind.note
    found = [trace(op, method="hutchinson", num_matvecs=5, seed=seed) for seed in range(100)]
    assert sum(e.lower < 2 < e.upper for e in found) >= 94  # spherical, therefore


@pytest.mark.parametrize("values", [(1.0,), (1.0, 2.0, 5.0), (100.0, -100.0), (1.0, -3.0)])
@pytest.mark.parametrize(("method", "products"), [("hutchinson", 8), ("hutchinson", 32)])
@pytest.mark.parametrize("kind", ["sphere", "rademacher"])
def test_few_large_eigenvalues_are_covered(values, method, products, kind) -> None:
    """Student's t held 82 to 89 % of these."""
    lam = np.append(values, 1e-3 * SPECTRA["indefinite"][: N - len(values)])
    op, truth = SymmetricOperator.from_matrix(rotated(lam)), float(lam.sum())
    found = [
        trace(op, method=method, num_matvecs=products, kind=kind, seed=seed) for seed in range(100)
    ]
    assert sum(e.lower <= truth <= e.upper for e in found) >= 94


REFUSED = {
    "hutch": {"method": "hutch"},
    "num_matvecs=1": {"method": "hutchinson", "num_matvecs": 1},
    "num_matvecs=5": {"method": "hutch++", "num_matvecs": 5},
    "num_matvecs=3": {"method": "xtrace", "num_matvecs": 3},
    "kind='rademacher'": {"method": "xtrace", "kind": "rademacher"},
    "confidence=2": {"confidence": 2},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_refused_is_named(words: str) -> None:
    with pytest.raises(UsageError, match=words):
        trace(diagonal(SPECTRA["geometric"]), **REFUSED[words])


@pytest.mark.parametrize("method", METHODS)
def test_products_that_are_not_finite(method: str) -> None:
    op = SymmetricOperator.from_matvec(lambda v: v * float("nan"), N, dtype=F64)
    with pytest.raises(NumericalError, match="not finite"):
        trace(op, method=method, num_matvecs=12)
