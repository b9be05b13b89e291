"""The figures of a report, drawn and written as PNG and SVG."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import figures
from analysis.canvas import new_figure
from analysis.claims.settings import RATE
from analysis.figures.density import equal_steps
from analysis.labels import bits_label, drawn
from analysis.load import spectrum
from analysis.report.parts import Part, record_parts, training_parts
from analysis.resets import regime
from analysis.studies import without_search
from analysis.style import figure_style, save_figure
from spectra.errors import UsageError
from spectra.record.spectrum import Spectrum

FIGURES = "figures"
FEW = 4  # settings of resets, up to which the curves show them all
ORDER = ("baseline", "winq", "reset", "noise")
Drawn = tuple[str, str, Figure, list[Spectrum]]


def draw(
    root: Path, records: pd.DataFrame | None, training: pd.DataFrame | None
) -> list[tuple[Path, str]]:
    """Draw what there is and return (PNG, caption) of each figure."""
    made: list[Drawn] = []
    if training is not None and "w_bits" in training and training["w_bits"].notna().any():
        every = training[training["w_bits"].notna()]
        for part in training_parts(without_search(every)):
            made += _curves(part)
        made += _regime(every)
    if records is not None:
        for part in record_parts(without_search(records)):
            made += _record_figures(part)
    written = []
    for name, caption, figure, spectra in made:
        paths = save_figure(figure, root / FIGURES / name, spectra, formats=("png", "svg"))
        written.append((next(p for p in paths if p.suffix == ".png"), caption))
    return written


def _curves(part: Part) -> list[Drawn]:
    """Return the curves of training runs of one setting."""
    runs, made = part.rows, list[Drawn]()
    for y, words in (
        ("eval_loss", "Held-out loss against step"),
        ("quant_error_ratio", "Distance of the weights from the grid, ‖W − Q(W)‖ / ‖W‖"),
    ):
        if y in runs and runs[y].notna().any():
            caption = _told(f"{words}: a thin line for each seed, a thick one for their mean", part)
            name = f"training_{y}{part.end}"
            made.append((name, caption, figures.plot_training_grid(runs, y), []))
    if {"baseline", "winq"} <= set(runs["method"]) and "eval_loss" in runs:
        caption = _told("Where WinQ first has the baseline's last loss", part)
        with suppress(UsageError):  # no seed in common
            made.append((f"speedup{part.end}", caption, figures.plot_speedup_grid(runs), []))
    return made


def _told(caption: str, part: Part) -> str:
    return f"{caption} ({part.words})." if part.words else f"{caption}."


def _regime(runs: pd.DataFrame) -> list[Drawn]:
    """Return the maps of the lead, where there is more than one setting of the resets."""
    if "search" in runs and runs["search"].any():
        runs = runs[runs["search"]]  # a map of several studies would mix their seeds
    found: list[Drawn] = []
    for part in training_parts(runs, but=RATE):
        with suppress(UsageError, KeyError):  # no resets, or no losses
            table = regime(part.rows)
            if table[["reset_every", "reset_fraction"]].drop_duplicates().shape[0] > FEW:
                found += [
                    (
                        f"regime_{value}{part.end}",
                        _told(caption, part),
                        figures.plot_regime(part.rows, value),
                        [],
                    )
                    for value, caption in (
                        ("end", "Held-out loss at the end less the baseline's, mean over seeds"),
                        ("middle", "The same in the middle third of the run"),
                    )
                ]
    return found


def _record_figures(part: Part) -> list[Drawn]:
    """Return densities over the steps and the numbers of each record against the step."""
    records = part.rows
    at_rest = records[
        (records["surface"] == "ste")
        & records["w_bits"].notna()
        & records["step"].notna()  # a series is over steps
        & (records["protocol"] != "winq")
        & records[["toward_grid", "noisy_weights", "proximal"]].isna().all(axis=1)
    ]
    at_rest = at_rest.assign(method=at_rest["method"].fillna("no method told"))
    found: list[Drawn] = []
    single = at_rest["step"].nunique() < 2
    if at_rest.empty or (single and part.end):  # a point is told by the table
        return found
    seeds = at_rest["train_seed"].fillna(0)
    first = at_rest[seeds == seeds.min()]
    for bits in sorted(first["w_bits"].unique()):
        mine = first[first["w_bits"] == bits]
        there = sorted(mine["method"].dropna().unique())
        methods = [m for m in (*ORDER, *(m for m in there if m not in ORDER)) if m in there][:FEW]
        with figure_style():
            figure = new_figure((5.2 * max(len(methods), 1), 3.8))
            panels = figure.subplots(1, max(len(methods), 1), squeeze=False)[0]
        steps = equal_steps([spectrum(row) for _, row in mine.iterrows()])
        for panel, method in zip(panels, methods, strict=False):
            runs = mine[mine["method"] == method].sort_values("step")
            figures.plot_density(runs, hue="step", ax=panel, steps=steps)
            panel.set_title(f"{bits_label(bits, None)}, {drawn(method)}", loc="left", weight="bold")
        width = "1 bit" if bits == 1 else f"{bits:g} bits"
        caption = _told(
            f"Eigenvalue density over the steps, {width}, surface ste, first seed", part
        )
        used = [spectrum(row) for _, row in mine.iterrows()]
        found.append((f"density_w{bits:g}{part.end}", caption, figure, used))
    every = [spectrum(row) for _, row in at_rest.iterrows()]
    for y, words in (
        ("lambda_max", "Largest eigenvalue"),
        ("lambda_min", "Smallest eigenvalue"),
        ("rms_eigenvalue", "Root mean square eigenvalue"),
        ("near_zero_0.1", "Share of eigenvalues within ±0.1"),
    ):
        if y in at_rest and at_rest[f"{y}_lower"].notna().any():
            caption = _told(f"{words} against the step, with 95 % intervals; surface ste", part)
            grid = figures.plot_sweep_grid(at_rest, "step", y, hue="method")
            found.append((f"sweep_{y}{part.end}", caption, grid, every))
    return found
