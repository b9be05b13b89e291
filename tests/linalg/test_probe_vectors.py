"""Probes: unit vectors that depend on (seed, batch, probe) and on nothing else."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch

from spectra.errors import UsageError
from spectra.linalg import probe


@pytest.mark.parametrize("kind", ["sphere", "rademacher"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_unit_length_and_dtype(kind: str, dtype: torch.dtype) -> None:
    v = probe(1000, seed=3, kind=kind, dtype=dtype)
    assert (v.dtype, tuple(v.shape), v.device.type) == (dtype, (1000,), "cpu")
    assert float(v.double().norm()) == pytest.approx(1, abs=4 * torch.finfo(dtype).eps)


def test_rademacher_entries_are_signs_over_root_n() -> None:
    v = probe(1001, seed=0, kind="rademacher", dtype=torch.float64)
    np.testing.assert_allclose(np.abs(v.numpy()), 1 / math.sqrt(1001), rtol=1e-14)
    assert abs(int((v > 0).sum()) - 500) < 5 * math.sqrt(1001) / 2


def test_the_same_in_any_order_and_beside_other_generators() -> None:
    triples = list(itertools.product(range(3), range(3), range(3)))
    forward = {t: probe(50, seed=t[0], batch=t[1], probe=t[2]) for t in triples}
    torch.manual_seed(1)
    np.random.default_rng(1)
    for t in reversed(triples):
        torch.rand(3)
        assert torch.equal(forward[t], probe(50, seed=t[0], batch=t[1], probe=t[2]))
    for one, two in itertools.combinations(triples, 2):
        assert abs(float(forward[one] @ forward[two])) < 0.9, (one, two)


def test_dtypes_of_float32_and_below_are_one_draw_rounded() -> None:
    single = probe(200, seed=5)
    assert torch.equal(probe(200, seed=5, dtype=torch.bfloat16), single.to(torch.bfloat16))
    assert torch.equal(probe(200, seed=5, dtype=torch.float16), single.to(torch.float16))


def test_a_projection_is_beta_distributed() -> None:
    """The mass of k coordinates of n is Beta(k/2, (n − k)/2): the intervals rest on it."""
    n, k = 40, 12
    masses = [
        float((probe(n, seed=0, probe=p, dtype=torch.float64)[:k] ** 2).sum()) for p in range(800)
    ]
    assert scipy.stats.kstest(masses, scipy.stats.beta(k / 2, (n - k) / 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["sphere", "rademacher"])
def test_masked_coordinates_are_zero_and_the_rest_is_renormalized(kind: str) -> None:
    keep = torch.arange(300) % 3 != 0
    v = probe(300, seed=0, kind=kind, dtype=torch.float64, keep=keep)
    full = probe(300, seed=0, kind=kind, dtype=torch.float64)
    assert (v[~keep] == 0).all()
    assert float(v.norm()) == pytest.approx(1)
    torch.testing.assert_close(v[keep], full[keep] / full[keep].norm())
    with pytest.raises(UsageError, match="every coordinate is masked"):
        probe(300, seed=0, keep=torch.zeros(300, dtype=torch.bool))


@pytest.mark.parametrize("name", ["seed", "batch", "probe"])
@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_integers_out_of_range_are_named(name: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{name}={value} "):
        probe(10, **{"seed": 0, name: value})


def test_the_largest_seed_and_an_unknown_kind() -> None:
    assert float(probe(10, seed=(1 << 32) - 1).norm()) == pytest.approx(1, abs=1e-6)
    with pytest.raises(UsageError, match="'gaussian'"):
        probe(10, seed=0, kind="gaussian")  # type: ignore[arg-type]
