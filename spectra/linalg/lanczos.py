"""The Lanczos recurrence, run for one or several start vectors at once.

From a unit vector q_1, for j = 1, 2, …:

    w = H q_j − β_{j−1} q_{j−1};   α_j = ⟨q_j, w⟩;   w ← w − α_j q_j;
    w ← (I − QQᵀ) w    (a Gram–Schmidt pass against the basis, where one is kept);
    β_j = ‖w‖;   q_{j+1} = w/β_j.

Inner products and coefficients are float64 whatever the operator's dtype; long vectors keep a
working dtype of at least float32 unless told otherwise. One transfer to the host a step brings
(α_j, β_j) of all runs. The runs of a block are independent recurrences that share their products
(`SymmetricOperator.matvecs`); this is not block Lanczos.

*Breakdown*: β_j ≤ 4 ε₆₄ max(α, β) means that the Krylov space is invariant, and the run ends there.
The threshold is relative, so it survives rescaling, and that of float64, so a small bulk next to
large outliers is not taken for zero. It is not the product error δ: δ is the error along outliers,
while β_1 is the root mean square eigenvalue, and in bfloat16 a run would end at its first step.
Continuing after an unnoticed breakdown is harmless: the coupling β_j is as small as the noise, so
nodes beyond it carry no weight.

*One pass or two.* A pass leaves components of the order ε(‖w‖ + ‖Qᵀw‖), so that a second one is
needed only where the first took out much of what there was (Daniel, Gragg, Kaufman & Stewart 1976;
two always suffice: Giraud, Langou & Rozložník 2005). The three-term recurrence leaves rounding
errors along Q and little else, and the criterion ‖Qᵀw‖ > β/10 asks for a second pass next to a
breakdown alone: the basis is read twice a step, not four times, at the same loss of orthogonality.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal

from spectra.errors import NumericalError, UsageError
from spectra.linalg.basis import Basis, BasisPolicy
from spectra.linalg.operator import SymmetricOperator
from spectra.linalg.space import VectorSpace

BREAKDOWN = 4.0
CONVERGED = 2e-6  # residual of a converged pair, relative to ‖T‖; in float64 √ε
AGAIN = 0.1  # share of a vector along the basis above which one pass is not enough
EPS64 = float(np.finfo(np.float64).eps)

Observer = Callable[[int, torch.Tensor, torch.Tensor], None]


class Lanczos:
    """A Lanczos run that can be extended, saved and continued.

    Attributes:
        alphas: (P, m) float64, the diagonals so far; entries past `steps[p]` are 0.
        betas: (P, m) float64, off-diagonals; the last one of each run is its residual norm.
        steps: (P,) number of steps of each run; fewer than m after a breakdown.
        condensed_error: Largest part of a product that a condensed basis has taken out; None where
            the basis is whole.
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        start: torch.Tensor,
        *,
        basis: BasisPolicy | None = None,
        vector_dtype: torch.dtype | None = None,
        space: VectorSpace | None = None,
        passes: int = 2,
    ) -> None:
        """Begin at `start`.

        Args:
            operator: The operator H.
            start: Start vectors, (n,) or (P, n), whole; normalized here.
            basis: Where the basis is kept; default on the device in the working dtype.
            vector_dtype: Working dtype; default the operator's, but at least float32.
            space: Vector space operations; default the operator's own.
            passes: Gram–Schmidt passes against the basis at most; the second only where needed.

        Raises:
            UsageError: If `start` does not fit the operator or is zero.
        """
        rows = start if start.ndim == 2 else start.unsqueeze(0)
        if rows.ndim != 2 or rows.shape[1] != operator.dim:
            raise UsageError(
                f"start of shape {tuple(start.shape)} does not fit an operator of dimension "
                f"{operator.dim}; pass ({operator.dim},) or (P, {operator.dim})."
            )
        self.operator, self.passes = operator, passes
        self.space: VectorSpace = space or operator.space
        self.policy = basis or BasisPolicy()
        if vector_dtype is None:
            vector_dtype = operator.dtype if operator.dtype.itemsize >= 4 else torch.float32
        self.vector_dtype = vector_dtype
        self._current = self.space.take(rows).to(operator.device, vector_dtype, copy=True)
        for row, norm in zip(self._current, self._norms(self._current), strict=True):
            if not 0 < float(norm) < float("inf"):
                raise UsageError("a start vector is zero or not finite; pass unit vectors.")
            row.div_(norm.to(row.dtype))
        self._previous = torch.zeros_like(self._current)
        self._bases = [
            Basis(operator.dim, self.policy, vector_dtype, operator.device, self.space)
            for _ in rows
        ]
        count = rows.shape[0]
        self.alphas: NDArray[np.float64] = np.zeros((count, 0))
        self.betas: NDArray[np.float64] = np.zeros((count, 0))
        self.steps: NDArray[np.int64] = np.zeros(count, dtype=np.int64)
        self._ended = np.zeros(count, dtype=bool)
        self.condensed_error: float | None = None

    @property
    def num_steps(self) -> int:
        """Products made so far with each start vector (P share one call)."""
        return int(self.alphas.shape[1])

    @property
    def finished(self) -> bool:
        """Whether every run has ended, by breakdown or at the full dimension."""
        return bool(self._ended.all())

    def extend(self, steps: int, *, observe: Observer | None = None) -> Lanczos:
        """Make up to `steps` further steps and return self.

        Args:
            steps: Further steps; the total is capped at the dimension.
            observe: Called as observe(step, Q, HQ) with the step's index from 0, the Lanczos
                vectors (P, n) and their products (P, n), before anything is subtracted; of
                sharded vectors the entries held here.
        """
        steps = min(steps, self.operator.dim - self.num_steps)
        if steps > 0 and not self.finished:
            self.reserve(self.num_steps + steps)
        last = self.num_steps + steps
        while self.num_steps < last and not self.finished:
            self._step(observe)
        return self

    def reserve(self, steps: int) -> None:
        """Make room for a basis of `steps` vectors in all, so that growing never copies it."""
        for basis in self._bases:
            basis.reserve(min(steps, self.operator.dim))

    def condense(self) -> None:
        """Keep of the basis only the converged Ritz vectors, and go on with these.

        Orthogonality is lost toward converged Ritz vectors and nowhere else (Paige 1980), so that
        taking these out of every further vector is what keeps their ghosts away (Parlett & Scott,
        The Lanczos algorithm with selective orthogonalization, 1979). In exact arithmetic nothing
        is taken out: all later vectors are orthogonal to the whole basis, hence to any vectors
        made of it. Vectors that converge later have ghosts: bounds stay valid and are wider. What
        is taken out of a product all the same is an error of it; its norm is told in
        `condensed_error`, and kept small by the demand that a pair (θ, x) is converged only if
        ‖Hx − θx‖ = β_m |s_m| is below `CONVERGED` ‖T‖.
        """
        tolerance = min(CONVERGED, float(torch.finfo(self.vector_dtype).eps) ** 0.5)
        for p, basis in enumerate(self._bases):
            m = min(int(self.steps[p]), basis.size)
            if m == 0:
                continue
            theta, vectors = eigh_tridiagonal(self.alphas[p, :m], self.betas[p, : m - 1])
            residuals = self.betas[p, m - 1] * np.abs(vectors[-1])
            converged = residuals <= tolerance * np.abs(theta).max()
            chosen = self.space.agreed(np.ascontiguousarray(vectors[:, converged]))
            basis.condense(torch.from_numpy(chosen))
        self.condensed_error = 0.0

    def _step(self, observe: Observer | None) -> None:
        index = self.num_steps
        Q = self._current
        W = self._product(Q)
        if observe is not None:
            observe(index, Q, W)
        runs = list(range(len(Q)))
        for p in runs if index else ():
            beta = torch.tensor(self.betas[p, -1], dtype=torch.float64, device=W.device)
            self.space.axpy(-beta, self._previous[p], W[p])
        alphas = self.space.dots(Q, W)
        for p, basis in enumerate(self._bases):
            self.space.axpy(-alphas[p], Q[p], W[p])
            basis.append(Q[p])
        removed = self._pass(runs, W) if self.passes > 0 else torch.zeros_like(alphas)
        scalars = torch.stack([alphas, self._norms(W), removed], dim=1)
        values = scalars.cpu().numpy()  # the step's one synchronization
        if self.condensed_error is not None:
            self.condensed_error = max(self.condensed_error, float(values[:, 2].max()))
        if self.passes > 1:
            much = (values[:, 2] > AGAIN * values[:, 1]) & ~self._ended
            again = list(map(int, np.flatnonzero(much)))
            if again:
                self._pass(again, W)
                values[again, 1] = self._norms(W[again]).cpu().numpy()
        self._accept(values, W)

    def _pass(self, runs: list[int], W: torch.Tensor) -> torch.Tensor:
        """Make one pass over the bases of `runs`; return the norms of what it took out."""
        parts = [self._bases[p].coefficients(W[p]) for p in runs]
        totals = self.space.total(torch.cat(parts)).split([len(part) for part in parts])
        pairs = zip(runs, totals, strict=True)
        return torch.stack([self._bases[p].remove(found, W[p]) for p, found in pairs])

    def _norms(self, rows: torch.Tensor) -> torch.Tensor:
        return self.space.dots(rows, rows).sqrt()

    def _product(self, Q: torch.Tensor) -> torch.Tensor:
        cast = Q.to(self.operator.dtype)
        if Q.shape[0] == 1:
            W = self.operator.matvec(cast[0]).unsqueeze(0)
        else:
            W = self.operator.matvecs(cast)
        return W.to(self.vector_dtype)

    def _accept(self, values: NDArray[np.float64], W: torch.Tensor) -> None:
        alphas, betas = values[:, 0].copy(), values[:, 1].copy()
        running = ~self._ended
        if not np.isfinite(values[running]).all():
            raise NumericalError(
                f"the product of Lanczos step {self.num_steps + 1} is not finite; the loss or its "
                "derivatives overflow at this checkpoint: try dtype=float64, or check the weights."
            )
        alphas[self._ended] = 0.0
        betas[self._ended] = 0.0
        self.alphas = np.column_stack([self.alphas, alphas])
        self.betas = np.column_stack([self.betas, betas])
        self.steps[running] += 1
        self._previous = self._current
        self._current = W
        for p in map(int, np.flatnonzero(running)):
            broken = betas[p] <= self._breakdown_threshold(p)
            self._ended[p] = broken or self.steps[p] == self.operator.dim
            W[p].div_(betas[p])
        for p in map(int, np.flatnonzero(self._ended)):
            W[p].zero_()

    def _breakdown_threshold(self, p: int) -> float:
        largest = max(float(np.abs(self.alphas[p]).max()), float(self.betas[p].max()))
        return BREAKDOWN * EPS64 * largest

    def orthogonality_loss(self) -> float:
        """Return max |QᵀQ − I| over the stored bases; NaN where none is kept."""
        losses = [
            basis.orthogonality_loss(None if basis.condensed else int(steps))
            for basis, steps in zip(self._bases, self.steps, strict=True)
        ]
        return max(losses)

    def ritz_vectors(self, coefficients: NDArray[np.float64], p: int = 0) -> torch.Tensor:
        """Return Q·coefficients as rows (r, n), for coefficients (steps, r) of run `p`.

        Of sharded vectors the entries held here; `space.whole` makes them whole.
        """
        if self.policy.where == "none" or self.condensed_error is not None:
            raise UsageError("Ritz vectors need the basis; run with basis='device' or 'host'.")
        return self._bases[p].combine(torch.from_numpy(np.ascontiguousarray(coefficients)))

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Return everything needed to continue; without `copy` vectors are the run's own."""

        def taken(vectors: torch.Tensor) -> torch.Tensor:
            return vectors.cpu().clone() if copy else vectors

        return {
            "alphas": torch.from_numpy(self.alphas.copy()),
            "betas": torch.from_numpy(self.betas.copy()),
            "steps": torch.from_numpy(self.steps.copy()),
            "ended": torch.from_numpy(self._ended.copy()),
            "current": taken(self._current),
            "previous": taken(self._previous),
            "bases": [taken(basis.rows()) for basis in self._bases],
            "condensed_error": self.condensed_error,
        }

    @property
    def last_vector(self) -> torch.Tensor:
        """The vector of the first run that the last step made a product with, (n,)."""
        return self._previous[0]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state saved by a run on the same operator with the same policy.

        Raises:
            UsageError: If the state belongs to vectors of another shape or policy.
        """
        if state["current"].shape != self._current.shape:
            raise UsageError(
                f"the saved state holds vectors {tuple(state['current'].shape)}, this run has "
                f"{tuple(self._current.shape)}; continue on the same operator and probes."
            )
        stored = [rows.shape[0] for rows in state["bases"]]
        keeps = self.policy.where != "none"
        dtypes = {rows.dtype for rows in state["bases"]} - {self._bases[0].rows().dtype}
        condensed = state["condensed_error"]
        expected = state["alphas"].shape[1] if keeps else 0
        if dtypes or (condensed is None and any(n != expected for n in stored)):
            raise UsageError(
                f"the saved state was run with another basis policy than "
                f"{self.policy.describe()!r}; continue with the same one."
            )
        self.alphas, self.betas = state["alphas"].numpy().copy(), state["betas"].numpy().copy()
        self.steps, self._ended = state["steps"].numpy().copy(), state["ended"].numpy().copy()
        self._current = state["current"].to(self._current, copy=True)
        self._previous = state["previous"].to(self._previous, copy=True)
        self.condensed_error = condensed
        for basis, rows in zip(self._bases, state["bases"], strict=True):
            basis.load(rows)
            basis.condensed = condensed is not None
