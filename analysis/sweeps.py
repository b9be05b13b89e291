"""Records arranged along a quantity: which rows make a line, with what interval, resolved or not.

A line is what one training run, or one seed of several, shows along x. Rows belong to one line if
they agree in everything that was asked for besides x and the checkpoint (`IDENTITY`), in the seed
of their training where it is known, and, where x is the step, in their run's directory.

*Resolved.* A share of eigenvalues is resolved if its interval is no wider than 0.1, another number
if its interval is no wider than half of its larger end. What is not resolved has no point in a
figure: it is the interval.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from analysis.labels import bits_label, drawn, known
from spectra.errors import UsageError, nearest
from spectra.quadrature.estimates import CONFIDENCE, RESOLVED_WIDTH

Floats = NDArray[np.float64]
MOVES = ("toward_grid", "noisy_weights", "proximal")
HUES = ("method", "w_bits", "surface", "layer", "module", *MOVES, "step")
IDENTITY = (
    "method", "w_bits", "a_bits", "step", "surface", "toward_grid", "rederived_scales",
    "noisy_weights", "proximal", "params", "per", "layer", "module", "reduce", "protocol",
    "data_sha256", "train_seed",
)  # fmt: skip
# A record without one of these was evaluated at 0.
AT_REST = ("toward_grid", "rederived_scales", "noisy_weights", "proximal")
NORMS = ("grad_norm", "grad_weight_ratio")
RELATIVE = 0.5
LABELS = {
    "step": "training step",
    "w_bits": "bits of a weight",
    "layer": "transformer block",
    "module": "linear module",
    "toward_grid": "fraction f of the way to the grid",
    "noisy_weights": "standard deviation of the weight noise",
    "proximal": "penalty γ",
    "lanczos_steps": "Lanczos steps",
    "lambda_max": "λmax  (loss per squared weight)",
    "lambda_min": "λmin  (loss per squared weight)",
    "rms_eigenvalue": "root mean square eigenvalue\n(loss per squared weight)",
    "mean_eigenvalue": "mean eigenvalue  (loss per squared weight)",
    "trace": "trace  (loss per squared weight)",
    "negative_mass": "share of negative eigenvalues",
    "masked_fraction": "masked share of weights",
    "loss": "loss  (nats a token)",
    "grad_norm": "‖∇L‖",
    "grad_weight_ratio": "‖∇L‖ / ‖W‖",
}


@dataclass(frozen=True)
class Line:
    """What one run shows along x.

    Attributes:
        hue: Its value of the quantity that colours, or None.
        style: Its value of the quantity that chooses the marker, or None.
        points: Columns x, value, lower, upper, resolved; ordered by x.
    """

    hue: Any
    style: Any
    points: pd.DataFrame


def quantity_label(name: str) -> str:
    """Return a quantity's words for an axis, with its unit."""
    if name.startswith("near_zero_rel_"):
        return f"share of eigenvalues\nwith |λ| ≤ {name.removeprefix('near_zero_rel_')} ρ"
    if name.startswith("near_zero_"):
        return f"share of eigenvalues\nwith |λ| ≤ {name.removeprefix('near_zero_')}"
    return LABELS.get(name) or drawn(name)


def is_share(name: str) -> bool:
    """Whether a quantity is a share, between 0 and 1."""
    return name.startswith("near_zero_") or name in ("negative_mass", "masked_fraction")


def value_label(name: str, value: Any, runs: pd.DataFrame) -> str:
    """Return how a value of the column `name` is called in a legend."""
    if not known(value):
        return {"w_bits": "not quantized", "method": "no method"}.get(name, f"no {name}")
    if name == "w_bits":
        return bits_label(value, only(runs, "a_bits"))
    words = f"{value:g}" if isinstance(value, int | float) else drawn(value)
    names = {
        "layer": "block", "toward_grid": "f =", "noisy_weights": "noise", "proximal": "γ =",
        "surface": "surface", "step": "step",
    }  # fmt: skip
    return f"{names[name]} {words}" if name in names else words


def only(runs: pd.DataFrame, column: str) -> Any:
    """Return the one known value of a column, or None if there is none or several."""
    values = list(runs[column].dropna().unique()) if column in runs else []
    return values[0] if len(values) == 1 else None


