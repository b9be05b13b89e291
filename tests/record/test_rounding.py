"""Extremes hold whatever a run's arithmetic was: vectors, basis, checks, lost orthogonality."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import spectra
from spectra.linalg import SymmetricOperator
from spectra.record.rounding import added_product_error, norm_bound, ritz_error

N = 400
F32, F64 = torch.float32, torch.float64
WAYS = {
    "no basis": ({"basis": "none"}, F32),
    "kept basis": ({"basis": "device"}, F32),
    "half basis": ({"basis": "device", "basis_dtype": "bfloat16"}, F32),
    "coarse vectors": ({"basis": "device", "vector_dtype": "float32"}, F64),
    "unchecked": ({"basis": "device", "check": False}, F32),
    "unchecked, no basis": ({"basis": "none", "check": False}, F32),
    "unchecked double": ({"basis": "device", "check": False}, F64),
}
TRIALS = pytest.mark.parametrize("trials", [14, pytest.param(300, marks=pytest.mark.slow)])


@TRIALS
@pytest.mark.parametrize("way", WAYS)
def test_extremes_hold(way: str, trials: int) -> None:
    options, dtype = WAYS[way]
    held, widths = [], []
    for seed in range(trials):
        rng = np.random.default_rng([seed, 11])
        bulk = 0.05 * rng.standard_normal(N - 6)
        outside = rng.uniform(1, 20, 6) * rng.choice([-1, 1], 6)
        lam = torch.from_numpy(np.concatenate([bulk, outside])).to(dtype)
        operator = SymmetricOperator.from_matvec(lambda v, lam=lam: lam * v, N, dtype=dtype)
        steps = (40, 150, 300)[seed % 3]
        found = spectra.slq(operator, lanczos_steps=steps, seed=seed, progress=False, **options)
        for one, true in zip(found.extremes(), (lam.min(), lam.max()), strict=True):
            held.append(one.lower <= float(true) <= one.upper)
            widths.append(one.width / float(lam.abs().max()))
    print(f"{way}: {sum(held)} of {len(held)}, median width {np.median(widths):.2g} of the norm")
    assert np.mean(held) >= 0.94
    assert np.median(widths) < (0.2 if "half" in way else 1e-2)


def test_the_model_follows_from_what_a_record_says() -> None:
    eps32, eps64 = 2.0**-23, 2.0**-52
    kept = {
        "dtype": "float64",
        "vector_dtype": "float32",
        "basis": "device",
        "basis_dtype": "float32",
    }
    checked = {"product_error": 1e-9}
    meta = {"estimator": kept, "checks": checked}
    assert added_product_error(meta, 2.0) == pytest.approx(8 * eps32)
    assert ritz_error(meta, 2.0, 100) == 0
    none = {"estimator": kept | {"basis": "none"}, "checks": checked}
    assert ritz_error(none, 2.0, 100) == pytest.approx(200 * eps32)
    condensed = {"estimator": kept, "checks": checked | {"condensed_error": 0.1}}
    assert ritz_error(condensed, 2.0, 100) == pytest.approx(200 * eps32)
    half = {"estimator": kept | {"basis_dtype": "bfloat16"}, "checks": checked}
    assert ritz_error(half, 2.0, 100) == pytest.approx(4 * 2.0**-7 * 2)
    plain = {"dtype": "float64", "vector_dtype": "float64", "basis": "device"}
    assert added_product_error({"estimator": plain, "checks": checked}, 2.0) == 0
    assert added_product_error({"estimator": plain}, 2.0) == pytest.approx(16 * eps64)
    assert added_product_error({}, 2.0) == ritz_error({}, 2.0, 100) == 0
    assert norm_bound(np.array([[[1.0, -3.0]]]), np.array([[[0.5, 0.25]]])) == 3.75


def test_an_older_record_is_widened_when_it_is_read(tmp_path) -> None:
    values = torch.linspace(-1, 1, N, dtype=F32)
    operator = SymmetricOperator.from_matvec(lambda v: values * v, N, dtype=F32)
    found = spectra.slq(operator, lanczos_steps=30, basis="none", progress=False)
    found.save(tmp_path)
    again = spectra.load(tmp_path)
    assert again.measure.ritz_error > 30 * 2.0**-23
    tight = dataclasses.replace(again.measure, ritz_error=0.0, _cache={})
    wide = again.extremes()[1]
    narrow = spectra.quadrature.extremes(tight)[1]
    assert wide.lower < narrow.lower <= narrow.upper < wide.upper
