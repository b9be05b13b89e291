"""A small record, unfinished on demand."""

from __future__ import annotations

import numpy as np

from spectra.record import SCHEMA, Spectrum

ARRAY_NAMES = ("alphas", "betas", "steps", "losses", "grad_norms", "tokens")


def spectrum(finished: int = 6, **metadata: object) -> Spectrum:
    """Return a record of 2 batches, 3 probes and up to 5 steps, `finished` probes of it done."""
    rng = np.random.default_rng(finished)
    steps = np.zeros(6, dtype=np.int64)
    steps[:finished] = rng.integers(2, 6, finished)
    steps = steps.reshape(2, 3)
    within = np.arange(5) < steps[..., None]
    alphas = np.where(within, rng.standard_normal((2, 3, 5)), 0.0)
    betas = np.where(within, rng.uniform(0.1, 1, (2, 3, 5)), 0.0)
    losses = np.where((steps > 0).any(axis=1), 2.5, np.nan)
    facts = {
        "schema": SCHEMA,
        "dim": 1000,
        "dim_unmasked": 900,
        "checks": {"product_error": 1e-7},
        "estimator": {"probe_kind": "sphere"},
        **metadata,
    }
    return Spectrum(alphas, betas, steps, losses, losses / 2, np.array([128, 128]), facts)


def assert_same(one: Spectrum, two: Spectrum) -> None:
    for name in (*ARRAY_NAMES, "nodes", "weights"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), strict=True)
