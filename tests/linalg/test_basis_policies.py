"""Where the basis lives, in which type: what it costs and what is lost without one."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spectra.errors import UsageError
from spectra.linalg import BasisPolicy, Lanczos, SymmetricOperator, probe
from spectra.linalg.space import DenseSpace
from spectra.quadrature import sharp_bounds
from tests.linalg.dense import basis_of, diagonal, jacobi, outliers_and_bulk

N, M, OUTLIERS = 4000, 80, 12
LAM = outliers_and_bulk(N, OUTLIERS)


def run(where: str, dtype: torch.dtype | None, steps: int = M) -> Lanczos:
    start = probe(N, seed=0)
    policy = BasisPolicy(where, dtype)  # type: ignore[arg-type]
    return Lanczos(diagonal(LAM, torch.float32), start, basis=policy).extend(steps)


def count_outliers(lanczos: Lanczos) -> int:
    return int((np.linalg.eigvalsh(jacobi(lanczos)) > 2).sum())


@pytest.mark.parametrize(
    ("where", "dtype", "least", "most"),
    [
        # Two passes leave each stored vector's own rounding: some units in its last place.
        ("device", torch.float32, 1e-9, 2e-5),
        ("host", torch.float32, 1e-9, 2e-5),
        ("device", torch.float64, 1e-9, 2e-5),
        ("device", torch.float16, 1e-5, 5e-3),
        ("host", torch.bfloat16, 1e-4, 4e-2),
    ],
)
def test_stored_bases_keep_orthogonality_and_count_outliers_once(
    where: str, dtype: torch.dtype, least: float, most: float
) -> None:
    lanczos = run(where, dtype)
    assert least < lanczos.orthogonality_loss() < most
    assert count_outliers(lanczos) == OUTLIERS
    theta = np.linalg.eigvalsh(jacobi(lanczos))
    rounding = lanczos.policy.rounding(N, M, torch.float32)
    assert (rounding > 0) == (dtype in (torch.float16, torch.bfloat16))
    error = (1e-6 + rounding) * LAM[-1]
    np.testing.assert_allclose(theta[-OUTLIERS:], LAM[-OUTLIERS:], rtol=0, atol=error)


def test_without_a_basis_outliers_come_back_as_ghosts() -> None:
    lanczos = run("none", None)
    assert count_outliers(lanczos) > OUTLIERS
    theta = np.linalg.eigvalsh(jacobi(lanczos))
    for value in theta[theta > 2]:  # every ghost is a copy of an eigenvalue, or on its way to one
        assert np.abs(LAM[-OUTLIERS:] - value).min() < 3.2
    assert np.isnan(lanczos.orthogonality_loss())
    assert count_outliers(run("none", None, 2 * M)) > count_outliers(lanczos)
    with pytest.raises(UsageError, match="need the basis"):
        lanczos.ritz_vectors(np.eye(M))


def test_reorthogonalization_is_what_keeps_the_vectors_orthogonal() -> None:
    start = probe(N, seed=0)
    op = diagonal(LAM, torch.float32)
    assert Lanczos(op, start, passes=0).extend(M).orthogonality_loss() > 0.5
    assert Lanczos(op, start, passes=2).extend(M).orthogonality_loss() < 2e-5


class Counting(DenseSpace):
    """Counts the passes over the basis."""

    passes = 0

    def gram(self, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return super().gram(rows, x)


def test_one_pass_is_as_good_as_two_where_the_recurrence_holds() -> None:
    space = Counting()
    lanczos = Lanczos(diagonal(LAM, torch.float32), probe(N, seed=0), space=space).extend(M)
    assert space.passes == M
    twice = lanczos.orthogonality_loss()
    Q = basis_of(lanczos).copy()
    for j in range(1, M):  # a second pass over what was stored changes nothing that counts
        Q[j] -= Q[:j].T @ (Q[:j] @ Q[j])
    assert twice < 2e-5
    assert np.abs(Q @ Q.T - np.eye(M)).max() > twice / 10


def test_next_to_a_breakdown_a_second_pass_is_made() -> None:
    """All but 1e-7 of the start lies in five eigenvectors: step 5 leaves mostly rounding."""
    lam = np.linspace(-1, 1, 400)
    start = torch.full((400,), 1e-8)
    start[[0, 90, 200, 310, 399]] = 1.0
    space = Counting()
    run = Lanczos(diagonal(lam, torch.float32), start, space=space).extend(12)
    assert 12 < space.passes < 24
    assert run.orthogonality_loss() < 1e-6


def band(lanczos: Lanczos, tau: float) -> float:
    low, high = sharp_bounds(lanczos.alphas[0], lanczos.betas[0], np.array([-tau, tau]))
    return float((high[1] - low[0]) - max(low[1] - high[0], 0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_converged_ritz_vectors_do_the_work_of_the_whole_basis(dtype: torch.dtype) -> None:
    start, op = probe(N, seed=0, dtype=dtype), diagonal(LAM, dtype)
    whole = Lanczos(op, start).extend(4 * M)
    part = Lanczos(op, start).extend(M)
    part.condense()
    stored, room = part._bases[0].size, part._bases[0]._rows.shape[0]
    assert OUTLIERS <= stored < M // 2
    part.extend(3 * M)
    assert (part._bases[0].size, part._bases[0]._rows.shape[0]) == (stored, room)
    none = Lanczos(op, start, basis=BasisPolicy("none")).extend(4 * M)
    assert count_outliers(part) == count_outliers(whole) == OUTLIERS < count_outliers(none)
    tau = float(np.quantile(np.abs(LAM), 0.5))
    assert band(part, tau) < 1.3 * band(whole, tau)
    assert band(part, tau) < 0.5 * band(none, tau)
    np.testing.assert_array_equal(part.alphas[0, :M], whole.alphas[0, :M])
    assert part.condensed_error < 1e-5 * LAM[-1]
    assert part.orthogonality_loss() < 1e-5
    with pytest.raises(UsageError, match="need the basis"):
        part.ritz_vectors(np.eye(4 * M))


def test_a_condensed_run_goes_on_from_its_state() -> None:
    start, op = probe(N, seed=0), diagonal(LAM, torch.float32)
    run = Lanczos(op, start).extend(M)
    run.condense()
    state = run.extend(5).state_dict()
    again = Lanczos(op, start)
    again.load_state_dict(state)
    np.testing.assert_array_equal(run.extend(9).alphas, again.extend(9).alphas)
    assert run.condensed_error == again.condensed_error


def test_before_anything_has_converged_nothing_is_kept() -> None:
    start, op = probe(N, seed=0, dtype=torch.float64), diagonal(LAM, torch.float64)
    run = Lanczos(op, start).extend(5)
    run.condense()
    assert run._bases[0].size == 0
    full = Lanczos(op, start).extend(10)
    np.testing.assert_allclose(run.extend(5).alphas, full.alphas, atol=1e-10)
    assert run.condensed_error == 0


def test_half_precision_is_stored_scaled_so_that_no_entry_is_subnormal() -> None:
    """√n q has entries near 1: at n = 2²⁵ those of q would be below float16's normal range."""
    n = 1 << 25
    start = torch.ones(n)
    op = SymmetricOperator.from_matvec(lambda v: v.roll(1) + v.roll(-1), n)
    lanczos = Lanczos(op, start, basis=BasisPolicy("device", torch.float16)).extend(1)
    stored = lanczos.state_dict()["bases"][0]
    assert stored.dtype == torch.float16
    assert float(stored.min()) == float(stored.max()) == 1.0
    assert 1 / n**0.5 < 2 * torch.finfo(torch.float16).smallest_normal * 2
    assert lanczos.orthogonality_loss() < 1e-3


