"""The same numbers on a CUDA device as on the CPU, to the rounding of the working dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spectra.linalg import BasisPolicy, Lanczos, SymmetricOperator, eigenpairs, probe, trace
from tests.linalg.dense import F64, outliers_and_bulk, starts

pytestmark = pytest.mark.gpu

N, M = 4000, 40
LAM = outliers_and_bulk(N, 6)


def on(device: str, dtype: torch.dtype) -> SymmetricOperator:
    values = torch.from_numpy(LAM).to(device, dtype)
    return SymmetricOperator.from_matvec(lambda v: values * v, N, dtype=dtype, device=device)


def test_probes_are_the_cpus() -> None:
    for kind in ("sphere", "rademacher"):
        there = probe(N, seed=1, kind=kind, device="cuda")
        assert there.device.type == "cuda"
        assert torch.equal(there.cpu(), probe(N, seed=1, kind=kind))


@pytest.mark.parametrize(
    "policy",
    [
        BasisPolicy(),
        BasisPolicy("host"),
        BasisPolicy("device", torch.float16),
        BasisPolicy("host", torch.bfloat16),
    ],
)
def test_lanczos(policy: BasisPolicy) -> None:
    here = Lanczos(on("cpu", torch.float32), starts(N, 2), basis=policy).extend(M)
    there = Lanczos(on("cuda", torch.float32), starts(N, 2), basis=policy).extend(M)
    place = "cpu" if policy.where == "host" else "cuda"
    assert there._bases[0].rows().device.type == place
    np.testing.assert_allclose(there.alphas[:, :8], here.alphas[:, :8], atol=1e-4 * LAM[-1])
    low, high = (np.linalg.eigvalsh(jacobi_of(run))[-6:] for run in (here, there))
    rounding = 1e-6 + policy.rounding(N, M, torch.float32)
    np.testing.assert_allclose(low, high, atol=2 * rounding * LAM[-1])
    resumed = Lanczos(on("cuda", torch.float32), starts(N, 2), basis=policy)
    resumed.load_state_dict(
        Lanczos(on("cuda", torch.float32), starts(N, 2), basis=policy).extend(11).state_dict()
    )
    np.testing.assert_array_equal(resumed.extend(M - 11).alphas, there.alphas)


def jacobi_of(lanczos: Lanczos) -> np.ndarray:
    off = lanczos.betas[0, : M - 1]
    return np.diag(lanczos.alphas[0]) + np.diag(off, 1) + np.diag(off, -1)


def test_traces_and_eigenpairs() -> None:
    for method in ("hutchinson", "hutch++", "xtrace"):
        here = trace(on("cpu", F64), method=method, num_matvecs=24, kind="sphere")
        there = trace(on("cuda", F64), method=method, num_matvecs=24, kind="sphere")
        assert there.value == pytest.approx(here.value, rel=1e-9)
        assert there.stderr == pytest.approx(here.stderr, rel=1e-6)
    found = eigenpairs(on("cuda", torch.float32), k=3, which="largest", tol=1e-5)
    assert found.vectors.device.type == "cuda"
    np.testing.assert_allclose(found.values, LAM[-3:], rtol=1e-5)
