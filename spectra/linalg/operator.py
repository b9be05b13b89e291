"""Symmetric linear operators: all that Lanczos ever sees of a matrix.

An operator has a dimension, a dtype, a device and a product. Everything of size `dim` is a flat
torch vector; several vectors at once are the rows of a (k, dim) matrix, so that each stays
contiguous. Whether the operator is a dense matrix, a SciPy operator or the Hessian of a language
model is not known below this interface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse.linalg
import torch

from spectra.errors import UsageError
from spectra.linalg.space import DenseSpace, VectorSpace

Product = Callable[[torch.Tensor], torch.Tensor]


class SymmetricOperator(ABC):
    """A real symmetric linear map of dimension `dim`, known by its products.

    Attributes:
        dim: Dimension n.
        dtype: dtype of the vectors a product takes and returns.
        device: Where those vectors live.
        product_error: Absolute error ‖(H_work − H)q‖ of one product with a unit vector, where it
            has been measured; None where it has not.
        space: The vector space of the vectors it takes and returns.
    """

    dim: int
    dtype: torch.dtype
    device: torch.device
    product_error: float | None = None
    space: VectorSpace = DenseSpace()

    @abstractmethod
    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        """Return the product with `v`, (n,), as a new tensor of the operator's dtype."""

    def matvecs(self, V: torch.Tensor) -> torch.Tensor:
        """Return the products with the rows of `V`, (k, n)."""
        return torch.stack([self.matvec(row) for row in V])

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """Return this operator as a float64 SciPy LinearOperator (products cross to the host)."""

        def product(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            v = torch.as_tensor(np.ascontiguousarray(x).reshape(-1))
            return self.matvec(v.to(self.device, self.dtype)).double().cpu().numpy()

        return scipy.sparse.linalg.LinearOperator(
            shape=(self.dim, self.dim), matvec=product, rmatvec=product, dtype=np.dtype(np.float64)
        )

    @staticmethod
    def from_matrix(matrix: torch.Tensor | np.ndarray[Any, Any]) -> SymmetricOperator:
        """Return the operator of a dense symmetric matrix, (n, n).

        Raises:
            UsageError: If the matrix is not square or not symmetric to rounding.
        """
        A = torch.as_tensor(matrix)
        if A.ndim != 2 or A.shape[0] != A.shape[1] or A.shape[0] == 0:
            raise UsageError(f"a matrix of shape {tuple(A.shape)} is not square; pass (n, n).")
        if not A.is_floating_point():
            A = A.double()
        scale = float(A.abs().max())
        asymmetry = float((A - A.T).abs().max())
        if not asymmetry <= 64 * torch.finfo(A.dtype).eps * scale:
            raise UsageError(
                f"the matrix differs from its transpose by {asymmetry:.3g} (largest entry "
                f"{scale:.3g}) or is not finite; Lanczos needs a symmetric one: pass (A + A.T) / 2."
            )
        return _Matrix(A)

    @staticmethod
    def from_scipy(
        operator: Any, *, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu"
    ) -> SymmetricOperator:
        """Return the operator of anything SciPy accepts: array, sparse matrix, LinearOperator."""
        wrapped = scipy.sparse.linalg.aslinearoperator(operator)
        rows, columns = wrapped.shape
        if rows != columns:
            raise UsageError(f"an operator of shape {wrapped.shape} is not square; pass (n, n).")

        def product(v: torch.Tensor) -> torch.Tensor:
            result = wrapped.matvec(v.double().cpu().numpy())
            return torch.as_tensor(np.ascontiguousarray(result).reshape(-1)).to(v)

        return SymmetricOperator.from_matvec(product, rows, dtype=dtype, device=device)

    @staticmethod
    def from_matvec(
        product: Product,
        dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> SymmetricOperator:
        """Return the operator of a callable (n,) -> (n,); its symmetry is the caller's word."""
        if dim < 1:
            raise UsageError(f"dim={dim} is not a dimension; pass at least 1.")
        return _Callable(product, dim, dtype, torch.device(device))


class _Matrix(SymmetricOperator):
    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix
        self.dim, self.dtype, self.device = matrix.shape[0], matrix.dtype, matrix.device

    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        return self.matrix @ v

    def matvecs(self, V: torch.Tensor) -> torch.Tensor:
        return V @ self.matrix


class _Callable(SymmetricOperator):
    def __init__(
        self, product: Product, dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.product, self.dim, self.dtype, self.device = product, dim, dtype, device

    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        result = self.product(v)
        if result.shape != v.shape:
            raise UsageError(
                f"the product returned shape {tuple(result.shape)} for a vector of "
                f"{tuple(v.shape)}; a matvec maps (n,) to (n,)."
            )
        return result.detach().clone()  # it may be v itself, or a buffer the callable uses again
