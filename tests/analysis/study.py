"""Records of matrices with known spectra, dressed as those of a study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import spectra
from spectra import record
from spectra.linalg import SymmetricOperator


def write_spectrum(
    place: Path,
    operator: SymmetricOperator,
    *,
    method: str,
    seed: int,
    step: int,
    bits: float | None = 2.0,
    surface: str = "ste",
    toward_grid: float | None = None,
    proximal: float | None = None,
    steps: int = 60,
    probe_seed: int | None = None,
    rederived: bool | None = None,
    max_steps: int | None = None,
    **changes: Any,
) -> None:
    """Estimate `operator` and save the record as that of a checkpoint."""
    probes = seed if probe_seed is None else probe_seed
    spec = spectra.slq(operator, lanczos_steps=steps, seed=probes, progress=False)
    meta: dict[str, Any] = dict(spec.metadata)
    meta["checkpoint"] = {
        "path": f"runs/{method}-{seed}/checkpoint-{step}",
        "w_bits": bits,
        "a_bits": 16,
        "method": method,
        "step": step,
        "quantization": {"recipe": {"seed": seed, "max_steps": max_steps}},
    }
    meta["surface"] = surface
    meta["data"] = {"source": "stdlib:heldout (Python 3)", "sha256": "0", "seq_len": 8}
    meta["point"] = {
        "toward_grid": toward_grid,
        "rederived_scales": rederived,
        "noisy_weights": None,
        "proximal": proximal,
    }
    for name, change in changes.items():
        meta[name] = meta.get(name, {}) | change if isinstance(change, dict) else change
    record.save(dataclasses.replace(spec, metadata=meta), place)
