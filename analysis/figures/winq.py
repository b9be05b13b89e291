"""The 50-bin histogram of WinQ (arXiv 2605.17471), drawn as that work draws it.

Probability mass per bin, log ticks from 1e-9 to 1, λmin dashed and λmax dotted in its two unequal
definitions: the smallest node with weight above 1e-8, and the median over probes of the largest
node. Node sums have no known error; the figure says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from analysis.figures.axes import LAMBDA, three_digits
from analysis.labels import bits_label, is_reference, known, reference_label, section, step_label
from analysis.load import spectrum
from analysis.style import BITS, BLACK, BLUE, axes_for, figure_style
from spectra.quadrature import Measure
from spectra.record.spectrum import Spectrum

BINS = 50
FLOOR = 1e-9
LEAST_WEIGHT = 1e-8

HISTOGRAM = "50-bin histogram of nodes, not a bounded estimate"


def plot_winq(run: Any, *, ax: Axes | None = None) -> Axes:
    """Draw one record (or its row, or path) as the reference notebooks do."""
    one = spectrum(run)
    measure = one.measure
    pairs = measure.nodes_and_weights()
    nodes = np.concatenate([pair[0] for pair in pairs])
    weights = np.concatenate([pair[1] for pair in pairs]) / len(pairs)
    masses, edges = np.histogram(nodes, bins=BINS, weights=weights)
    low, high = reference_extremes(one)
    checkpoint = section(one.metadata, "checkpoint")
    w_bits = checkpoint.get("w_bits")
    colour = BITS.get(float(w_bits), BLUE) if known(w_bits) else BLUE
    with figure_style():
        ax = axes_for(ax, (6.0, 3.6))
        ax.bar(
            edges[:-1], masses, np.diff(edges), align="edge", color=colour, alpha=0.75,
            edgecolor="white", lw=0.4, bottom=0,
        )  # fmt: skip
        ax.axvline(low, color=BLACK, ls="--", lw=1.0)
        ax.axvline(high, color=BLACK, ls=":", lw=1.0)
        ax.set_yscale("log")
        ax.set_ylim(FLOOR, 2.0)
        ax.yaxis.set_major_locator(LogLocator(base=10, numticks=10))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_xlabel(LAMBDA)
        ax.set_ylabel("probability mass per bin")
        kind = reference_label(one.metadata) if is_reference(one.metadata) else HISTOGRAM
        ax.set_title(f"{_title(checkpoint)}{kind}", loc="left", color="#444444")
        ax.legend(
            *_legend(one, low, high), loc="upper right", bbox_to_anchor=(0.93, 1.0), frameon=True,
            facecolor="white", edgecolor="none", framealpha=0.9,
        )  # fmt: skip
    return ax


def reference_extremes(one: Spectrum) -> tuple[float, float]:
    """Return λmin and λmax as the reference procedure defines them, recorded or computed."""
    reference = section(one.metadata, "reference")
    low, high = reference.get("lambda_min"), reference.get("lambda_max")
    if known(low) and known(high):
        return float(low), float(high)
    return _extremes(one.measure)


def _extremes(measure: Measure) -> tuple[float, float]:
    rules = [run.points for row in measure.runs for run in row]
    smallest = min(float(nodes[weights > LEAST_WEIGHT].min()) for nodes, weights in rules)
    return smallest, float(np.median([nodes[-1] for nodes, _ in rules]))


def _title(checkpoint: dict[str, Any]) -> str:
    step, bits = step_label(checkpoint.get("step")), checkpoint.get("w_bits")
    name = bits_label(bits, checkpoint.get("a_bits"))
    width = f"{float(bits):g}-bit QAT ({name})" if known(bits) else ""
    parts = [f"step {step}" if step else "", width]
    words = " of ".join(part for part in parts if part)
    return f"{words[:1].upper()}{words[1:]} · " if words else ""


def _legend(one: Spectrum, low: float, high: float) -> tuple[list[Any], list[str]]:
    handles: list[Any] = [
        Line2D([], [], color=BLACK, ls="--", lw=1.0),
        Line2D([], [], color=BLACK, ls=":", lw=1.0),
    ]
    labels = [f"λmin = {three_digits(low)}", f"λmax = {three_digits(high)}"]
    reference = section(one.metadata, "reference")
    mean, spread = reference.get("near_zero_mean"), reference.get("near_zero_std")
    if known(mean):
        error = f" ± {float(spread):.3f} (std over batches)" if known(spread) else ""
        handles.append(Line2D([], [], ls="none"))
        labels.append(f"|λ| < {float(reference.get('tau') or 1.5e-3):g}: {float(mean):.3f}{error}")
    return handles, labels
