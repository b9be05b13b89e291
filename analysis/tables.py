"""Tables for people: masses near zero as intervals, with what must be read beside them.

A mass whose interval is wide is not a measurement, so no near-zero mass is ever printed as a bare
number. Intervals are rounded outward: what is printed contains what was computed. Records of the
reference procedure have node sums without an error; their numbers are marked and explained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.labels import WINQ_LABEL, bits_label, known, point_words, step_label
from spectra.errors import RecordError, printable
from spectra.quadrature import assumption
from spectra.record import write_atomically

DASH = "–"
BELOW = "below δ"
LONGEST = 200  # characters of a cell
SIGNIFICANT = 5  # digits of an end of an interval
TELLING = 0.2  # widest interval of a share that is printed
NEARLY_ALL = 0.999  # shares beyond it are not worth a column
SIGN = str.maketrans("-", "−")
REFERENCE_NOTE = f"ref: {WINQ_LABEL}; mean ± std over batches of node sums, whose error is unknown"
SOFT_NOTE = "share τ: each eigenvalue counts 1/(1 + (λ/τ)⁴); resolved τ: known from there to 0.05"
ZERO_NOTE = "structural: lower bound on the exact zeros that few tokens force; δ: product error"


def table(
    runs: pd.DataFrame,
    *,
    taus: Iterable[float] | None = None,
    relative: bool = False,
    sharp: bool = False,
    by: Iterable[str] = (),
) -> pd.DataFrame:
    """Return a compact table of text, a row a run, of what `analysis.load` returned.

    Args:
        runs: Rows of `analysis.load`.
        taus: Absolute thresholds of the shares near zero; default those that some run knows.
        sharp: Whether to give the shares with sharp edges in place of the soft ones.
        relative: With `sharp`, whether to add the thresholds relative to the spectral radius.
        by: Further columns of `runs` to show, in front.
    """
    columns: dict[str, list[str]] = {"run": [text(name) for name in runs["name"]]}
    rows: list[Any] = runs.to_dict("records")
    for name in by:
        columns[name] = [text(row.get(name)) for row in rows]
    columns["bits"] = [bits_label(row.get("w_bits"), row.get("a_bits")) or DASH for row in rows]
    columns["step"] = [step_label(row.get("step")) or DASH for row in rows]
    columns["surface"] = [text(row.get("surface")) for row in rows]
    points = [point_words(row) for row in rows]
    if any(points):
        columns["point"] = [words or DASH for words in points]
    columns["batches×probes×steps"] = [_effort(row) for row in rows]
    columns["loss"] = [plus_minus(row.get("loss"), row.get("loss_se")) for row in rows]
    for end, name in (("λmin", "lambda_min"), ("λmax", "lambda_max")):
        columns[end] = [_extreme(row, name) for row in rows]
    columns |= _sharp_columns(runs, rows, taus, relative) if sharp else _soft_columns(runs, taus)
    columns["masked"] = [percent(row.get("masked_fraction")) for row in rows]
    columns["structural"] = [
        f"≥{percent(row['structural_zero_fraction'])}"
        if known(row.get("structural_zero_fraction"))
        else "unknown"
        for row in rows
    ]
    columns["δ"] = [text(row.get("product_error")) for row in rows]
    return pd.DataFrame(columns, index=runs.index)


def _sharp_columns(
    runs: pd.DataFrame, rows: list[Any], taus: Iterable[float] | None, relative: bool
) -> dict[str, list[str]]:
    columns = {"negative": [_share(row, "negative_mass") for row in rows]}
    for name in mass_columns(runs, taus, relative=relative):
        heading = name.removeprefix("near_zero_")
        heading = f"≤{heading.removeprefix('rel_')}ρ" if "rel_" in heading else f"≤{heading}"
        columns[f"|λ|{heading}"] = [_near_zero(row, name) for row in rows]
    return columns


def soft_columns(runs: pd.DataFrame) -> list[str]:
    """Return the names of the columns of soft shares of order 2, thresholds ascending."""
    names = [c for c in runs.columns if re.fullmatch(r"soft_[\d.]+(e[+-]\d+)?", c)]
    return sorted(names, key=_threshold)


def _soft_columns(runs: pd.DataFrame, taus: Iterable[float] | None) -> dict[str, list[str]]:
    """Return the soft shares at the thresholds asked for, or where some run knows them.

    An interval that says next to nothing gives way to the threshold from which the run knows more.
    """
    names = soft_columns(runs)
    if taus is not None:
        names = [name for name in names if _threshold(name) in set(taus)]
    rows: list[Any] = runs.to_dict("records")
    columns: dict[str, list[str]] = {}
    for name in names:
        informative = any(_is_narrow(row, name) and not _is_all(row, name) for row in rows)
        if taus is not None or informative:
            heading = f"share τ={name.removeprefix('soft_')}"
            columns[heading] = [_soft_cell(row, name) for row in rows]
    columns["resolved τ"] = [text(row.get("resolved_tau")) for row in rows]
    return columns


def _is_narrow(row: Mapping[str, Any], name: str) -> bool:
    low, high = row.get(f"{name}_lower"), row.get(f"{name}_upper")
    return known(low) and known(high) and float(str(high)) - float(str(low)) <= TELLING


def _is_all(row: Mapping[str, Any], name: str) -> bool:
    return known(row.get(f"{name}_lower")) and float(row[f"{name}_lower"]) > NEARLY_ALL


def _soft_cell(row: Mapping[str, Any], name: str) -> str:
    if row.get("protocol") == "winq" or not known(row.get(f"{name}_lower")):
        return DASH
    if _is_narrow(row, name):
        return share_interval(row[f"{name}_lower"], row[f"{name}_upper"])
    return f"from τ={text(row['resolved_tau'])}" if known(row.get("resolved_tau")) else "more steps"


def table_text(runs: pd.DataFrame, **options: Any) -> str:
    """Return `table` as aligned text; what all runs share is said once, above.

    Args:
        runs: Rows of `analysis.load`.
        **options: Of `table`.
    """
    shown = table(runs, **options)
    shared = {}
    if len(shown) > 1:
        for name in (
            "bits",
            "step",
            "surface",
            "point",
            "batches×probes×steps",
            "masked",
            "structural",
            "δ",
        ):
            if name in shown and shown[name].nunique() == 1:
                shared[name] = shown.pop(name).iloc[0]
    lines = []
    if shared:
        facts = ", ".join(f"{name} {value}" for name, value in shared.items() if value != DASH)
        lines.append(f"all runs: {facts}")
    scopes = set(runs["scope"].dropna()) if "scope" in runs else set()
    if not scopes <= {"batches"}:
        over = runs.loc[runs["scope"] == "population", "num_batches"].dropna()
        lines += [assumption(int(over.min()))] if len(over) else []
    lines += aligned([list(shown.columns), *shown.to_numpy().tolist()])
    words = "these batches" if scopes <= {"batches"} else "the population over data"
    soft = "" if options.get("sharp") else f"{SOFT_NOTE}; "
    lines.append(f"[a, b]: 95 % interval, {words}; {soft}{ZERO_NOTE}")
    if not runs["complete"].all():
        lines.append(f"unfinished: {', '.join(runs.loc[~runs['complete'], 'name'])}")
    if (runs["protocol"] == "winq").any():
        lines.append(REFERENCE_NOTE)
    lines += warning_lines(runs)
    return "\n".join(lines)


def warning_lines(runs: pd.DataFrame) -> list[str]:
    """Return each warning of the records once, with the runs that have it."""
    told: dict[str, list[str]] = {}
    for name, words in zip(runs["name"], runs.get("warnings", ()), strict=False):
        for one in filter(None, str(words if known(words) else "").split("; ")):
            told.setdefault(one, []).append(str(name))
    return [
        f"warning, {names[0] if len(names) == 1 else f'{len(names)} runs'}: {words}"
        for words, names in told.items()
    ]


def mass_columns(
    runs: pd.DataFrame, taus: Iterable[float] | None, *, relative: bool = False
) -> list[str]:
    """Return the names of the near-zero columns of `runs`, thresholds ascending."""
    ends = ("_se", "_lower", "_upper", "_node_sum", "_tau")
    names = [c for c in runs.columns if c.startswith("near_zero_") and not c.endswith(ends)]
    plain = sorted((n for n in names if "_rel_" not in n), key=_threshold)
    if taus is not None:
        plain = [f"near_zero_{tau:g}" for tau in taus if f"near_zero_{tau:g}" in plain]
    scaled = sorted((n for n in names if "_rel_" in n), key=_threshold) if relative else []
    return plain + scaled


def write_csv(rows: pd.DataFrame, place: str | Path | None) -> str:
    """Write every row as CSV, free of control characters, and return its text.

    Args:
        rows: Any table.
        place: Where; None writes nothing. A link there is replaced, not followed.

    Raises:
        RecordError: If it cannot be written.
    """
    shown = rows.copy()
    for name in shown.columns:
        if any(isinstance(value, str) for value in shown[name]):
            shown[name] = [printable(v) if isinstance(v, str) else v for v in shown[name]]
    content = str(shown.to_csv(index=False))
    if place is not None:
        try:
            write_atomically(Path(place), content.encode())
        except OSError as error:
            reason = error.strerror or str(error)
            raise RecordError(f"csv={str(place)!r} cannot be written: {reason}.") from None
    return content


def aligned(rows: list[list[str]]) -> list[str]:
    """Return rows of cells as lines, the first column flush left, the others flush right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def share_interval(lower: Any, upper: Any) -> str:
    """Return [0.00, 0.94]: an interval of shares, rounded outward to digits that fit its width."""
    if not (known(lower) and known(upper)):
        return DASH
    width = max(float(upper) - float(lower), 1e-6)
    digits = min(6, max(2, math.ceil(-math.log10(width)) + 1))
    scale = 10**digits
    low = max(math.floor(float(lower) * scale + 1e-9) / scale, 0.0)
    high = min(math.ceil(float(upper) * scale - 1e-9) / scale, 1.0)
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def number_interval(lower: Any, upper: Any) -> str:
    """Return [−4.01, −3.98]: an interval rounded outward, with digits that fit its width."""
    if not (known(lower) and known(upper)):
        return DASH
    low, high = float(lower), float(upper)
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"[{low:.4g}, {high:.4g}]".translate(SIGN)
    size = max(abs(low), abs(high), 1e-300)
    places = 1 - math.floor(math.log10(max(high - low, 1e-5 * size)))  # two digits of the width
    leading = math.floor(math.log10(size))
    places = min(places, SIGNIFICANT - 1 - leading)
    scale = 10.0 ** min(places, 300)
    low = math.floor(low * scale + 1e-6) / scale  # 1e-6 of a unit: what is exact stays exact
    high = math.ceil(high * scale - 1e-6) / scale
    if not -4 <= leading < 6:
        digits = max(places + leading, 0)
        return f"[{low:.{digits}e}, {high:.{digits}e}]".translate(SIGN)
    return f"[{low:.{max(places, 0)}f}, {high:.{max(places, 0)}f}]".translate(SIGN)


