"""The growing record of a run: arrays filled probe by probe, snapshots of them as a `Spectrum`."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra.record import Spectrum


class ProbeStore:
    """Arrays of B operators × P probes × M steps; a probe is either whole or absent."""

    def __init__(self, batches: int, probes: int, steps: int, metadata: dict[str, Any]) -> None:
        self.alphas = np.zeros((batches, probes, steps))
        self.betas = np.zeros((batches, probes, steps))
        self.steps = np.zeros((batches, probes), dtype=np.int64)
        self.losses = np.full(batches, np.nan)
        self.grad_norms = np.full(batches, np.nan)
        self.tokens = np.zeros(batches, dtype=np.int64)
        self.metadata = metadata

    def take_over(self, earlier: Spectrum) -> None:
        """Start from the finished probes of an earlier record of the same run.

        It may hold fewer probes than are asked for now, not more steps or other batches.
        """
        _, probes, steps = earlier.alphas.shape
        self.alphas[:, :probes, :steps] = earlier.alphas
        self.betas[:, :probes, :steps] = earlier.betas
        self.steps[:, :probes] = earlier.steps
        self.losses[:], self.grad_norms[:] = earlier.losses, earlier.grad_norms
        self.tokens[:] = earlier.tokens
        for section in ("checks", "cost", "warnings"):
            if section in earlier.metadata:
                self.metadata[section] = copy.deepcopy(earlier.metadata[section])

    def missing(self, batch: int) -> list[int]:
        """Return the probes of `batch` that have not run."""
        return [int(p) for p in np.flatnonzero(self.steps[batch] == 0)]

    def put(
        self, batch: int, probe: int, alphas: NDArray[np.float64], betas: NDArray[np.float64]
    ) -> None:
        """Store one finished probe's coefficients, each (m,)."""
        count = alphas.size
        self.alphas[batch, probe, :count] = alphas
        self.betas[batch, probe, :count] = betas
        self.steps[batch, probe] = count

    def snapshot(self) -> Spectrum:
        """Return the record as it stands; later probes do not change it."""
        return Spectrum(
            alphas=self.alphas.copy(),
            betas=self.betas.copy(),
            steps=self.steps.copy(),
            losses=self.losses.copy(),
            grad_norms=self.grad_norms.copy(),
            tokens=self.tokens.copy(),
            metadata=copy.deepcopy(self.metadata),
        )
