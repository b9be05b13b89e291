"""The checks of a run: is it one fixed symmetric matrix, and how wrong is one product?

Before the first probe: determinism, symmetry, agreement with a difference of gradients, and the
product error with the probe itself (spectra.curvature.checks). After it: the product error with the
middle and the last Lanczos vector, which have turned toward other parts of the spectrum. δ is the
largest of these. It is measured against float64 where the operator is a curvature operator, taken
from the operator where it declares one, and otherwise assumed to be a few units of rounding. The
structural zeros of each batch are counted beside it, because no near-zero mass means anything
without them.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from spectra.curvature import checks as curvature_checks
from spectra.curvature.operator import CurvatureOperator
from spectra.curvature.structural import structural_zeros
from spectra.errors import NumericalError, NumericalWarning, OutOfMemoryError
from spectra.estimation.memory import available_bytes
from spectra.linalg import Lanczos, SymmetricOperator, probe

ASSUMED_UNITS = 8.0  # rounding units of the operator's dtype, where no error is known
WORTH_TELLING = 1e-3  # share of structural zeros; a clip mask leaves a few beside its own
ASYMMETRY_UNITS = 1e4  # of rounding; what the check is after is of order 1e-2 to 1


class VectorSampler:
    """Keeps the middle and the last Lanczos vector of a run."""

    def __init__(self, steps: int) -> None:
        self.wanted = {steps // 2, steps - 1} - {0}
        self.vectors: list[torch.Tensor] = []

    def __call__(self, step: int, Q: torch.Tensor, _: torch.Tensor) -> None:
        """Observe one Lanczos step; see `spectra.linalg.Lanczos.extend`."""
        if step in self.wanted:
            self.vectors.append(Q[0].clone())


class Checks:
    """Fills the `checks` section of a record; all but the structural zeros once a record."""

    def __init__(self, section: dict[str, Any], warned: list[str]) -> None:
        self.section, self.warned = section, warned

    def before(self, operator: SymmetricOperator, start: torch.Tensor, seed: int) -> None:
        """Check `operator`, with the unit vector `start`, unless the record has it already.

        Raises:
            NumericalError: If the loss is not deterministic, or the operator not symmetric.
        """
        if "product_error" not in self.section:
            if isinstance(operator, CurvatureOperator):
                self._check_curvature(operator, start, seed)
            else:
                self._check_plain(operator, start, seed)
        if self.section["product_error_source"] != "assumed":
            operator.product_error = self.section["product_error"]

    def _check_curvature(self, operator: CurvatureOperator, start: torch.Tensor, seed: int) -> None:
        shortage = _float64_shortage(operator)
        try:
            found = curvature_checks.run_checks(operator, seed=seed, float64=shortage is None)
            if shortage is None:
                curvature_checks.measure_product_error(operator, start)
        except OutOfMemoryError as error:
            shortage = str(error)
            found = curvature_checks.run_checks(operator, seed=seed, float64=False)
        self.section["determinism_error"] = found.determinism_error
        self.section["symmetry_error"] = found.symmetry_error
        self.section["difference_error"] = found.difference_error
        if found.difference_note:
            self.section["difference_note"] = found.difference_note
        if operator.product_error is not None:
            self._measured(operator)
        else:
            self._assume(operator, start)
            self._warn(f"the product error was not measured: {shortage}")

    def _check_plain(self, operator: SymmetricOperator, start: torch.Tensor, seed: int) -> None:
        u = probe(operator.dim, seed=seed, batch=1, dtype=start.dtype, device=start.device)
        Hu, Hv = (operator.matvec(x.to(operator.dtype)).double() for x in (u, start))
        gap = abs(float(start.double() @ Hu) - float(u.double() @ Hv))
        scale = float(torch.linalg.vector_norm(Hu) + torch.linalg.vector_norm(Hv))
        error = math.sqrt(operator.dim) * gap / scale if scale > 0 else 0.0
        self.section["symmetry_error"] = error
        if not error <= ASYMMETRY_UNITS * torch.finfo(operator.dtype).eps:
            raise NumericalError(
                f"the operator is not symmetric (relative asymmetry {error:.2g}); Lanczos needs "
                "a symmetric one: check the matvec, or pass (A + A.T) / 2."
            )
        if operator.product_error is not None:
            self.section["product_error"] = operator.product_error
            self.section["product_error_source"] = "declared"
        else:
            self._assume(operator, start)

    def _measured(self, operator: SymmetricOperator) -> None:
        known = self.section.get("product_error") or 0.0
        self.section["product_error"] = max(known, operator.product_error or 0.0)
        self.section["product_error_source"] = "measured"

    def _assume(self, operator: SymmetricOperator, start: torch.Tensor) -> None:
        product = operator.matvec(start.to(operator.dtype)).double()
        size = float(torch.linalg.vector_norm(operator.matvec(product.to(operator.dtype)).double()))
        size /= float(torch.linalg.vector_norm(product)) or 1.0  # nearer to ‖H‖ than ‖Hv‖ is
        self.section["product_error"] = ASSUMED_UNITS * torch.finfo(operator.dtype).eps * size
        self.section["product_error_source"] = "assumed"

    def structural_zeros(self, operator: SymmetricOperator, batch: int, batches: int) -> None:
        """Record the share of exact zeros that `batch` has for lack of tokens."""
        if not isinstance(operator, CurvatureOperator):
            return
        shares = self.section.setdefault("structural_zero_fractions", [None] * batches)
        found = structural_zeros(operator)
        shares[batch] = found.fraction
        known = [share for share in shares if share is not None]
        self.section["structural_zero_fraction"] = sum(known) / len(known)
        if (
            found.few_tokens
            and found.fraction >= WORTH_TELLING
            and not self.section.get("few_tokens")
        ):
            self.section["few_tokens"] = True  # said once a record: the share hardly changes
            self._warn(
                f"{found.tokens} tokens an operator are fewer than the width of some layers: at "
                f"least {found.fraction:.1%} of the eigenvalues are exact zeros for that reason "
                "alone; raise seq_len or batch_size, or use reduce=mean, before reading a "
                "near-zero mass"
            )

    def sampler(self, steps: int) -> VectorSampler | None:
        """Return an observer for the run whose vectors are to be measured, if this is the one."""
        done = self.section.get("product_error_vectors") or not self.section.get("product_error")
        return None if done else VectorSampler(steps)

    def orthogonality(self, lanczos: Lanczos) -> None:
        """Record max |QᵀQ − I| of a run's basis, None where none is kept."""
        kept = lanczos.policy.where != "none"
        self.section["orthogonality_loss"] = lanczos.orthogonality_loss() if kept else None

    def condensed(self, lanczos: Lanczos) -> None:
        """Record the largest part of a product that a condensed basis took out."""
        if lanczos.condensed_error is not None:
            known = float(self.section.get("condensed_error") or 0.0)
            self.section["condensed_error"] = max(known, lanczos.condensed_error)

    def after(self, operator: SymmetricOperator, sampler: VectorSampler) -> None:
        """Measure the product error on what the sampler kept."""
        self.section["product_error_vectors"] = 1 + len(sampler.vectors)
        if isinstance(operator, CurvatureOperator) and operator.product_error is not None:
            for vector in sampler.vectors:
                curvature_checks.measure_product_error(operator, vector)
            self._measured(operator)

    def _warn(self, message: str) -> None:
        if message not in self.warned:
            self.warned.append(message)
            warnings.warn(message, NumericalWarning, stacklevel=5)


class BatchChecks(Checks):
    """The checks of each batch alone: what is made once a record is another rank's."""

    def before(self, operator: SymmetricOperator, start: torch.Tensor, seed: int) -> None:
        """Check nothing."""

    def sampler(self, steps: int) -> VectorSampler | None:  # noqa: ARG002
        """Return None: no vector is measured."""
        return None


def _float64_shortage(operator: CurvatureOperator) -> str | None:
    """Return why a float64 product would not fit in memory, None if it would."""
    graph = (operator.graph_bytes or 0) / max(1, len(operator.batches))
    weights = 8 * sum(p.numel() for p in operator.point.model.parameters())
    need = 8 / operator.dtype.itemsize * graph + weights + 4 * 8 * operator.dim
    free = available_bytes(operator.device)
    if need <= free:
        return None
    return f"float64 products need about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
