"""Exact spectra: dense truth, every functional, records, comparisons, refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import analysis
import spectra
from spectra import quadrature, quant
from spectra.errors import UsageError
from spectra.estimation.engine import exact
from spectra.estimation.exact import check_size
from spectra.linalg import SymmetricOperator
from spectra.quadrature.windows import window

N = 60
RNG = np.random.default_rng(0)
LAM = np.sort(np.concatenate([RNG.laplace(size=N - 5) * 0.1, np.zeros(3), [4.0, -2.0]]))


def operator(noise: float = 0.0) -> SymmetricOperator:
    Q, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((N, N)))
    A = Q @ np.diag(LAM) @ Q.T
    A = (A + A.T) / 2 + noise * np.random.default_rng(2).standard_normal((N, N))
    A = torch.from_numpy(A)
    return SymmetricOperator.from_matvec(lambda v: A @ v, N, dtype=torch.float64)


@pytest.fixture(scope="module")
def found() -> spectra.Spectrum:
    return exact(operator(), progress=False)


def test_every_number_is_that_of_the_eigenvalues(found: spectra.Spectrum) -> None:
    close = pytest.approx
    assert found.exact
    assert found.complete
    np.testing.assert_allclose(found.alphas[0, 0], LAM, atol=1e-12)
    assert found.measure.delta < 1e-11
    for a, b in ((-0.05, 0.05), (0.2, 5.0), (-np.inf, 0.01)):
        mass = found.mass(a, b)
        true = float(np.mean((a <= LAM) & (b >= LAM)))
        assert (mass.lower, mass.value, mass.upper) == close((true, true, true), abs=1e-12)
    for order in (1, 2, 4):
        share = found.soft_mass(0.05, order)
        true = float(window(LAM, 0.05, order).mean())
        assert (share.lower, share.upper) == close((true, true), abs=1e-9)
    low, high = found.extremes()
    assert (low.lower, low.upper) == close((LAM[0], LAM[0]), abs=1e-10)
    assert (high.lower, high.upper) == close((LAM[-1], LAM[-1]), abs=1e-10)
    for power in (1, 2, 3):
        moment = found.moment(power)
        assert (moment.lower, moment.upper) == close(((LAM**power).mean(),) * 2, abs=1e-9)
    assert found.quantile(0.5).value == close(np.median(LAM), abs=0.02)
    assert found.mean_magnitude().value == close(np.abs(LAM).mean())
    assert found.log_determinant(0.1).value == close(np.log1p((LAM / 0.1) ** 2).mean())
    assert found.effective_dimension(0.1).value == close((LAM**2 / (LAM**2 + 0.01)).sum())
    grid = np.linspace(-3, 5, 50)
    density = found.smoothed_density(grid, 0.1)
    true = (0.1 / np.pi / ((grid[:, None] - LAM) ** 2 + 0.01)).mean(axis=1)
    np.testing.assert_allclose(density.lower, true, rtol=1e-8)
    np.testing.assert_allclose(density.upper, true, rtol=1e-8)
    assert found.smoothed_density(grid).width.min() > 0
    assert found.resolution()[0] <= 1e-5
    assert quadrature.mass_band(found.measure, np.array([0.05])).lower[0] == close(
        np.mean(np.abs(LAM) <= 0.05)
    )
    assert found.density(grid).sum() > 0


def test_estimates_contain_the_exact_numbers(found: spectra.Spectrum) -> None:
    estimate = spectra.slq(operator(), num_probes=4, lanczos_steps=30, progress=False)
    for ask in (
        lambda s: s.mass(-0.1, 0.1),
        lambda s: s.soft_mass(0.1),
        lambda s: s.mean_magnitude(),
        lambda s: s.extremes()[0],
        lambda s: s.effective_dimension(0.1),
    ):
        held, true = ask(estimate), ask(found)
        assert held.lower <= true.value <= held.upper


def test_a_record_of_it_is_read_and_compared(found: spectra.Spectrum, tmp_path) -> None:
    metadata = found.metadata | {"checkpoint": {"path": "x", "w_bits": 2.0, "step": 1}}
    found = dataclasses.replace(found, metadata=metadata)
    found.save(tmp_path / "a")
    again = spectra.load(tmp_path / "a")
    assert again.exact
    np.testing.assert_array_equal(again.alphas, found.alphas)
    np.testing.assert_array_equal(again.nodes, found.alphas)
    assert again.soft_mass(0.05) == found.soft_mass(0.05)
    table = analysis.compare(again, found).table
    assert not table["resolved"].any()
    assert float(np.nanmax(np.abs(table["difference"]))) == 0.0
    shifted = dataclasses.replace(found, alphas=found.alphas + 0.5)
    rows = analysis.compare(found, shifted).table.set_index("quantity")
    assert rows.loc["lambda_max", "difference"] == pytest.approx(0.5)
    assert rows.loc["soft_0.1", "upper"] - rows.loc["soft_0.1", "lower"] < 1e-8
    assert rows.loc["wasserstein", "difference"] == pytest.approx(0.5, rel=0.05)
    lines = "\n".join(analysis.summary_lines(again))
    assert f"exact: all {N} eigenvalues" in lines
    assert "share near zero" in lines
    runs = analysis.load(tmp_path)
    analysis.plot_density(runs)
    analysis.plot_mass_curve(runs)


def test_an_asymmetric_matrix_says_how_far_it_may_be_off() -> None:
    noise = 1e-9
    op = operator(noise)
    op.product_error = 0.0
    rough = exact(op, progress=False, check=False)
    worst = float(np.abs(rough.alphas[0, 0] - LAM).max())
    assert worst > 1e-10
    assert worst <= rough.measure.product_error < 100 * worst


@pytest.mark.parametrize("surface", ["ste", "quantized", "latent"])
def test_a_quantized_layer_has_its_masked_zeros_counted(surface: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    batch = [(torch.randn(32, 4), torch.randint(0, 3, (32,)))]

    def loss(model, batch):
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    quant.prepare(model, quant.spec("paretoq", w_bits=1))
    H = spectra.hessian(model, batch, loss=loss, dtype="float64", surface=surface)
    found = exact(H, progress=False)
    assert found.metadata["masked_fraction"] == pytest.approx(1 - H.dim_unmasked / H.dim)
    dense = torch.stack([H.operator(0).matvec(e) for e in torch.eye(H.dim, dtype=torch.float64)])
    values = torch.linalg.eigvalsh((dense + dense.T) / 2).numpy()
    share = found.soft_mass(1e-2)
    assert share.lower <= float(window(values, 1e-2, 2).mean()) <= share.upper
    assert share.width < 1e-6
    if surface == "ste":
        assert found.metadata["masked_fraction"] > 0.1
        assert found.mass(-1e-9, 1e-9).value >= found.metadata["masked_fraction"]


def test_what_is_too_large_is_refused_with_the_limit() -> None:
    with pytest.raises(UsageError, match=r"up to 20,000 .* 20,001 are selected.*--params"):
        check_size(20_001, None)
    with pytest.raises(UsageError, match=r"takes 0\.0 GB .* may be used"):
        check_size(1000, 10**6)
    assert check_size(1000, None) == 16_000_000
    with pytest.raises(UsageError, match="lanczos_steps=50"):
        spectra.estimate(spectra.estimation.Request(ckpt="tiny", exact=True, lanczos_steps=50))
    with pytest.raises(UsageError, match=r"tol=0\.1"):
        spectra.estimate(spectra.estimation.Request(ckpt="tiny", exact=True, tol=0.1))
