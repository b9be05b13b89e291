"""What the figures share: the symmetric-log λ axis, its grid and ticks, and who is drawn.

Eigenvalues of a loss Hessian span decades on both sides of zero, so the λ axis is linear within
±linthresh and logarithmic outside. The linear part is what m Lanczos steps cannot tell apart at
zero: half the mean gap between the nodes next to it, and never less than the density's own
smallest bandwidth, since decades below that would show the kernel and not the spectrum. The two
parts meet with equal slope (a linear half of 1/ln 10 decades), or every curve would have a kink.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from analysis.labels import bits_label, drawn, known, method_of, model_name, section, step_label
from analysis.load import spectrum
from analysis.sweeps import AT_REST, MOVES, value_label
from spectra.errors import UsageError
from spectra.quadrature import Measure
from spectra.quadrature.density import NARROWEST, PIXELS
from spectra.record.spectrum import Spectrum

Floats = NDArray[np.float64]
LAMBDA = "eigenvalue λ  (loss per squared weight)"
MAX_TICKS = 11
LINEAR = 1 / math.log(10)  # length of the linear part on either side, in decades


def as_spectra(runs: Any, hue: str | None) -> tuple[list[Spectrum], list[Any], list[str]]:
    """Return records, their values of `hue` and their labels from a DataFrame, records or paths.

    Records that share a value share a label; a second line says how many they are and in what they
    differ.

    Raises:
        UsageError: If there is nothing to draw, or `hue` is not a column.
    """
    if isinstance(runs, pd.DataFrame):
        if hue is not None and hue not in runs.columns:
            raise UsageError(f"hue={hue!r} is not a column; pass one of {', '.join(runs.columns)}.")
        rows = [row for _, row in runs.iterrows()]
        values = [row[hue] if hue else row["name"] for row in rows]
        found = [spectrum(row) for row in rows]
    else:
        several = isinstance(runs, Iterable) and not isinstance(runs, str)
        found = [spectrum(one) for one in (runs if several else [runs])]
        values = [_from_metadata(one, hue, place) for place, one in enumerate(found)]
    if not found:
        raise UsageError("there is no record to draw; pass at least one.")
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    values = [_at_rest(hue) if not known(value) else value for value in values]
    labels = [_label(one, hue, value) for one, value in zip(found, values, strict=True)]
    if hue is not None:
        alike = [[one for one, v in zip(found, values, strict=True) if v == value]
                 for value in values]  # fmt: skip
        labels = [label + _shared(some) for label, some in zip(labels, alike, strict=True)]
    return found, values, labels


def _at_rest(hue: str | None) -> float | None:
    return 0.0 if hue in AT_REST else None


def _shared(found: list[Spectrum]) -> str:
    """Return a second line for the label of several records: in what they differ."""
    if len(found) < 2:
        return ""
    facts = [_facts(one) for one in found]
    keys = [key for key in facts[0] if any(fact[key] != facts[0][key] for fact in facts)]
    return f"\n({len(found)} records{' differing in ' if keys else ''}{', '.join(keys)})"


def _facts(one: Spectrum) -> dict[str, Any]:
    """Return what tells records of one figure apart, the most telling first."""
    meta = one.metadata
    checkpoint, point = section(meta, "checkpoint"), section(meta, "point")
    estimator, part = section(meta, "estimator"), section(meta, "params")
    facts = {"method": method_of(meta), "surface": meta.get("surface")}
    facts |= {key: checkpoint.get(key) for key in ("w_bits", "a_bits", "step")}
    facts |= {key: part.get(key) for key in ("layer", "module")}
    facts |= {key: point.get(key) or 0.0 for key in AT_REST}
    facts["train_seed"] = section(section(checkpoint, "quantization"), "recipe").get("seed")
    keys = ("seed", "lanczos_steps", "num_probes", "num_batches", "dtype", "protocol")
    return facts | {key: estimator.get(key) for key in keys}


def _from_metadata(one: Spectrum, hue: str | None, place: int) -> Any:
    if hue is None:
        return place
    checkpoint, estimator = section(one.metadata, "checkpoint"), section(one.metadata, "estimator")
    if hue in AT_REST:
        return section(one.metadata, "point").get(hue)
    for where in (checkpoint, estimator, one.metadata):
        if hue in where:
            return where[hue]
    raise UsageError(f"hue={hue!r} is not in the record's metadata; pass e.g. 'step' or 'w_bits'.")


def _label(one: Spectrum, hue: str | None, value: Any) -> str:
    checkpoint = section(one.metadata, "checkpoint")
    if hue == "step":
        return f"step {step_label(value)}" if known(value) else "no step"
    if hue == "w_bits":
        return bits_label(value, checkpoint.get("a_bits")) or "not quantized"
    if hue in MOVES:
        return value_label(hue, value, pd.DataFrame())
    if hue is not None:
        return drawn(value) if known(value) else f"no {hue}"
    if isinstance(value, str):
        return drawn(value)
    step = step_label(checkpoint.get("step"))
    bits = bits_label(checkpoint.get("w_bits"), checkpoint.get("a_bits"))
    parts = (drawn(model_name(one.metadata)), bits, step and f"step {step}")
    return " ".join(part for part in parts if part)


def pixel(measure: Measure) -> float:
    """Return the smallest bandwidth of this measure's density."""
    low, high = measure.span
    return max(measure.delta, (high - low) / PIXELS, NARROWEST)


