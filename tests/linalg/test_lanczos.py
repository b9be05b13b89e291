"""The Lanczos recurrence: its identities, its ends, and its continuation."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from spectra.errors import NumericalError, UsageError
from spectra.linalg import BasisPolicy, Lanczos, SymmetricOperator, probe
from tests.linalg.dense import F64, basis_of, diagonal, jacobi, outliers_and_bulk, rotated, starts

N = 80
SPECTRA = {
    "flat": np.linspace(-1, 2, N),
    "geometric": 10.0 ** -np.linspace(0, 8, N),
    "outliers": outliers_and_bulk(N, 5),
    "indefinite": np.random.default_rng(0).standard_normal(N),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("steps", [1, N // 2, N - 1])
def test_the_identities_of_the_recurrence(name: str, steps: int) -> None:
    A = rotated(SPECTRA[name])
    lanczos = Lanczos(SymmetricOperator.from_matrix(A), starts(N, 1)).extend(steps)
    Q, T, scale = basis_of(lanczos), jacobi(lanczos), np.abs(SPECTRA[name]).max()
    m = int(lanczos.steps[0])
    assert m == steps
    np.testing.assert_allclose(Q @ Q.T, np.eye(m), atol=1e-13)
    assert lanczos.orthogonality_loss() <= 1e-13
    np.testing.assert_allclose(Q @ A.numpy() @ Q.T, T, atol=1e-13 * scale)
    # HQ = QT + β_m q_{m+1} e_mᵀ: the rest of the last column, and nothing elsewhere.
    rest = Q @ A.numpy() - T @ Q
    np.testing.assert_allclose(rest[:-1], 0, atol=1e-13 * scale)
    assert np.linalg.norm(rest[-1]) == pytest.approx(lanczos.betas[0, -1], abs=1e-13 * scale)
    np.testing.assert_allclose(Q @ rest[-1], 0, atol=1e-13 * scale)


@pytest.mark.parametrize("name", SPECTRA)
def test_full_depth_recovers_the_spectrum(name: str) -> None:
    lam = np.sort(SPECTRA[name])
    lanczos = Lanczos(SymmetricOperator.from_matrix(rotated(lam)), starts(N, 1)).extend(10 * N)
    assert lanczos.num_steps <= N
    assert lanczos.finished
    found = np.linalg.eigvalsh(jacobi(lanczos))
    scale = np.abs(lam).max()
    for value in found:
        assert np.abs(lam - value).min() <= 1e-13 * scale
    for value in lam:
        assert np.abs(found - value).min() <= 1e-10 * scale


@pytest.mark.parametrize("policy", [BasisPolicy(), BasisPolicy("none"), BasisPolicy("host")])
def test_two_extensions_are_one_bit_for_bit(policy: BasisPolicy) -> None:
    op = SymmetricOperator.from_matrix(rotated(SPECTRA["outliers"]).float())
    v = starts(N, 2, torch.float32)
    once = Lanczos(op, v, basis=policy).extend(37)
    twice = Lanczos(op, v, basis=policy).extend(11).extend(0).extend(26)
    np.testing.assert_array_equal(once.alphas, twice.alphas)
    np.testing.assert_array_equal(once.betas, twice.betas)


@pytest.mark.parametrize(
    "policy",
    [BasisPolicy(), BasisPolicy("none"), BasisPolicy("host", torch.float16)],
)
def test_a_saved_state_continues_bit_for_bit(policy: BasisPolicy) -> None:
    op = SymmetricOperator.from_matrix(rotated(SPECTRA["outliers"]).float())
    v = starts(N, 2, torch.float32)
    whole = Lanczos(op, v, basis=policy).extend(30)
    buffer = io.BytesIO()
    torch.save(Lanczos(op, v, basis=policy).extend(13).state_dict(), buffer)
    buffer.seek(0)
    resumed = Lanczos(op, torch.ones(2, N), basis=policy)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    resumed.extend(17)
    np.testing.assert_array_equal(whole.alphas, resumed.alphas)
    np.testing.assert_array_equal(whole.betas, resumed.betas)
    np.testing.assert_array_equal(whole.steps, resumed.steps)
    if policy.where != "none":
        np.testing.assert_array_equal(basis_of(whole), basis_of(resumed))


def test_a_state_is_a_copy() -> None:
    lanczos = Lanczos(diagonal(SPECTRA["flat"]), starts(N, 1)).extend(5)
    state = lanczos.state_dict()
    lanczos.extend(5)
    assert state["alphas"].shape == (1, 5)
    assert torch.equal(state["bases"][0], lanczos.state_dict()["bases"][0][:5])


def test_states_of_another_run_are_refused() -> None:
    state = Lanczos(diagonal(SPECTRA["flat"]), starts(N, 1)).extend(5).state_dict()
    with pytest.raises(UsageError, match=r"\(1, 80\), this run has \(2, 80\)"):
        Lanczos(diagonal(SPECTRA["flat"]), starts(N, 2)).load_state_dict(state)
    without = Lanczos(diagonal(SPECTRA["flat"]), starts(N, 1), basis=BasisPolicy("none"))
    with pytest.raises(UsageError, match="another basis policy than 'none'"):
        without.load_state_dict(state)
    half = Lanczos(
        diagonal(SPECTRA["flat"]), starts(N, 1), basis=BasisPolicy("device", torch.float16)
    )
    with pytest.raises(UsageError, match="another basis policy than 'device, float16'"):
        half.load_state_dict(state)


def test_a_block_of_probes_is_the_probes_one_by_one() -> None:
    op = diagonal(SPECTRA["indefinite"])
    block = Lanczos(op, starts(N, 3)).extend(25)
    assert block.alphas.shape == block.betas.shape == (3, 25)
    for p in range(3):
        alone = Lanczos(op, starts(N, 3)[p]).extend(25)
        np.testing.assert_array_equal(block.alphas[p], alone.alphas[0])
        np.testing.assert_array_equal(block.betas[p], alone.betas[0])


LOW_RANK = {
    "identity": (np.ones(N), 1),
    "zero": (np.zeros(N), 1),
    "projector": (np.repeat([0.0, 1.0], N // 2), 2),
    "three values": (np.repeat([-2.0, 0.0, 0.3, 0.3], N // 4), 3),
    "tiny scale": (1e-30 * np.repeat([0.0, 1.0], N // 2), 2),
    "huge scale": (1e30 * np.repeat([0.0, 1.0], N // 2), 2),
}


@pytest.mark.parametrize("name", LOW_RANK)
def test_breakdown_ends_the_run_and_leaves_the_exact_eigenvalues(name: str) -> None:
    lam, distinct = LOW_RANK[name]
    lanczos = Lanczos(diagonal(lam), starts(N, 1)).extend(30)
    scale = max(np.abs(lam).max(), 1e-300)
    assert lanczos.finished
    assert int(lanczos.steps[0]) == distinct
    np.testing.assert_allclose(
        np.linalg.eigvalsh(jacobi(lanczos) / scale), np.unique(lam) / scale, atol=1e-14
    )
    assert lanczos.extend(5).num_steps == distinct


def test_in_a_block_one_run_may_end_before_the_others() -> None:
    lam = SPECTRA["flat"]
    v = torch.zeros(2, N, dtype=F64)
    v[0, 3], v[0, 5] = 1, 1
    v[1] = probe(N, seed=0, dtype=F64)
    block = Lanczos(diagonal(lam), v).extend(10)
    alone = Lanczos(diagonal(lam), v[1]).extend(10)
    assert block.steps.tolist() == [2, 10]
    assert not block.finished
    np.testing.assert_array_equal(block.alphas[1], alone.alphas[0])
    np.testing.assert_array_equal(block.alphas[0, 2:], 0)
    np.testing.assert_array_equal(block.betas[0, 2:], 0)
    np.testing.assert_allclose(np.linalg.eigvalsh(jacobi(block)), lam[[3, 5]], atol=1e-14)
    # The rows after its end are no Lanczos vectors: not counted, not needed.
    assert block.orthogonality_loss() <= 1e-13
    assert basis_of(block, 0).shape == (2, N)
    assert basis_of(block, 1).shape == (10, N)


def test_steps_are_capped_at_the_dimension() -> None:
    lanczos = Lanczos(diagonal(np.array([1.0, 2.0, 4.0])), starts(3, 1)).extend(50)
    assert lanczos.num_steps == 3
    assert Lanczos(diagonal(np.array([7.0])), torch.ones(1)).extend(9).alphas.tolist() == [[7.0]]


def test_a_bfloat16_operator_has_float64_coefficients() -> None:
    A = rotated(SPECTRA["flat"]).bfloat16()
    A = (A + A.T) / 2
    lanczos = Lanczos(SymmetricOperator.from_matrix(A), starts(N, 1)).extend(20)
    assert lanczos.alphas.dtype == lanczos.betas.dtype == np.float64
    assert lanczos.vector_dtype == torch.float32
    exact = Lanczos(SymmetricOperator.from_matrix(A.double()), starts(N, 1)).extend(20)
    assert np.abs(lanczos.alphas - exact.alphas).max() < 0.05
    assert lanczos.orthogonality_loss() <= 1e-5
    # Coefficients are finer than bfloat16, in which products arrive.
    assert (
        np.abs(lanczos.alphas - torch.from_numpy(lanczos.alphas).bfloat16().double().numpy()).max()
        > 0
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 6])
def test_a_product_that_is_not_finite_is_an_error(value: float, at: int) -> None:
    values, calls = torch.linspace(1, 2, N, dtype=F64), []

    def product(v: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        out = values * v
        if len(calls) == at + 1:
            out[7] = value
        return out

    op = SymmetricOperator.from_matvec(product, N, dtype=F64)
    with pytest.raises(NumericalError, match=f"step {at + 1} is not finite"):
        Lanczos(op, starts(N, 1)).extend(10)


@pytest.mark.parametrize(
    "start",
    [torch.zeros(N), torch.full((N,), float("nan")), torch.full((N,), float("inf"))],
)
def test_start_vectors_without_direction_are_refused(start: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="zero or not finite"):
        Lanczos(diagonal(SPECTRA["flat"]), start)


@pytest.mark.parametrize("shape", [(N + 1,), (2, N - 1), (1, 1, N)])
def test_start_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="does not fit an operator of dimension 80"):
        Lanczos(diagonal(SPECTRA["flat"]), torch.ones(shape))


def test_start_vectors_are_normalized_and_not_touched() -> None:
    v = 17.0 * starts(N, 1)
    kept = v.clone()
    scaled = Lanczos(diagonal(SPECTRA["flat"]), v).extend(10)
    assert torch.equal(v, kept)
    unit = Lanczos(diagonal(SPECTRA["flat"]), starts(N, 1)).extend(10)
    np.testing.assert_allclose(scaled.alphas, unit.alphas, atol=1e-13)


@pytest.mark.parametrize("factor", [2.0**-27, 2.0**40])
def test_a_power_of_two_scales_the_coefficients_exactly(factor: float) -> None:
    for dtype in (torch.float32, torch.float64):
        A = rotated(SPECTRA["outliers"]).to(dtype)
        one = Lanczos(SymmetricOperator.from_matrix(A), starts(N, 1)).extend(30)
        two = Lanczos(SymmetricOperator.from_matrix(factor * A), starts(N, 1)).extend(30)
        np.testing.assert_array_equal(two.alphas, factor * one.alphas)
        np.testing.assert_array_equal(two.betas, factor * one.betas)


@pytest.mark.parametrize("factor", [1e-8, 1e-10, 1e12])
def test_any_factor_scales_the_ritz_values(factor: float) -> None:
    A = rotated(SPECTRA["indefinite"])
    one = Lanczos(SymmetricOperator.from_matrix(A), starts(N, 1)).extend(20)
    two = Lanczos(SymmetricOperator.from_matrix(factor * A), starts(N, 1)).extend(20)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(jacobi(two)), factor * np.linalg.eigvalsh(jacobi(one)),
        rtol=1e-10, atol=factor * 1e-12,
    )  # fmt: skip


def test_a_small_bulk_beside_an_outlier_is_no_breakdown() -> None:
    """Whatever the product error: β_1 is the rms eigenvalue, δ the error along the outlier."""
    lam = np.concatenate([1e-9 * np.linspace(-1, 1, N - 1), [100.0]])
    for error in (None, 1e-6, 10.0):
        operator = diagonal(lam)
        operator.product_error = error
        assert int(Lanczos(operator, starts(N, 1)).extend(20).steps[0]) == 20


def test_observers_see_vectors_and_products() -> None:
    A = rotated(SPECTRA["flat"])
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    lanczos = Lanczos(SymmetricOperator.from_matrix(A), starts(N, 2))
    lanczos.extend(6, observe=lambda step, Q, HQ: seen.append((step, Q.clone(), HQ.clone())))
    assert [step for step, _, _ in seen] == list(range(6))
    for _, Q, HQ in seen:
        torch.testing.assert_close(HQ, Q @ A, rtol=0, atol=1e-14)
    np.testing.assert_allclose(torch.stack([Q[1] for _, Q, _ in seen]), basis_of(lanczos, 1))
