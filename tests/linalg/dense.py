"""Small dense symmetric matrices with known spectra, and what is asked of a Lanczos run on them."""

from __future__ import annotations

import numpy as np
import torch

from spectra.linalg import Lanczos, SymmetricOperator, probe

F64 = torch.float64


def rotated(lam: np.ndarray, seed: int = 0) -> torch.Tensor:
    """Return U diag(lam) Uᵀ with a random orthogonal U."""
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((lam.size, lam.size)))[0]
    A = (U * lam) @ U.T
    return torch.from_numpy((A + A.T) / 2)


def diagonal(lam: np.ndarray, dtype: torch.dtype = F64) -> SymmetricOperator:
    values = torch.from_numpy(np.ascontiguousarray(lam)).to(dtype)
    return SymmetricOperator.from_matvec(lambda v: values * v, lam.size, dtype=dtype)


def outliers_and_bulk(n: int, outliers: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    bulk = 0.05 * rng.standard_normal(n - outliers)
    return np.sort(np.concatenate([bulk, np.linspace(5, 40, outliers)]))


def jacobi(lanczos: Lanczos, p: int = 0) -> np.ndarray:
    """Return T_m of run `p` as a dense matrix."""
    m = int(lanczos.steps[p])
    off = lanczos.betas[p, : m - 1]
    return np.diag(lanczos.alphas[p, :m]) + np.diag(off, 1) + np.diag(off, -1)


def basis_of(lanczos: Lanczos, p: int = 0) -> np.ndarray:
    """Return the Lanczos vectors of run `p` as rows (m, n)."""
    return lanczos.ritz_vectors(np.eye(int(lanczos.steps[p])), p).double().numpy()


def starts(n: int, count: int, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.stack([probe(n, seed=1, probe=p, dtype=dtype) for p in range(count)])