def linear_threshold(measures: Iterable[Measure]) -> float:
    """Return where the λ axis turns logarithmic: the resolution at zero, as 1, 2 or 5 · 10ᵏ."""
    widths = []
    for measure in measures:
        gaps = []
        for row in measure.runs:
            for run in row:
                theta = run.points[0]
                nearest = int(np.argmin(np.abs(theta)))
                around = theta[max(nearest - 1, 0) : nearest + 2]
                if around.size > 1:
                    gaps.append(float(np.diff(around).mean()) / 2)
        widths.append(max(float(np.median(gaps)) if gaps else 0.0, pixel(measure)))
    return _round_up(min(widths))


def _round_up(value: float) -> float:
    base = 10.0 ** math.floor(math.log10(value))
    return next(base * step for step in (1, 2, 5, 10) if base * step >= 0.999 * value)


def symlog(x: Floats | float, linthresh: float) -> Floats:
    """Return the position of x on the axis, in decades from 0."""
    scaled = np.asarray(x, dtype=np.float64) / linthresh
    outside = LINEAR + np.log10(np.maximum(np.abs(scaled), 1.0))
    return np.where(np.abs(scaled) <= 1, LINEAR * scaled, np.sign(scaled) * outside)


def unsymlog(t: Floats | float, linthresh: float) -> Floats:
    """Return the inverse of `symlog`."""
    place = np.asarray(t, dtype=np.float64)
    outside = np.sign(place) * 10.0 ** np.maximum(np.abs(place) - LINEAR, 0.0)
    return linthresh * np.where(np.abs(place) <= LINEAR, place / LINEAR, outside)


def lambda_limits(measures: Iterable[Measure], linthresh: float) -> tuple[float, float]:
    """Return ends of the λ axis that leave room around every Ritz value and around 0."""
    spans = [measure.span for measure in measures]
    low = symlog(min(min(span[0] for span in spans), 0.0), linthresh)
    high = symlog(max(max(span[1] for span in spans), 0.0), linthresh)
    room = 0.06 * max(float(high - low), 1.0)
    return float(unsymlog(low - room, linthresh)), float(unsymlog(high + room, linthresh))


def lambda_grid(limits: tuple[float, float], linthresh: float, points: int) -> Floats:
    """Return points spread evenly along the axis, (points,)."""
    low, high = (float(symlog(end, linthresh)) for end in limits)
    return unsymlog(np.linspace(low, high, points), linthresh)


def lambda_axis(ax: Axes, limits: tuple[float, float], linthresh: float) -> None:
    """Make the x axis of `ax` symmetric-log with ticks at 0 and whole decades that fit."""
    # matplotlib draws linscale/(1 − 1/base) decades of linear part on either side.
    ax.set_xscale("symlog", linthresh=linthresh, linscale=0.9 * LINEAR)
    ax.set_xlim(*limits)
    ax.xaxis.set_major_locator(FixedLocator(_ticks(limits, linthresh)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
    ax.set_xlabel(LAMBDA)


def _ticks(limits: tuple[float, float], linthresh: float) -> list[float]:
    first = math.ceil(math.log10(linthresh) - 1e-9)
    last = math.floor(math.log10(max(abs(limits[0]), abs(limits[1]), linthresh)) + 1e-9)
    decades = [10.0**power for power in range(first, last + 1)]
    sides = sum(1 for d in decades for x in (-d, d) if limits[0] <= x <= limits[1])
    stride = max(1, math.ceil(sides / MAX_TICKS))
    kept = decades[::-1][::stride]
    return sorted([0.0, *(x for d in kept for x in (-d, d) if limits[0] <= x <= limits[1])])


def short_number(x: float) -> str:
    """Return 0, 0.01 … 100 plainly and other powers of ten as mathtext."""
    if x == 0:
        return "0"
    if 1e-3 <= abs(x) < 1e4:
        return f"{x:g}".replace("-", "−")
    power = round(math.log10(abs(x)))
    sign = "-" if x < 0 else ""
    return f"${sign}10^{{{power}}}$"


def three_digits(x: float) -> str:
    """Return x with three significant digits, a proper minus sign and mathtext powers of ten."""
    mantissa, _, power = f"{x:#.3g}".partition("e")
    if power:
        return f"${mantissa} \\times 10^{{{int(power)}}}$"
    return mantissa.rstrip(".").replace("-", "−")
