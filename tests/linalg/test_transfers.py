"""Pieces cover a matrix once, are contiguous, and orthogonalize as the whole does."""

from __future__ import annotations

import pytest
import torch

from spectra.linalg import BasisPolicy
from spectra.linalg.basis import Basis
from spectra.linalg.transfers import pieces

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [1, 5, 12, 13, 36, 100])
def test_pieces_cover_a_matrix_once(size):
    rows = torch.arange(7 * 12.0).view(7, 12)
    seen = torch.zeros(7, 12)
    for across, along, piece in pieces(rows, CPU, torch.float64, size):
        seen[across, along] += 1
        assert piece.numel() <= size
        assert rows[across, along].is_contiguous()
        assert torch.equal(piece, rows[across, along].double())
    assert torch.equal(seen, torch.ones(7, 12))
    assert list(pieces(rows[:0], CPU, torch.float64, size)) == []


@pytest.mark.parametrize("stored", [None, torch.float16])
def test_streamed_is_tiled(stored):
    n, count = 300, 8
    basis = Basis(n, BasisPolicy("host", stored), torch.float32, CPU)
    for row in torch.linalg.qr(torch.randn(n, count))[0].T:
        basis.append(row)
    x, y = (torch.randn(n, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    found = basis.coefficients(x)
    basis.remove(found, x)
    basis._pinned = True  # as it is where the vectors are on a GPU
    streamed = basis.coefficients(y)
    basis.remove(streamed, y)
    torch.testing.assert_close(streamed, found)
    torch.testing.assert_close(y, x)
    assert float((basis.rows().float() @ y).abs().max()) < (1e-5 if stored is None else 0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [5, 36, 1000])
def test_on_a_gpu(size):
    rows = torch.randn(7, 12).pin_memory()
    x = torch.randn(12, device="cuda")
    found = torch.zeros(7, device="cuda")
    for across, along, piece in pieces(rows, torch.device("cuda"), torch.float32, size):
        found[across] += piece @ x[along]
    torch.testing.assert_close(found, rows.cuda() @ x)
