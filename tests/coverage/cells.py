"""One cell of the table: how often the interval of one quantity holds, and how wide it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from spectra.errors import UsageError
from spectra.quadrature import Estimate
from tests.coverage.families import FAMILIES, spectrum
from tests.coverage.instances import USUAL, measures
from tests.coverage.quantities import QUANTITIES, Quantity, suits

SLACK = 1e-12  # of the exact value: what its own summation may be wrong by


@dataclass(frozen=True)
class Cell:
    """Coverage of one quantity on one family of instances.

    Attributes:
        part: "spectrum", "population", "difference" or "trace".
        quantity: Its name.
        family: Of spectra, or of batch effects.
        setting: How the instances were run.
        instances: Intervals that were given.
        held: Of these, how many hold the exact value.
        width: Median width.
        exact: The exact value, that of the first instance where it varies.
        refused: Instances that were told that no interval can be given.
        resolved: Differences that exclude 0; None for what is no difference.
    """

    part: str
    quantity: str
    family: str
    setting: str
    instances: int
    held: int
    width: float
    exact: float
    refused: int = 0
    resolved: int | None = None

    @property
    def coverage(self) -> float:
        """The share of intervals that hold."""
        return self.held / self.instances if self.instances else math.nan

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What names the cell."""
        return self.part, self.quantity, self.family, self.setting

    def row(self) -> dict[str, Any]:
        """Return the cell for a JSON file."""
        row = asdict(self) | {"coverage": round(self.coverage, 4)}
        return {key: _plain(value) for key, value in row.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


class Tally:
    """Collects the intervals of one cell."""

    def __init__(self, part: str, quantity: str, family: str, setting: str) -> None:
        self.place = part, quantity, family, setting
        self.held, self.refused, self.widths = 0, 0, []
        self.exact: float | None = None
        self.resolved: int | None = None

    def add(self, lower: float, upper: float, exact: float, resolved: bool | None = None) -> None:
        """Count one interval; one that is not a number says nothing and is counted as refused."""
        self.exact = exact if self.exact is None else self.exact
        if math.isnan(lower) or math.isnan(upper):
            self.refused += 1
            return
        slack = SLACK * abs(exact)
        self.held += int(lower - slack <= exact <= upper + slack)
        self.widths.append(upper - lower)
        if resolved is not None:
            self.resolved = (self.resolved or 0) + int(resolved)

    def cell(self) -> Cell:
        """Return what was collected."""
        width = float(np.median(self.widths)) if self.widths else math.nan
        exact = math.nan if self.exact is None else float(self.exact)
        count = len(self.widths)
        return Cell(*self.place, count, self.held, width, exact, self.refused, self.resolved)


def collect(tally: Tally, estimate: Callable[[], Estimate], exact: float) -> None:
    """Add what `estimate` gives, or that it refuses."""
    try:
        found = estimate()
    except UsageError:
        tally.refused += 1
        return
    tally.add(found.lower, found.upper, exact)


def spectrum_cells(
    instances: int,
    settings: Iterable[str],
    families: Iterable[str] = tuple(FAMILIES),
    quantities: Iterable[Quantity] | None = None,
    seed: int = 0,
) -> Iterator[Cell]:
    """Yield the cells of one record's quantities for the batches that were used."""
    chosen = list(QUANTITIES.values() if quantities is None else quantities)
    for setting in settings:
        for family in families:
            for quantity in chosen:
                if (quantity.slow and setting != USUAL) or not suits(quantity, family):
                    continue
                tally = Tally("spectrum", quantity.name, family, setting)
                exact = quantity.exact([spectrum(family)])
                for measure in measures(family, setting, instances, seed):
                    collect(tally, partial(quantity.estimate, measure, "batches"), exact)
                yield tally.cell()
            measures.cache_clear()
