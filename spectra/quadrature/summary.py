"""The numbers every record states about its spectrum, each with its interval.

Near-zero mass is given on a ladder of thresholds: absolute ones (1.5e-3 is that of arXiv
2605.17471), and ones relative to the spectral radius, because an absolute threshold changes its
meaning when the loss is rescaled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from spectra.errors import UsageError
from spectra.quadrature.estimates import MIN_POPULATION, Estimate
from spectra.quadrature.extremes import extremes
from spectra.quadrature.mass import mass
from spectra.quadrature.measure import Measure
from spectra.quadrature.moments import moment

ABSOLUTE_TAUS = (1.5e-3, 1e-2, 1e-1)
RELATIVE_TAUS = (1e-4, 1e-3, 1e-2)


def summarize(measure: Measure) -> dict[str, Any]:
    """Return the `summary` section of a record: nested plain dictionaries of estimates.

    Every quantity has the keys `batches` and `population` (None with fewer than three batches).
    Thresholds narrower than the product error are listed with None for their mass.
    """
    entries: dict[str, Any] = {
        "mean_eigenvalue": _scopes(measure, lambda scope: moment(measure, 1, scope=scope))
    }
    if measure.steps >= 2:
        entries["mean_square_eigenvalue"] = _scopes(
            measure, lambda scope: moment(measure, 2, scope=scope)
        )
    if measure.spherical:
        entries["lambda_min"] = _scopes(measure, lambda s: extremes(measure, scope=s)[0])
        entries["lambda_max"] = _scopes(measure, lambda s: extremes(measure, scope=s)[1])
        edge = -measure.delta
        entries["negative_mass"] = _scopes(
            measure, lambda s: mass(measure, -float("inf"), edge, closed=False, scope=s)
        )
        entries["near_zero"] = _near_zero(measure)
    return entries


def _near_zero(measure: Measure) -> list[dict[str, Any]]:
    radius = max(abs(end) for end in measure.span)
    thresholds: list[tuple[float, float | None]] = [(tau, None) for tau in ABSOLUTE_TAUS]
    thresholds += [(factor * radius, factor) for factor in RELATIVE_TAUS]
    rows = []
    for tau, relative in thresholds:
        row: dict[str, Any] = {"tau": tau, "relative_tau": relative}
        try:
            row |= _scopes(measure, lambda s, t=tau: mass(measure, -t, t, scope=s))  # type: ignore[misc]
        except UsageError as error:
            row |= {"batches": None, "population": None, "note": str(error)}
        rows.append(row)
    return rows


def _scopes(measure: Measure, estimate: Callable[[str], Estimate]) -> dict[str, Any]:
    enough = measure.num_batches >= MIN_POPULATION
    return {
        "batches": dataclasses.asdict(estimate("batches")),
        "population": dataclasses.asdict(estimate("population")) if enough else None,
    }
