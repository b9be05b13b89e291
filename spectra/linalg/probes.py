"""Random probe vectors of unit length, the same on every device, in every order, after a resume.

`sphere`: a Gaussian vector over its norm, uniform on the unit sphere. The mass that one such
vector gives to any spectral interval is Beta distributed with the interval's share of the
dimension, which is what the finite-sample intervals rest on (spectra.quadrature.intervals).
`rademacher`: entries ±1/√n. Lower variance for traces; no interval for a distribution function.

Each vector has its own generator, seeded by SeedSequence([seed, batch, probe]), and is drawn on the
CPU in float32 (an entry's rounding changes the direction by 1e-8) or float64 and then moved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from spectra.errors import UsageError

WORD = 1 << 32

ProbeKind = Literal["sphere", "rademacher"]


def probe(
    dim: int,
    *,
    seed: int,
    batch: int = 0,
    probe: int = 0,
    kind: ProbeKind = "sphere",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    keep: torch.Tensor | Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return probe number `probe` of batch number `batch`, (dim,), of unit length.

    Args:
        dim: Length of the vector.
        seed: The run's seed, an integer from 0 to 2³² − 1.
        batch: Index of the operator.
        probe: Index of the probe on that operator.
        kind: "sphere" or "rademacher".
        dtype: dtype of the result; drawn in float64 for float64, else in float32.
        device: Where the result lives.
        keep: Optional (dim,) boolean mask; other coordinates are set to zero before normalizing,
            which leaves a uniform vector on the sphere of the kept coordinates. Or an orthogonal
            projector, a function of the vector: what it leaves of a Gaussian vector is uniform on
            the sphere of its range.
    """
    if kind not in ("sphere", "rademacher"):
        raise UsageError(f"probe kind {kind!r} is not known; pass 'sphere' or 'rademacher'.")
    for name, value in (("seed", seed), ("batch", batch), ("probe", probe)):
        if not 0 <= value < WORD:  # a longer integer takes two words and could be another triple
            raise UsageError(f"{name}={value} is out of range; pass an integer from 0 to 2³² − 1.")
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, batch, probe])))
    draw = np.float64 if dtype == torch.float64 else np.float32
    if kind == "sphere":
        v = torch.from_numpy(generator.standard_normal(dim, dtype=draw))
    else:
        v = torch.from_numpy(generator.integers(0, 2, size=dim, dtype=np.int8)).to(
            torch.float64 if draw is np.float64 else torch.float32
        )
        v.mul_(2).sub_(1)
    if keep is not None:
        v = v.mul_(keep.cpu()) if isinstance(keep, torch.Tensor) else keep(v)
    norm = torch.linalg.vector_norm(v, dtype=torch.float64)
    if not norm > 0:
        raise UsageError("a probe has no coordinate to live on: every coordinate is masked.")
    return v.div_(norm).to(device=device, dtype=dtype)
