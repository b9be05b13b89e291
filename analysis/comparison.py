"""Two records of the same batches: what differs, by how much, and whether that is resolved.

The numbers are those of spectra.quadrature.difference; here they become a table and a text that
leads with what is resolved, and says of the rest what stands in the way. Intervals are rounded
outward.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.comparable import check_comparable, common_batches
from analysis.labels import config_id, title_parts
from analysis.load import RecordWarning, find_records, spectrum
from analysis.tables import DASH, SIGN, aligned, number_interval, share_interval
from spectra.errors import UsageError
from spectra.quadrature import Difference, Estimate, assumption, differences
from spectra.quadrature.difference import RESOLVED
from spectra.quadrature.estimates import CONFIDENCE, RESOLVED_WIDTH
from spectra.record.spectrum import Spectrum

WORDS = {
    "rms_eigenvalue": "rms eigenvalue",
    "lambda_max": "λmax",
    "lambda_min": "λmin",
    "spectral_norm": "spectral norm",
    "trace": "trace",
    "wasserstein": "Wasserstein-1 distance",
    "negative_mass": "mass λ < 0",
    "mean_magnitude": "mean |λ|",
    "effective_rank": "effective rank (Σ|λ|)²/Σλ²",
}
CURES = {
    "resolution": "more steps",
    "probes": "more probes",
    "batches": "more batches",
    "product error": "a higher precision",
}


@dataclass(frozen=True)
class Comparison:
    """B − A, quantity by quantity.

    Attributes:
        table: A row a quantity: quantity, tau, a, a_lower, a_upper, b, b_lower, b_upper,
            difference, lower, upper, resolved, limited_by, note, scope. `limited_by` is what makes
            the greatest part of the interval: resolution, probes, batches or product error.
        a: What A is, in words.
        b: What B is.
        batches: Batches compared.
        scope: "batches" or "population".
        confidence: Of each interval by itself.
        notes: What else differs, and what was left out.
    """

    table: pd.DataFrame
    a: str
    b: str
    batches: int
    scope: str
    confidence: float
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the comparison for a terminal, what is resolved first."""
        held = f"{100 * self.confidence:g} %"
        where = "this batch" if self.batches == 1 else f"these {self.batches} batches"
        where = "population over data" if self.scope == "population" else where
        lines = [f"A  {self.a}", f"B  {self.b}"]
        if self.scope == "population":
            lines.append(assumption(self.batches, self.confidence))
        rows: list[Any] = self.table.to_dict("records")
        heads = ["A", "B", f"B − A, {held}, {where}", "limited by"]
        groups = {
            "resolved: the interval excludes 0": [row for row in rows if row["resolved"]],
            "not resolved": [row for row in rows if not row["resolved"]],
        }
        cells = [["", *heads]]
        for name, group in groups.items():
            cells += [[name, "", "", "", ""]] if group else []
            cells += [_cells(row) for row in group]
        lines += aligned(cells)
        lines.append(
            f"each interval holds with {held} by itself, not all at once; the distance is never "
            "negative, its lower end is what is resolved"
        )
        limits = [row["limited_by"] for row in groups["not resolved"]]
        cures = [f"{cure} ({limits.count(part)})" for part, cure in CURES.items() if part in limits]
        lines += [f"what would narrow the rest: {', '.join(cures)}"] if cures else []
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def compare(
    a: Any,
    b: Any,
    *,
    scope: str = "batches",
    taus: Iterable[float] | None = None,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Return what differs between two records of the same batches, B − A.

    Args:
        a: A record, a row of `analysis.load`, or a path at or below which there is one record.
        b: Another.
        scope: "batches": of the batches used; "population": over data like them, from three
            batches.
        taus: Thresholds of near-zero masses, chosen before looking; default those of a record.
        confidence: Of each interval by itself.

    Raises:
        UsageError: If the two are not comparable, or an argument is wrong.
        RecordError: If a record cannot be read.
    """
    both = [_record(one) for one in (a, b)]
    notes = check_comparable(*both)
    if _same(*both):
        notes.insert(0, "A and B are the same record: nothing can differ")
    common = common_batches(*both)
    if not all((one.steps > 0).any(axis=1).all() for one in both):
        notes.append(f"unfinished: {int(common.sum())} of {common.size} batches compared")
    measures = [
        dataclasses.replace(one, steps=np.where(common[:, None], one.steps, 0)).measure
        for one in both
    ]
    found = differences(*measures, scope=scope, taus=taus, confidence=confidence)
    first, second = (", ".join(title_parts(one.metadata)) for one in both)
    table, batches = pd.DataFrame([_row(one) for one in found]), int(common.sum())
    return Comparison(table, first, second, batches, scope, confidence, tuple(notes))


def record_pairs(
    a: str | os.PathLike[str], b: str | os.PathLike[str]
) -> dict[str, tuple[Path, Path]]:
    """Return {name: (A, B)} of the records at or below two directories that belong together.

    One record on either side is a pair whatever it is called; otherwise records of equal name
    below the directories are, and the others are told and left out.

    Raises:
        UsageError: If no names agree.
        RecordError: If a directory holds no record.
    """
    first, second = _records(a), _records(b)
    if len(first) == len(second) == 1:
        return {"": (next(iter(first.values())), next(iter(second.values())))}
    common = [name for name in first if name in second]
    if not common:
        raise UsageError(
            f"the records of {str(a)!r} ({', '.join(first)}) and of {str(b)!r} "
            f"({', '.join(second)}) have no name in common; name one record on either side."
        )
    alone = [f"{name} (A only)" for name in first if name not in second]
    alone += [f"{name} (B only)" for name in second if name not in first]
    if alone:
        warnings.warn(f"left out: {', '.join(alone)}", RecordWarning, stacklevel=2)
    return {name: (first[name], second[name]) for name in common}


def quantity_words(name: str, tau: Any = None) -> str:
    """Return how a quantity of the table is called in text."""
    if name == RESOLVED:
        end = "" if tau is None or math.isnan(tau) else f" ≤ {tau:g}"
        return f"mass |λ|{end}, smallest τ resolved to {RESOLVED_WIDTH:g} in both"
    if name.startswith("soft_"):
        rest = name.removeprefix("soft_").removeprefix("unmasked_")
        where = " of the unmasked" if "unmasked" in name else ""
        relative = f" ≈ {rest.removeprefix('rms_')} rms of A" if "rms_" in rest else ""
        return f"soft share{where}, τ = {tau:g}{relative}"
    if name.startswith("near_zero_"):
        return f"mass |λ| ≤ {name.removeprefix('near_zero_')}"
    if name.startswith("abs_quantile_"):
        return f"{name.removeprefix('abs_quantile_')}-quantile of |λ|"
    return WORDS[name]


def _record(one: Any) -> Spectrum:
    if isinstance(one, (str, os.PathLike)):
        found = _records(one)
        if len(found) > 1:
            raise UsageError(
                f"{os.fspath(one)!r} holds {len(found)} records ({', '.join(found)}); name one."
            )
        return spectrum(next(iter(found.values())))
    return spectrum(one)


def _same(a: Spectrum, b: Spectrum) -> bool:
    """Whether two records are one, or copies of one."""
    if a is b:
        return True
    pairs = ((a.alphas, b.alphas), (a.betas, b.betas), (a.steps, b.steps))
    return config_id(a.metadata) == config_id(b.metadata) and all(
        np.array_equal(mine, other, equal_nan=True) for mine, other in pairs
    )


def _records(root: str | os.PathLike[str]) -> dict[str, Path]:
    found = {name: place for place, name in find_records([root]).items()}
    return found or {Path(root).name: Path(root)}  # loading it says what is missing


def _row(found: Difference) -> dict[str, Any]:
    row: dict[str, Any] = {
        "quantity": found.name,
        "tau": math.nan if found.tau is None else found.tau,
    }
    for side, one in (("a", found.a), ("b", found.b)):
        row |= _ends(side, one)
    return row | {
        "difference": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "resolved": found.resolved,
        "limited_by": found.limited_by,
        "note": found.note,
        "scope": found.scope,
    }


def _ends(side: str, one: Estimate | None) -> dict[str, float]:
    values = (math.nan,) * 3 if one is None else (one.value, one.lower, one.upper)
    return dict(zip((side, f"{side}_lower", f"{side}_upper"), values, strict=True))


def _cells(row: dict[str, Any]) -> list[str]:
    name = row["quantity"]
    share = name.startswith(("near_zero", "negative", "soft_"))
    write = share_interval if share else number_interval
    return [
        f"  {quantity_words(name, row['tau'])}",
        write(row["a_lower"], row["a_upper"]),
        write(row["b_lower"], row["b_upper"]),
        number_interval(row["lower"], row["upper"]),
        (row["limited_by"] or row["note"] or DASH).translate(SIGN),
    ]
