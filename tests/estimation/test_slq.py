"""`spectra.slq` on operators of any kind, against the spectra they were made from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import spectra
from spectra.errors import InputWarning, NumericalError, OutOfMemoryError, UsageError


def diagonal(n=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    bulk = 0.1 * torch.randn(n - 4, generator=generator, dtype=torch.float64)
    return torch.cat([bulk, torch.tensor([-2.0, 5.0, 8.0, 20.0], dtype=torch.float64)])


def operator(values, dtype=torch.float64):
    return spectra.SymmetricOperator.from_matvec(
        lambda v: values.to(v.dtype) * v, values.numel(), dtype=dtype
    )


def test_full_depth_returns_the_whole_spectrum():
    values = diagonal(60)
    found = spectra.slq(operator(values), lanczos_steps=60)
    assert np.allclose(found.nodes[0, 0], values.sort().values.numpy(), atol=1e-10)
    assert found.weights[0, 0].sum() == pytest.approx(1, abs=1e-12)
    assert found.complete


def test_steps_beyond_the_dimension_are_capped_with_a_note():
    with pytest.warns(InputWarning, match="lanczos_steps=100 exceeds the operator's dimension 60"):
        found = spectra.slq(operator(diagonal(60)), lanczos_steps=100)
    assert found.alphas.shape == (1, 1, 60)


def test_probes_do_not_depend_on_how_many_are_run_or_in_which_blocks():
    values = diagonal()
    many = spectra.slq(operator(values), num_probes=5, lanczos_steps=20, seed=3)
    few = spectra.slq(operator(values), num_probes=2, lanczos_steps=20, seed=3)
    blocks = spectra.slq(operator(values), num_probes=5, lanczos_steps=20, seed=3, block_size=3)
    assert np.array_equal(many.alphas[:, :2], few.alphas)
    assert np.allclose(many.alphas, blocks.alphas, atol=1e-12)


def test_asymmetric_operator_is_refused():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(50, 50, generator=generator, dtype=torch.float64)
    skew = spectra.SymmetricOperator.from_matvec(lambda v: A @ v, 50, dtype=torch.float64)
    with pytest.raises(NumericalError, match="not symmetric"):
        spectra.slq(skew, lanczos_steps=5)


def test_a_declared_product_error_widens_the_bounds():
    values = diagonal()
    exact, declared = operator(values), operator(values)
    declared.product_error = 1e-2
    narrow = spectra.slq(exact, lanczos_steps=60).mass(-0.05, 0.05)
    wide = spectra.slq(declared, lanczos_steps=60).mass(-0.05, 0.05)
    assert wide.width > narrow.width
    with pytest.raises(UsageError, match="narrower than twice the product error"):
        spectra.slq(declared, lanczos_steps=20).mass(-5e-3, 5e-3)


def test_float32_operator_gets_an_assumed_error_and_float64_coefficients():
    found = spectra.slq(operator(diagonal(), torch.float32), lanczos_steps=30)
    checks = found.metadata["checks"]
    assert checks["product_error_source"] == "assumed"
    assert 1e-7 < checks["product_error"] < 1e-3
    assert found.alphas.dtype == np.float64
    assert found.metadata["estimator"]["vector_dtype"] == "float32"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lanczos_steps": 0}, "lanczos_steps=0"),
        ({"num_probes": -1}, "num_probes=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"basis": "devise"}, "did you mean device"),
        ({"vector_dtype": "float31"}, "did you mean float32"),
        ({"probe_kind": "normal"}, "probe_kind='normal'"),
    ],
)
def test_settings_are_checked(setting, message):
    with pytest.raises(UsageError, match=message):
        spectra.slq(operator(diagonal()), **setting)


def test_memory_plan_tells_what_fits():
    values = diagonal()
    with pytest.raises(OutOfMemoryError, match="at most --lanczos_steps"):
        spectra.slq(operator(values), lanczos_steps=100, basis="device", max_memory=100_000)
    found = spectra.slq(operator(values), lanczos_steps=100, max_memory=100_000)
    assert found.metadata["estimator"]["basis"] == "none"
    assert any("no reorthogonalization" in note for note in found.metadata["notes"])
    with pytest.raises(OutOfMemoryError, match="select fewer parameters"):
        spectra.slq(operator(values), lanczos_steps=100, max_memory=1000)


def test_what_fits_of_a_basis_is_kept_and_then_condensed():
    values = diagonal()
    room = int((6 + 40.5) * 8 * values.numel() / 0.85)
    found = spectra.slq(operator(values), lanczos_steps=100, max_memory=room)
    whole = spectra.slq(operator(values), lanczos_steps=100)
    assert found.metadata["estimator"]["basis_steps"] == 40
    assert whole.metadata["estimator"]["basis_steps"] is None
    assert any("a basis of 40 vectors fits" in note for note in found.metadata["notes"])
    assert found.metadata["checks"]["condensed_error"] < 1e-6
    np.testing.assert_array_equal(found.alphas[0, 0, :40], whole.alphas[0, 0, :40])
    low, high = found.extremes()
    assert low.lower <= float(values.min()) <= low.upper
    assert high.lower <= float(values.max()) <= high.upper


def test_rademacher_serves_traces_and_refuses_masses():
    found = spectra.slq(operator(diagonal()), lanczos_steps=20, probe_kind="rademacher")
    assert found.moment(1).value == pytest.approx(float(diagonal().mean()), abs=1e-10)
    with pytest.raises(UsageError, match="probe_kind='sphere'"):
        found.mass(-1, 1)
    assert "near_zero" not in found.metadata["summary"]


def test_saved_record_reads_back(tmp_path):
    found = spectra.slq(operator(diagonal()), lanczos_steps=20)
    found.save(tmp_path / "r")
    again = spectra.load(tmp_path / "r")
    assert np.array_equal(again.alphas, found.alphas)
    assert again.mass(-0.1, 0.1) == found.mass(-0.1, 0.1)
