"""The operators of an estimate by their index: those of a curvature family, or a single one."""

from __future__ import annotations

from spectra.curvature.family import Curvature
from spectra.linalg import SymmetricOperator


class Members:
    """The operators that a family's own `reduce` makes of its batches."""

    def __init__(self, family: Curvature) -> None:
        self._family = family

    def num_operators(self) -> int:
        """Return the number of operators."""
        return self._family.num_operators()

    def operator(self, index: int) -> SymmetricOperator:
        """Return operator `index`."""
        mean = self._family.reduce == "mean"
        return self._family.mean if mean else self._family.operator(index)


class One:
    """A family of one operator."""

    def __init__(self, operator: SymmetricOperator) -> None:
        self._operator = operator

    def num_operators(self) -> int:
        """Return the number of operators."""
        return 1

    def operator(self, index: int) -> SymmetricOperator:  # noqa: ARG002 - there is only one
        """Return the operator."""
        return self._operator
