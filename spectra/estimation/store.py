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


class GrowingStore(ProbeStore):
    """A store whose probes differ in length; the arrays are as long as the longest."""

    def take_over(self, earlier: Spectrum) -> None:
        """Start from the finished probes of an earlier record of the same run."""
        self._grow(earlier.alphas.shape[2])
        super().take_over(earlier)
        if self.steps.any():  # else the most steps that are allowed stand there
            self.metadata["estimator"]["lanczos_steps"] = int(self.steps.max())

    def put(
        self, batch: int, probe: int, alphas: NDArray[np.float64], betas: NDArray[np.float64]
    ) -> None:
        """Store one finished probe's coefficients, each (m,), in place of what was there."""
        self._grow(alphas.size)
        self.alphas[batch, probe], self.betas[batch, probe] = 0.0, 0.0
        super().put(batch, probe, alphas, betas)
        longest = int(self.steps.max())
        self.alphas, self.betas = self.alphas[..., :longest], self.betas[..., :longest]
        self.metadata["estimator"]["lanczos_steps"] = longest

    def _grow(self, steps: int) -> None:
        widths = ((0, 0), (0, 0), (0, max(0, steps - self.alphas.shape[2])))
        self.alphas, self.betas = np.pad(self.alphas, widths), np.pad(self.betas, widths)
