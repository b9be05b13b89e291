"""What the terminal says after an estimate: every number with its interval and its scope.

The table leads with what is known: extremes, rms, then soft shares from the finest threshold that
the run resolves upward, the effective dimension, and one line on the resolution. Under them stand
the exact zeros and the product error without which shares cannot be compared. Sharp shares, with
the plain node sums that other tools report, are added on request. Where a clip mask makes exact
zeros, each share is given twice: of all coordinates, and of the unmasked ones alone,
(share − f) / (1 − f) with f the masked share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.labels import (
    is_reference,
    known,
    masked_share,
    reference_label,
    section,
    title_parts,
)
from analysis.load import rms_of, summary_of
from analysis.tables import (
    BELOW,
    DASH,
    SIGN,
    aligned,
    number_interval,
    percent,
    share_interval,
    text,
)
from spectra.quadrature import assumption
from spectra.quadrature.soft import DEFAULT_ORDER, NARROW
from spectra.record.spectrum import Spectrum

SCOPES = ("batches", "population")
SHOWN = 6  # shares of a table
NEARLY_ALL = 0.99
WEIGHTS = "share near zero: each eigenvalue counts 1/(1 + (λ/τ)⁴); of order 1, 1/(1 + (λ/τ)²)"


def summary_lines(spectrum: Spectrum, *, sharp: bool = False) -> list[str]:
    """Return the record's summary as lines for a terminal.

    A record of the reference procedure is labelled as such, and its own numbers are given.

    Args:
        spectrum: The record.
        sharp: Whether to add the shares with sharp edges and their node sums.
    """
    meta = spectrum.metadata
    lines = [", ".join(title_parts(meta)), effort(spectrum)]
    if is_reference(meta):
        return lines + _reference(spectrum) + _zeros(spectrum) + _warned(meta)
    summary = summary_of(spectrum)
    if not summary:
        return [*lines, "no probe has finished: nothing is known yet"]
    scopes = [s for s in SCOPES if any(_of(entry, s) for entry in summary.values())]
    heads = {"batches": f"95 %, {_batches(spectrum)}", "population": "95 %, population over data"}
    cells = [["", "value", *(heads[scope] for scope in scopes)]]
    for name, key in (("λmin", "lambda_min"), ("λmax", "lambda_max")):
        cells += _number(name, summary.get(key), scopes)
    cells += _number("mean eigenvalue", summary.get("mean_eigenvalue"), scopes)
    square = summary.get("mean_square_eigenvalue")
    cells += _number("rms eigenvalue", {s: rms_of(_of(square, s)) for s in scopes}, scopes)
    cells += soft_rows(spectrum, summary, scopes)
    lines += [*aligned(cells), *_resolution(summary)]
    if "population" in scopes:
        lines.append(assumption(spectrum.measure.num_batches))
    if sharp:
        lines += _sharp(summary, scopes, heads, masked_share(meta))
    return [*lines, *_zeros(spectrum), *_warned(meta)]


def soft_rows(spectrum: Spectrum, summary: Mapping[str, Any], scopes: list[str]) -> list[list[str]]:
    """Return the rows of the soft shares that the run knows, and of the effective dimension."""
    rows: list[list[str]] = []
    masked = masked_share(spectrum.metadata)
    known_rows = [row for row in summary.get("soft") or [] if _is_known(row)]
    for row in _worth_showing(known_rows):
        name = f"share near zero, τ = {row['tau']:g}"
        name += "" if row.get("order") == DEFAULT_ORDER else f" (order {row.get('order')})"
        rows.append([name, *_shares(row, scopes, 0.0)])
        if 0 < masked < 1:
            rows.append(["  of the unmasked", *_shares(row, scopes, masked)])
    entry = summary.get("effective_dimension") or {}
    if known_rows and known(entry.get("tau")):
        rows += _number(f"effective dimension, τ = {entry['tau']:g}", entry, scopes)
    return rows


def _worth_showing(rows: list[Any]) -> list[Any]:
    """Return shares from the finest to the first that is nearly all, a few evenly among many."""
    shown: list[Any] = []
    for row in rows:
        shown.append(row)
        if (_of(row, "batches").get("lower") or 0.0) > NEARLY_ALL:
            break
    if len(shown) <= SHOWN:
        return shown
    return [shown[round(k * (len(shown) - 1) / (SHOWN - 1))] for k in range(SHOWN)]


def _is_known(row: Any) -> bool:
    here = _of(row, "batches")
    low, high = here.get("lower"), here.get("upper")
    return known(low) and known(high) and high - low <= NARROW


def _shares(row: Mapping[str, Any], scopes: list[str], masked: float) -> list[str]:
    def of_the_rest(share: Any) -> Any:
        return max(0.0, (share - masked) / (1 - masked)) if known(share) else share

    ends = [
        tuple(of_the_rest(_of(row, s).get(name)) for name in ("lower", "upper")) for s in scopes
    ]
    middle = of_the_rest(_of(row, "batches").get("value"))
    return [f"{middle:.3g}", *(share_interval(*pair) for pair in ends)]


def _resolution(summary: Mapping[str, Any]) -> list[str]:
    """Return the line on what the run resolves: "resolved down to τ = 0.15 (width ≤ 0.05)"."""
    entry = summary.get("resolution") or {}
    needed = [row for row in entry.get("needed") or [] if known(row.get("steps"))]
    if not entry:
        return []
    tau, width = entry.get("tau"), entry.get("width")
    words = (
        f"resolved down to τ = {tau:g} (width ≤ {width:g})"
        if known(tau)
        else f"no share near zero is known to {width:g} yet"
    )
    nearest = max(needed, key=lambda row: row["tau"], default=None)
    if nearest is not None:
        words += f"; τ = {nearest['tau']:g} needs about {_rounded(nearest['steps']):,} steps"
        finest = min(needed, key=lambda row: row["tau"])
        if finest is not nearest:
            words += f", τ = {finest['tau']:g} about {_rounded(finest['steps']):,}"
    return [words, WEIGHTS]


def _rounded(steps: float) -> int:
    unit = int(10 ** max(0, len(str(int(steps))) - 2))
    return int(-(-steps // unit) * unit)


def _sharp(
    summary: Mapping[str, Any], scopes: list[str], heads: Mapping[str, str], masked: float
) -> list[str]:
    """Return the shares with sharp edges as lines, with the node sums that other tools report."""
    cells = [["sharp edges", "", *(heads[scope] for scope in scopes), "node sum"]]
    cells += _mass("mass λ < 0", summary.get("negative_mass"), scopes)
    notes = []
    for entry in summary.get("near_zero") or []:
        cells += _mass(threshold_words(entry), entry, scopes) or [
            [threshold_words(entry), "", *[BELOW] * len(scopes), DASH]
        ]
        cells += _unmasked(entry, scopes, masked)
        note = _of(entry, "batches").get("note") or entry.get("note")
        notes += [f"  {note}".translate(SIGN)] if note else []
    return [*aligned(cells), *notes]


def effort(spectrum: Spectrum) -> str:
    """Return "3 batches × 1 probe × 100 steps, float32, unfinished (2 of 3 probes)"."""
    batches, probes, length = spectrum.alphas.shape
    estimator = section(spectrum.metadata, "estimator")
    steps = spectrum.measure.steps if spectrum.finished else length
    if spectrum.exact and spectrum.finished:
        words = f"{_many(batches, 'batch')}, exact: all {spectrum.measure.steps:,} eigenvalues"
        return words if spectrum.complete else f"{words}, unfinished"
    words = f"{_many(batches, 'batch')} × {_many(probes, 'probe')} × {_many(steps, 'step')}"
    kind = estimator.get("dtype")
    words += f", {kind}" if kind else ""
    if not spectrum.complete:
        words += f", unfinished ({spectrum.finished} of {batches * probes} probes)"
    return words


def threshold_words(entry: Mapping[str, Any]) -> str:
    """Return "mass |λ| ≤ 0.0015", or with the factor of the spectral radius ρ."""
    relative = entry.get("relative_tau")
    words = f"{relative:g}ρ = {entry['tau']:.3g}" if known(relative) else f"{entry['tau']:g}"
    return f"mass |λ| ≤ {words}"


def _many(count: int, name: str) -> str:
    plural = "es" if name.endswith("ch") else "s"
    return f"{count} {name}{plural if count != 1 else ''}"


def _batches(spectrum: Spectrum) -> str:
    count = spectrum.measure.num_batches
    return "this batch" if count == 1 else f"these {count} batches"


def _of(entry: Any, scope: str) -> dict[str, Any]:
    found = entry.get(scope) if isinstance(entry, Mapping) else None
    return found if isinstance(found, dict) else {}


def _number(name: str, entry: Any, scopes: list[str]) -> list[list[str]]:
    if not _of(entry, "batches"):
        return []
    intervals = [number_interval(_of(entry, s).get("lower"), _of(entry, s).get("upper"))
                 for s in scopes]  # fmt: skip
    value = _of(entry, "batches").get("value")
    return [[name, f"{value:.4g}".translate(SIGN) if known(value) else DASH, *intervals]]


def _mass(name: str, entry: Any, scopes: list[str]) -> list[list[str]]:
    """A mass has no bare value: the middle of its band would be read as a measurement."""
    here = _of(entry, "batches")
    if not here:
        return []
    intervals = [share_interval(_of(entry, s).get("lower"), _of(entry, s).get("upper"))
                 for s in scopes]  # fmt: skip
    sums = here.get("node_sum")
    return [[name, "", *intervals, f"{sums:.3f}" if known(sums) else DASH]]


def _unmasked(entry: Mapping[str, Any], scopes: list[str], masked: float) -> list[list[str]]:
    here = _of(entry, "batches")
    if not here or not 0 < masked < 1:
        return []

    def of_the_rest(share: Any) -> Any:
        return max(0.0, (share - masked) / (1 - masked)) if known(share) else share

    intervals = [
        share_interval(*(of_the_rest(_of(entry, s).get(end)) for end in ("lower", "upper")))
        for s in scopes
    ]
    sums = of_the_rest(here.get("node_sum"))
    return [["  of the unmasked", "", *intervals, f"{sums:.3f}" if known(sums) else DASH]]


def _zeros(spectrum: Spectrum) -> list[str]:
    checks = section(spectrum.metadata, "checks")
    structural, error = checks.get("structural_zero_fraction"), checks.get("product_error")
    words = [
        f"structural zeros: at least {percent(structural)} of n"
        if known(structural)
        else "structural zeros: not known"
    ]
    masked = spectrum.metadata.get("masked_fraction")
    gamma = section(spectrum.metadata, "point").get("proximal")
    if known(masked) and masked > 0 and known(gamma):
        words.append(f"masked: {percent(masked)}, at the eigenvalue γ = {gamma:g}")
    elif known(masked) and masked > 0:
        more = " more" if known(structural) else ""
        words.append(f"masked zeros: {percent(masked)}{more} (counted in the masses)")
    words.append(
        f"product error δ = {text(float(error))}{_precision(spectrum)}: nothing below it is "
        "reportable"
        if known(error)
        else "product error δ: not measured"
    )
    return ["; ".join(words)]


def _precision(spectrum: Spectrum) -> str:
    """The precision that δ is the price of, where it is not plain float32."""
    estimator = section(spectrum.metadata, "estimator")
    dtype, name = estimator.get("dtype"), estimator.get("matmul_precision")
    rounded = dtype == "float32" and name in ("high", "medium")
    words = [dtype] if dtype and (dtype != "float32" or rounded) else []
    words += [f"matmul precision {name}"] if rounded else []
    return f" ({', '.join(words)})" if words else ""


def _warned(meta: Mapping[str, Any]) -> list[str]:
    return [f"warning: {words}" for words in meta.get("warnings") or []]


def _reference(spectrum: Spectrum) -> list[str]:
    reference = section(spectrum.metadata, "reference")
    lines = [reference_label(spectrum.metadata)]
    mean, spread = reference.get("near_zero_mean"), reference.get("near_zero_std")
    if known(mean):
        tau = float(reference.get("tau") or 1.5e-3)
        error = f" ± {float(spread):.4f} (std over batches)" if known(spread) else ""
        lines.append(f"node sum |λ| < {tau:g}: {float(mean):.4f}{error}, true error not known")
    for name, key, words in (
        ("λmin", "lambda_min", "smallest node with weight above 1e-8"),
        ("λmax", "lambda_max", "median over probes of the largest node"),
    ):
        if known(reference.get(key)):
            value = f"{float(reference[key]):.4g}".translate(SIGN)
            lines.append(f"{name} = {value} ({words})")
    return lines if len(lines) > 1 else [*lines, "its numbers are not in this record yet"]
