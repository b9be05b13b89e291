"""The sections of a report beside the claims: training, what was run, records, method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis import html
from analysis.labels import bits_label, known, point_label, section, step_label
from analysis.load import spectrum, summary_of
from analysis.report.paths import shorter
from analysis.studies import studies_below
from analysis.tables import DASH, SIGN, number_interval, share_interval, warning_lines
from spectra.record.spectrum import Spectrum

ESTIMATES = {
    "λmin": "lambda_min",
    "λmax": "lambda_max",
    "mean square λ": "mean_square_eigenvalue",
    "mass λ < 0": "negative_mass",
}
LONG = 40  # characters of a setting that are not squeezed into a narrow column
METHOD = (
    "Each record is a stochastic Lanczos quadrature of the Hessian (or Gauss–Newton matrix) of the "
    "mean next-token loss on each batch, on the stated surface: ste is M ∇²L(Q(W)) M, with M the "
    "clip mask; quantized is ∇²L(Q(W)); latent is ∇²L(W) with the quantizers off.",
    "Intervals hold with 95 % confidence for the batches that were used. They cover resolution "
    "(the Chebyshev–Markov–Stieltjes band of the Lanczos run, by Gauss–Radau quadrature), the "
    "random probes (a finite-sample bound) and the rounding of the products (δ, measured against "
    "float64). A mass whose interval is wide is not resolved by that many steps; sums of node "
    "weights are not reported as masses.",
    "Masked coordinates are exact zeros of the surface ste and are counted exactly. Structural "
    "zeros, those for want of tokens, are bounded from below.",
    "Held-out losses are means over the tokens of fixed held-out blocks, without noise. Verdicts "
    "follow the rule in the documentation of analysis.claims.rules, fixed before looking; seeds "
    "are the unit of replication, and fewer than three give no verdict.",
)


def what_was_run(root: Path, spectra: list[Spectrum], training: pd.DataFrame | None) -> list[str]:
    """Return the table of settings, and where several studies are one of those that differ."""
    studies = studies_below(root)
    keys = list(dict.fromkeys(key for study in studies.values() for key in study))
    shown = {
        key: [_setting(study.get(key)) for study in studies.values()] for key in keys
    }  # in the order of the studies
    rows = [
        (key, values[0]) for key, values in shown.items() if len(set(values)) == 1 and values[0]
    ]
    apart = [key for key, values in shown.items() if len(set(values)) > 1]
    if training is not None:
        rows.append(("training runs", str(training["path"].nunique())))
    rows.append(("records", str(len(spectra))))
    for name, place, key in (
        ("data of the spectra", "data", "source"),
        ("their tokens (sha256)", "data", "sha256"),
        ("device", "environment", "device"),
        ("torch", "environment", "torch"),
    ):
        values = {str(section(s.metadata, place).get(key)) for s in spectra} - {"None"}
        if values:
            rows.append((name, ", ".join(sorted(values))))
    parts = [html.table(("setting", "value"), rows)]
    if apart:
        told: list[list[str | html.Cell]] = [
            [place, *(_wide(shown[key][number]) for key in apart)]
            for number, place in enumerate(studies)
        ]
        parts += [html.paragraph("Where the studies differ:"), html.table(("study", *apart), told)]
    return parts


def _wide(text: str) -> html.Cell:
    return html.Cell(text, css="claim" if len(text) > LONG else "")


def _setting(value: Any) -> str:
    if value is None:
        return ""
    listed = value if isinstance(value, list) else [value]
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in listed)


def training_table(training: pd.DataFrame | None) -> str:
    """Return the table of training runs."""
    if training is None or "eval_loss" not in training:
        return html.paragraph("No training run with held-out losses.")
    rows = []
    for path, one in training[training["eval_loss"].notna()].groupby("path", sort=False):
        first, last = one.iloc[0], one.iloc[-1]
        weights = training[(training["path"] == path)].ffill().iloc[-1]
        rows.append(
            (
                str(last["run"]),
                bits_label(last.get("w_bits"), last.get("a_bits")),
                str(last.get("method") or ""),
                _number(last.get("seed"), "g"),
                _number(last["step"], "g"),
                _number(first["eval_loss"], ".4f"),
                _number(last["eval_loss"], ".4f"),
                _number(weights.get("quant_error_ratio"), ".4f"),
                _number(weights.get("masked_fraction"), ".3%"),
            )
        )
    head = (
        "run", "bits", "method", "seed", "steps", "held-out loss before", "after",
        "‖W−Q‖/‖W‖", "masked",
    )  # fmt: skip
    return html.table(head, rows)


def _number(value: Any, form: str) -> str:
    return format(float(value), form).replace("-", "−") if known(value) else ""


def records_section(root: Path, records: pd.DataFrame | None) -> list[str]:
    """Return the table of records, each cell with its source."""
    if records is None:
        return [html.paragraph("No record.")]
    rows = []
    for _, row in records.iterrows():
        one = spectrum(row)
        shown = shorter(root, str(row["path"]))
        summary = summary_of(one)
        cells: list[str | html.Cell] = [
            shown,
            bits_label(row.get("w_bits"), row.get("a_bits")),
            step_label(row.get("step")),
            " ".join(filter(None, (str(row["surface"]), point_label(one.metadata)))),
            html.Cell(
                f"{row['masked_fraction']:.2%}",
                {"record": shown, "key": "masked_fraction"},
                "number",
            ),
        ]
        for key in ESTIMATES.values():
            entry = section(section(summary, key), "batches")
            cells.append(
                html.Cell(
                    _interval(key, entry),
                    {"record": shown, "key": f"summary.{key}.batches"},
                    "number",
                )
            )
        rows.append(cells)
    note = "Point at a number's source: each cell names its record and key (data-record, data-key)."
    head = ("record", "bits", "step", "surface", "masked", *ESTIMATES)
    warned = [html.paragraph(line, "small") for line in warning_lines(records)]
    return [html.table(head, rows), html.paragraph(note, "small"), *warned]


def _interval(key: str, entry: dict[str, Any]) -> str:
    lower, upper, value = (entry.get(name) for name in ("lower", "upper", "value"))
    if not known(lower) or not known(upper):
        return ""
    if key.endswith("mass"):  # the middle of a band is no measurement
        return share_interval(lower, upper)
    shown = f"{value:.4g}".translate(SIGN) if known(value) else DASH
    return f"{shown} {number_interval(lower, upper)}"
