"""Operators from matrices, SciPy and callables, and back to SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from spectra.errors import UsageError
from spectra.linalg import Lanczos, SymmetricOperator, probe
from tests.linalg.dense import F64, rotated

A = rotated(np.linspace(-1, 2, 30))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_matrix(dtype: torch.dtype) -> None:
    matrix = A.to(dtype)
    op = SymmetricOperator.from_matrix(matrix)
    V = torch.randn(4, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert (op.dim, op.dtype, op.device) == (30, dtype, torch.device("cpu"))
    assert op.product_error is None
    tolerance = 60 * torch.finfo(dtype).eps
    torch.testing.assert_close(op.matvec(V[0]), matrix @ V[0])
    for row, product in zip(V, op.matvecs(V), strict=True):
        torch.testing.assert_close(product, op.matvec(row), rtol=tolerance, atol=tolerance)


def test_integers_and_arrays_become_float64() -> None:
    op = SymmetricOperator.from_matrix(np.array([[2, 1], [1, 3]]))
    assert op.dtype == F64
    assert op.matvec(torch.tensor([1.0, 1.0], dtype=F64)).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (torch.zeros(2, 3), "shape (2, 3)"),
        (torch.zeros(3), "shape (3,)"),
        (torch.zeros(0, 0), "shape (0, 0)"),
        (torch.tensor([[1.0, 2.0], [2.5, 1.0]]), "differs from its transpose by 0.5"),
        (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), "not finite"),
        (torch.tensor([[1.0, float("inf")], [float("inf"), 1.0]]), "not finite"),
    ],
)
def test_matrices_that_are_refused(matrix: torch.Tensor, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        SymmetricOperator.from_matrix(matrix)
    assert words in str(caught.value)


def test_asymmetry_at_rounding_level_is_no_asymmetry() -> None:
    SymmetricOperator.from_matrix(A * (1 + 1e-16 * torch.randn_like(A)))


@pytest.mark.parametrize("wrap", [np.asarray, scipy.sparse.csr_matrix, "operator"])
def test_anything_scipy_accepts(wrap) -> None:
    dense = A.numpy()
    given = LinearOperator((30, 30), matvec=lambda x: dense @ x) if wrap == "operator" else wrap(A)
    op = SymmetricOperator.from_scipy(given)
    v = probe(30, seed=0, dtype=F64)
    torch.testing.assert_close(op.matvec(v), A @ v)
    single = SymmetricOperator.from_scipy(given, dtype=torch.float32)
    assert single.matvec(v.float()).dtype == torch.float32
    with pytest.raises(UsageError, match=r"\(2, 3\) is not square"):
        SymmetricOperator.from_scipy(np.ones((2, 3)))


def test_to_scipy_has_the_same_eigenvalues() -> None:
    scipy_op = SymmetricOperator.from_matrix(A.float()).to_scipy()
    assert (scipy_op.shape, scipy_op.dtype) == ((30, 30), np.float64)
    top = eigsh(scipy_op, k=3, which="LA", v0=np.ones(30), return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(top), np.linspace(-1, 2, 30)[-3:], atol=1e-6)
    np.testing.assert_allclose(scipy_op @ np.eye(30), A.numpy(), atol=1e-6)
    np.testing.assert_allclose(scipy_op.T @ np.ones(30), A.numpy() @ np.ones(30), atol=1e-6)


def test_there_and_back() -> None:
    op = SymmetricOperator.from_matrix(A)
    again = SymmetricOperator.from_scipy(op.to_scipy())
    v = probe(30, seed=0, dtype=F64)
    assert torch.equal(op.matvec(v), again.matvec(v))


def test_a_callable_that_returns_its_argument() -> None:
    op = SymmetricOperator.from_matvec(lambda v: v, 20, dtype=F64)
    v = probe(20, seed=0, dtype=F64)
    kept = v.clone()
    op.matvec(v).zero_()
    assert torch.equal(v, kept)
    lanczos = Lanczos(op, v).extend(5)
    assert (lanczos.alphas[0, 0], int(lanczos.steps[0])) == (pytest.approx(1, abs=1e-15), 1)
    assert torch.equal(v, kept)


def test_a_callable_that_uses_one_buffer() -> None:
    buffer = torch.empty(30, dtype=F64)
    reusing = SymmetricOperator.from_matvec(lambda v: torch.mv(A, v, out=buffer), 30, dtype=F64)
    fresh = SymmetricOperator.from_matvec(lambda v: A @ v, 30, dtype=F64)
    v = torch.stack([probe(30, seed=0, probe=p, dtype=F64) for p in range(2)])
    one, two = Lanczos(reusing, v).extend(12), Lanczos(fresh, v).extend(12)
    np.testing.assert_array_equal(one.alphas, two.alphas)
    np.testing.assert_array_equal(one.betas, two.betas)


def test_a_callable_whose_product_has_a_graph() -> None:
    weight = torch.linspace(1, 2, 10, dtype=F64).requires_grad_()
    op = SymmetricOperator.from_matvec(lambda v: weight * v, 10, dtype=F64)
    assert not op.matvec(torch.ones(10, dtype=F64)).requires_grad
    assert Lanczos(op, probe(10, seed=0, dtype=F64)).extend(4).num_steps == 4


def test_callables_that_are_refused() -> None:
    with pytest.raises(UsageError, match="dim=0"):
        SymmetricOperator.from_matvec(lambda v: v, 0)
    wrong = SymmetricOperator.from_matvec(lambda v: v[:3], 5)
    with pytest.raises(UsageError, match=r"shape \(3,\) for a vector of \(5,\)"):
        wrong.matvec(torch.ones(5))
