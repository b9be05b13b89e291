"""What an estimate is asked to do: sizes, seed, precision, where the basis lives."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch

from spectra.errors import UsageError, nearest
from spectra.linalg import BasisPolicy, ProbeKind

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class SLQSettings:
    """Settings of stochastic Lanczos quadrature.

    Attributes:
        num_probes: Probes on each operator. One is enough in all but tiny dimensions: its error is
            √(2F(1 − F)/(n + 2)), known in advance.
        lanczos_steps: Products with each probe: the resolution.
        seed: Of the probes.
        probe_kind: "sphere", or "rademacher" (traces only).
        probe_space: "unmasked": probes live on the coordinates that no clip mask makes zero, and
            the masked share is added exactly; "all": on all coordinates.
        basis: "device", "host", "none", or "auto": the first that fits the memory.
        basis_dtype: Storage type of the basis, or "auto": the working type.
        vector_dtype: Working type of the Lanczos vectors, or "auto": the operator's, at least
            float32.
        block_size: Probes that share one call of the operator.
        check: Whether to measure determinism, symmetry and the product error.
        max_memory: Bytes the plan may use; None for what is free.
        exact: Whether to compute every eigenvalue in place of an estimate (up to 20,000).
        share: What several processes share: "places", "vectors" or "parameters"; see
            spectra.estimation.slicing.
    """

    num_probes: int = 1
    lanczos_steps: int = 100
    seed: int = 0
    probe_kind: ProbeKind = "sphere"
    probe_space: Literal["unmasked", "all"] = "unmasked"
    basis: Literal["auto", "device", "host", "none"] = "auto"
    basis_dtype: str = "auto"
    vector_dtype: str = "auto"
    block_size: int = 1
    check: bool = True
    max_memory: int | None = None
    share: Literal["places", "vectors", "parameters"] = "places"
    exact: bool = False

    def __post_init__(self) -> None:
        for name in ("num_probes", "lanczos_steps", "block_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)} is too small; pass at least 1.")
        if not 0 <= self.seed < 1 << 63:  # which is what a column of a table holds
            raise UsageError(f"seed={self.seed} is not in [0, 2^63); pass a seed that is.")
        choices = {
            "probe_kind": ("sphere", "rademacher"),
            "probe_space": ("unmasked", "all"),
            "basis": ("auto", "device", "host", "none"),
            "basis_dtype": ("auto", *DTYPES),
            "vector_dtype": ("auto", *DTYPES),
            "share": ("places", "vectors", "parameters"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise UsageError(
                    f"{name}={value!r} is not one of {', '.join(known)}{nearest(value, known)}"
                )

    def working_dtype(self, operator_dtype: torch.dtype) -> torch.dtype:
        """Return the dtype of the Lanczos vectors."""
        if self.vector_dtype != "auto":
            return DTYPES[self.vector_dtype]
        return operator_dtype if operator_dtype.itemsize >= 4 else torch.float32

    def policy(self, where: Literal["device", "host", "none"]) -> BasisPolicy:
        """Return the basis policy for a decided place."""
        dtype = None if self.basis_dtype == "auto" else DTYPES[self.basis_dtype]
        return BasisPolicy(where, dtype)

    def metadata(self) -> dict[str, Any]:
        """Return the settings as the `estimator` section of a record begins."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return found if self.exact else {k: v for k, v in found.items() if k != "exact"}

    def with_changes(self, **changes: Any) -> SLQSettings:
        """Return a copy with some settings changed."""
        return replace(self, **changes)