def plus_minus(value: Any, error: Any) -> str:
    """Return 2.513 ± 0.021: a value with its standard error in two digits."""
    if not known(value):
        return DASH
    if not known(error) or not float(error) > 0:
        return f"{float(value):.4g}".translate(SIGN)
    digits = max(0, 1 - math.floor(math.log10(float(error))))
    if digits > 6:
        return f"{float(value):.5g} ± {float(error):.1e}".translate(SIGN)
    return f"{float(value):.{digits}f} ± {float(error):.{digits}f}".translate(SIGN)


def percent(share: Any) -> str:
    """Return 42.5 %, or a dash."""
    return f"{100 * float(share):.1f} %" if known(share) else DASH


def text(value: Any) -> str:
    """Return a value as a cell."""
    if not known(value):
        return DASH
    if isinstance(value, float):
        return f"{value:.3g}".translate(SIGN)
    return printable(str(value), longest=LONGEST)


def _threshold(name: str) -> float:
    return float(name.rsplit("_", 1)[1])


def _effort(row: Mapping[str, Any]) -> str:
    numbers = (row.get(name) for name in ("num_batches", "num_probes", "lanczos_steps"))
    return "×".join(f"{int(n)}" if known(n) else "?" for n in numbers)


def _extreme(row: Mapping[str, Any], name: str) -> str:
    if row.get("protocol") == "winq":
        return f"ref {text(row.get(f'reference_{name}'))}"
    return number_interval(row.get(f"{name}_lower"), row.get(f"{name}_upper"))


def _share(row: Mapping[str, Any], name: str) -> str:
    if row.get("protocol") == "winq":
        return DASH
    return share_interval(row.get(f"{name}_lower"), row.get(f"{name}_upper"))


def _near_zero(row: Mapping[str, Any], name: str) -> str:
    if row.get("protocol") == "winq":
        asked = row.get("reference_tau")
        mine = known(asked) and "_rel_" not in name and float(f"{asked:g}") == _threshold(name)
        mean, spread = row.get("reference_near_zero_mean"), row.get("reference_near_zero_std")
        return f"ref {plus_minus(mean, spread)}" if mine and known(mean) else DASH
    tau, error = row.get(f"{name}_tau"), row.get("product_error")
    tau = tau if known(tau) else None if "_rel_" in name else _threshold(name)
    if known(error) and known(tau) and float(tau) < float(error):
        return BELOW
    return _share(row, name)