def prepared(runs: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Return the runs, numbered, with 0 for the point of evaluation where none is recorded.

    Raises:
        UsageError: If there is no run, or a name is not a column.
    """
    if runs.empty:
        raise UsageError("there is no record to draw; pass at least one.")
    for name in names:
        if name not in runs.columns:
            raise UsageError(
                f"{name!r} is not a column of these runs{nearest(name, runs.columns)}; pass e.g. "
                "step, w_bits, lambda_max or near_zero_0.1."
            )
    runs = runs.reset_index(drop=True)
    return runs.assign(
        **{key: runs[key].astype(float).fillna(0.0) for key in AT_REST if key in runs}
    )


def at_the_checkpoint(
    runs: pd.DataFrame, x: str, y: str, asked: Iterable[str | None] = ()
) -> tuple[pd.DataFrame, str]:
    """Return the runs without those moved off their checkpoint, and words for those left out.

    A record of perturbed weights is no point of training; along the steps it would be taken for
    one. It stays if what moved it is an axis, a colour, a marker or a panel that was asked for, or
    if all are moved.

    Args:
        runs: Rows of `prepared`.
        x: Column along which they are drawn.
        y: Column that is drawn.
        asked: Columns that tell them apart.
    """
    keys = [key for key in MOVES if key in runs and key not in (x, *asked)]
    moved = (runs[keys] != 0).any(axis=1)
    if not moved.any() or not (tells(runs, x, y) & ~moved).any():
        return runs, ""
    by = " or ".join(key for key in keys if (runs[key] != 0).any())
    count = int(moved.sum())
    return runs[~moved], f"{count} record{'s' if count > 1 else ''} with {by}"


def tells(runs: pd.DataFrame, x: str, y: str) -> pd.Series[bool]:
    """Return which runs have x, and y or an interval of it."""
    table = with_intervals(runs, y)
    return runs[x].notna() & (table["value"].notna() | table["lower"].notna())


def with_intervals(runs: pd.DataFrame, y: str) -> pd.DataFrame:
    """Return value, lower, upper and resolved of the column `y` for each run, same index.

    A column with a standard error over batches alone gets Student's t interval over the batches; a
    count has its value as both ends.
    """
    value = pd.to_numeric(runs[y], errors="coerce").astype(float)
    if f"{y}_lower" in runs:
        lower, upper = runs[f"{y}_lower"].astype(float), runs[f"{y}_upper"].astype(float)
    elif f"{y}_se" in runs:
        freedom = np.maximum(runs["num_batches"].astype(float) - 1, 1)
        half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * runs[f"{y}_se"].astype(float)
        lower, upper = value - half, value + half
        if y in NORMS:
            lower = lower.clip(lower=0.0)
    else:
        lower, upper = value, value
    found = pd.DataFrame({"value": value, "lower": lower, "upper": upper}, index=runs.index)
    return found.assign(resolved=resolved(y, found["lower"], found["upper"]))


def interval_words(runs: pd.DataFrame, y: str) -> str:
    """Return what the intervals of a column are of."""
    over_data = f"{y}_lower" not in runs or only(runs, "scope") == "population"
    return "population over data" if over_data else "these batches"


def resolved(name: str, lower: Any, upper: Any) -> NDArray[np.bool_]:
    """Return where an interval is narrow enough to speak of a value; see the module's docstring."""
    low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
    size = np.maximum(np.abs(low), np.abs(high))
    limit = np.full_like(size, RESOLVED_WIDTH) if is_share(name) else RELATIVE * size
    with np.errstate(invalid="ignore"):
        return np.asarray(np.isfinite(high - low) & (high - low <= limit))


def choose(runs: pd.DataFrame, taken: Iterable[str | None]) -> str | None:
    """Return the first of `HUES` in which the runs differ, those `taken` aside."""
    kept = set(taken)
    for name in HUES:
        if name not in kept and name in runs and runs[name].nunique(dropna=False) > 1:
            return name
    return None


def lines(
    runs: pd.DataFrame, x: str, y: str, *, hue: str | None, style: str | None
) -> tuple[list[Line], int]:
    """Return the lines of y along x, and the number of runs that have no x or no y.

    Raises:
        UsageError: If no run has both.
    """
    table = with_intervals(runs, y).assign(x=runs[x])
    there = tells(runs, x, y)
    if not there.any():
        raise UsageError(
            f"none of the {len(runs)} records tells both {x} and {y} (a mass within less than the "
            "product error is not told, nor an interval by the reference procedure); choose others."
        )
    keys = [key for key in IDENTITY if key in runs and key != x]
    asked = runs[keys].astype(object).where(runs[keys].notna(), None)
    series = [
        "" if x != "step" else _run(row) for row in runs.get("model", pd.Series(runs["name"]))
    ]
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for label, place, one in zip(runs.index, series, asked.itertuples(index=False), strict=True):
        if there[label]:
            groups.setdefault((place, *one), []).append(label)
    found = []
    for members in groups.values():
        for part in _without_repeats(table.loc[members]):
            first = runs.loc[part.index[0]]
            found.append(Line(_of(first, hue), _of(first, style), part))
    return found, int((~there).sum())


def _of(row: Any, name: str | None) -> Any:
    value = row[name] if name is not None else None
    value = value.item() if isinstance(value, np.generic) else value
    return value if known(value) else None


def _run(model: Any) -> str:
    """Return the training run that a checkpoint is of: its path without checkpoint-N."""
    path = PurePath(str(model))
    return str(path.parent if path.name.startswith("checkpoint-") else path)


def _without_repeats(points: pd.DataFrame) -> list[pd.DataFrame]:
    """Return lines that have each x once: repeats (other seeds, not told) go to further lines."""
    rank = points.groupby("x").cumcount()
    return [points[rank == k].sort_values("x") for k in range(int(rank.max()) + 1)]