@pytest.mark.parametrize(
    "policy",
    [
        BasisPolicy(),
        BasisPolicy("host", torch.float32),
        BasisPolicy("device", torch.float16),
        BasisPolicy("device", torch.bfloat16),
    ],
)
def test_ritz_vectors_of_stored_bases_are_eigenvectors(policy: BasisPolicy) -> None:
    lanczos = Lanczos(diagonal(LAM, torch.float32), probe(N, seed=0), basis=policy).extend(M)
    _, Y = np.linalg.eigh(jacobi(lanczos))
    top = lanczos.ritz_vectors(Y[:, -1:])[0].double().numpy()
    assert np.abs(top[-1]) == pytest.approx(1, abs=0.02)
    assert np.linalg.norm(LAM * top - LAM[-1] * top) < 0.02 * LAM[-1]
    assert basis_of(lanczos).shape == (M, N)


def test_bytes_and_words_of_a_policy() -> None:
    assert BasisPolicy().nbytes(1000, 60, torch.float32) == 240_000
    assert BasisPolicy("host", torch.float16).nbytes(1000, 60, torch.float32) == 120_000
    assert BasisPolicy("none").nbytes(1000, 60, torch.float32) == 0
    assert BasisPolicy().describe() == "device, working dtype"
    assert BasisPolicy("host", torch.bfloat16).describe() == "host, bfloat16"
    assert BasisPolicy("none").describe() == "none"
    with pytest.raises(UsageError, match="'disk'"):
        BasisPolicy("disk")  # type: ignore[arg-type]


class LiveBytes(TorchDispatchMode):
    """The most bytes of tensor storage alive at once, and the largest single one, while on."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.note(leaf.untyped_storage())
        return result

    def note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.live:
            weakref.finalize(storage, self.live.pop, key, None)
            self.live[key] = storage.nbytes()
            self.largest = max(self.largest, storage.nbytes())
            self.peak = max(self.peak, sum(self.live.values()))


@pytest.mark.parametrize(
    "policy",
    [BasisPolicy(), BasisPolicy("none"), BasisPolicy("device", torch.float16)],
)
def test_memory_is_the_basis_and_a_handful_of_vectors(policy: BasisPolicy) -> None:
    n, m = 1 << 20, 24
    op = SymmetricOperator.from_matvec(lambda v: v.roll(1) + v.roll(-1), n)
    start = probe(n, seed=0)
    basis = policy.nbytes(n, m, torch.float32)
    gc.collect()
    with LiveBytes() as counted:
        lanczos = Lanczos(op, start, basis=policy).extend(m)
        lanczos.orthogonality_loss()
    vector = 4 * n
    tiles = 12 * (1 << 20)  # one converted tile in float32, one in float64
    assert basis <= counted.largest <= max(basis, vector, tiles)
    assert counted.peak <= basis + 8 * vector + tiles
    assert counted.peak >= basis + 3 * vector  # the count sees the vectors
