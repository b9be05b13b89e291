"""What two processes find of Lanczos runs in slices; run by `test_sliced`, one file a rank."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch

from spectra.errors import NumericalError
from spectra.linalg import BasisPolicy, Lanczos, SlicedOperator, SymmetricOperator, eigenpairs
from spectra.parallel import Group, world
from tests.linalg.dense import diagonal, outliers_and_bulk, rotated, starts

N, M = 301, 40  # an odd dimension: the last slice is shorter
DTYPES = {"float64": torch.float64, "float32": torch.float32}


class Halves(SymmetricOperator):
    """A = A_0 + A_1, neither of them symmetric alone in rank; each process knows one of them."""

    def __init__(self, whole: torch.Tensor, group: Group) -> None:
        rng = np.random.default_rng(3)
        noise = torch.from_numpy(rng.standard_normal(whole.shape)).to(whole)
        noise = (noise + noise.T) / 2
        self.part = (whole / 2 + noise) if group.rank == 0 else (whole / 2 - noise)
        self.dim, self.dtype, self.device = len(whole), whole.dtype, whole.device

    def matvec(self, v: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        raise AssertionError("a process has its part alone")

    def partial_product(self, V: torch.Tensor) -> torch.Tensor:
        return V @ self.part


def both(group: Group, op: SymmetricOperator, start: torch.Tensor, **options: Any) -> list[Lanczos]:
    sliced = SlicedOperator(op, group)
    return [Lanczos(o, start, **options) for o in (op, sliced)]


def apart(one: Lanczos, two: Lanczos, steps: int | None = None) -> list[float]:
    same = [one.steps.tolist() == two.steps.tolist()]
    return [
        *same,
        float(np.abs(one.alphas - two.alphas)[:, :steps].max()),
        float(np.abs(one.betas - two.betas)[:, :steps].max()),
    ]


def main(folder: str) -> None:
    group, told = world(), {}
    lam = outliers_and_bulk(N, 5)  # up to 40
    with group.together():
        for name, dtype in DTYPES.items():
            A = rotated(lam).to(dtype)
            op = SymmetricOperator.from_matrix(A)
            one, two = (x.extend(M) for x in both(group, op, starts(N, 2, dtype)))
            told[f"repeated {name}"] = apart(one, two)
            told[f"early {name}"] = apart(one, two, 8)
            told[f"orthogonality {name}"] = two.orthogonality_loss()
            told[f"held {name}"] = two._bases[0].rows().numel()
            parts = Lanczos(SlicedOperator(Halves(A, group), group), starts(N, 2, dtype)).extend(30)
            one = Lanczos(op, starts(N, 2, dtype)).extend(30)
            told[f"parts {name}"] = apart(one, parts, None if dtype == torch.float64 else 8)
            told[f"bits {name}"] = len(
                set(group.gather(two.alphas.tobytes() + two.betas.tobytes()))
            )

        op, start = SymmetricOperator.from_matrix(rotated(lam)), starts(N, 1)
        told["ritz"] = float(np.abs(lam[-1] - _largest(both(group, op, start)[1].extend(M))))
        for where, dtype in [("host", None), ("none", None), ("device", torch.float16)]:
            policy = BasisPolicy(where, dtype)  # type: ignore[arg-type]
            one, two = (x.extend(15) for x in both(group, op, start, basis=policy))
            told[f"policy {where} {dtype}"] = apart(one, two, 8 if where == "none" else None)

        one, two = (x.extend(30) for x in both(group, op, start))
        one.condense(), two.condense()
        stored = [x._bases[0].size for x in (one, two)]
        one.extend(10), two.extend(10)
        told["condensed"] = [stored, *apart(one, two), two.condensed_error]

        state = both(group, op, start)[1].extend(11).state_dict()
        resumed = both(group, op, starts(N, 2)[1])[1]
        resumed.load_state_dict(state)
        whole = both(group, op, start)[1].extend(30)
        told["resumed"] = bool((resumed.extend(19).alphas == whole.alphas).all())

        # Breakdown after three steps; a vector of dimension 3 leaves the last slice of 2 short.
        few = np.repeat([1.0, 2.0, 4.0], 50)
        told["breakdown"] = apart(
            *(x.extend(20) for x in both(group, diagonal(few), starts(150, 1)))
        )
        tiny = diagonal(np.array([1.0, 2.0, 4.0]))
        told["tiny"] = apart(*(x.extend(9) for x in both(group, tiny, starts(3, 1))))
        one_entry = diagonal(np.array([7.0]))  # the second process holds nothing
        told["one"] = both(group, one_entry, torch.ones(1))[1].extend(4).alphas.tolist()

        pairs = eigenpairs(SlicedOperator(op, group), k=2, tol=1e-8)
        told["pairs"] = [pairs.values.tolist(), list(pairs.vectors.shape), pairs.residuals.tolist()]
        told["lam"] = lam[[0, 1, -2, -1]].tolist()
    told["failing"] = failing(group)
    with open(f"{folder}/{group.rank}.json", "w") as handle:
        json.dump(told, handle)


class Failing(Halves):
    """Fails on the second process in its third product."""

    made = 0

    def partial_product(self, V: torch.Tensor) -> torch.Tensor:
        self.made += 1
        if self.made == 3 and world().rank == 1:
            raise NumericalError("the third product is not finite.")
        return super().partial_product(V)


def failing(group: Group) -> list[Any]:
    """Return the error that this process sees, and that the group can be used afterwards."""
    op = SlicedOperator(Failing(rotated(np.arange(1.0, 31.0)), group), group)
    try:
        with group.together():
            Lanczos(op, starts(30, 1)).extend(9)
    except NumericalError as error:
        with group.together():
            return [str(error), float(group.sum_(torch.ones(1)))]
    return []


def _largest(run: Lanczos) -> float:
    m = int(run.steps[0])
    off = run.betas[0, : m - 1]
    return float(
        np.linalg.eigvalsh(np.diag(run.alphas[0]) + np.diag(off, 1) + np.diag(off, -1))[-1]
    )


if __name__ == "__main__":
    main(sys.argv[1])
