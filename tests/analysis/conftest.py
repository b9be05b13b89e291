"""Synthetic records: Lanczos on diagonal operators with spectra shaped like language models'."""

import matplotlib as mpl
import numpy as np
import pytest
import torch

from spectra import quadrature
from spectra.linalg import Lanczos, SymmetricOperator, probe
from spectra.record import Spectrum

mpl.use("Agg")
DIM = 6000


def heavy_eigenvalues(dim=DIM, shift=0.0, scale=1.0, seed=0):
    """Outliers to 30, a pile at zero over many decades, a negative edge at −4, exact zeros."""
    rng = np.random.default_rng(seed)
    outliers = np.geomspace(2.0, 30.0, 18) * (1 + shift)
    negative = np.concatenate([[-4.0, -3.1], -rng.gamma(0.6, 0.25, dim // 40)])
    zeros = np.zeros(dim // 10)
    rest = dim - outliers.size - negative.size - zeros.size
    pile = rng.normal(size=rest) * 10.0 ** rng.uniform(-6, -0.6, rest)
    values = np.concatenate([outliers, np.maximum(negative, -4.0), zeros, pile])
    return np.sort(values) * scale


def make_spectrum(
    *, batches=1, probes=1, steps=60, dim=DIM, masked=0, scale=1.0, shift=0.0, same=False,
    delta=None, kind="sphere", unfinished=0, **overrides,
):  # fmt: skip
    shape = (batches, probes, steps)
    alphas, betas = np.zeros(shape), np.zeros(shape)
    counts = np.zeros(shape[:2], dtype=np.int64)
    free = dim - masked
    for b in range(batches):
        values = heavy_eigenvalues(free, shift + (0 if same else 0.02 * b), scale, 0 if same else b)
        diagonal = torch.from_numpy(values)
        operator = SymmetricOperator.from_matvec(
            lambda v, d=diagonal: d * v, free, dtype=torch.float64
        )
        for p in range(probes):
            if b * probes + p >= batches * probes - unfinished:
                continue
            start = probe(free, seed=3, batch=b, probe=p, kind=kind, dtype=torch.float64)
            run = Lanczos(operator, start).extend(steps)
            m = int(run.steps[0])
            alphas[b, p, :m], betas[b, p, :m] = run.alphas[0, :m], run.betas[0, :m]
            counts[b, p] = m
    metadata = {
        "schema": 1,
        "dim": dim,
        "dim_unmasked": free,
        "params": {"select": "linear", "count": dim, "names": ["layers.0.q"]},
        "surface": "ste" if masked else "latent",
        "masked_fraction": masked / dim,
        "reduce": "per_batch",
        "checkpoint": {
            "path": "out/w2/checkpoint-800", "revision": None, "sha256": "ab" * 32,
            "stored_dtype": "bfloat16", "step": 800, "w_bits": 2, "a_bits": 16, "method": "winq",
        },
        "data": {"source": "stdlib", "sha256": "cd" * 32, "seq_len": 256, "batch_size": 1},
        "estimator": {
            "num_probes": probes, "lanczos_steps": steps, "num_batches": batches, "seed": 3,
            "probe_kind": kind, "dtype": "float32", "protocol": "default",
        },
        "checks": {"structural_zero_fraction": 0.05, "product_error": delta},
        "cost": {"hvps": batches * probes * steps, "seconds": 1.5, "peak_bytes": 1 << 20},
        "environment": {"device": "cpu"},
        "warnings": [],
    }  # fmt: skip
    for key, value in overrides.items():
        known = metadata.get(key)
        metadata[key] = known | value if isinstance(known, dict) else value
    losses = np.linspace(2.4, 2.6, batches) if batches > 1 else np.array([2.5])
    spectrum = Spectrum(
        alphas, betas, counts, losses, np.full(batches, 0.3), np.full(batches, 255), metadata
    )
    if spectrum.finished and metadata["estimator"]["protocol"] != "winq":
        metadata["summary"] = quadrature.summarize(spectrum.measure)
    return spectrum


@pytest.fixture(scope="session")
def one():
    """One batch, one probe."""
    return make_spectrum()


@pytest.fixture(scope="session")
def several():
    """Four batches, with masked coordinates and a product error."""
    return make_spectrum(batches=4, masked=1500, delta=2e-3)


@pytest.fixture(scope="session")
def reference():
    """A record of the reference procedure."""
    return make_spectrum(
        batches=2, probes=3,
        estimator={"protocol": "winq", "dtype": "bfloat16"},
        reference={
            "near_zero_mean": 0.6484, "near_zero_std": 0.0119, "lambda_min": -4.1,
            "lambda_max": 30.2, "tau": 1.5e-3,
        },
    )  # fmt: skip


@pytest.fixture(scope="session")
def make():
    return make_spectrum


@pytest.fixture(scope="session")
def eigenvalues():
    return heavy_eigenvalues
