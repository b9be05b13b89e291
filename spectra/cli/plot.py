"""`spectra plot`: one record as its figure, several as densities, sweeps, maps; training logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectra.cli.arguments import parse, say
from spectra.errors import UsageError, nearest

DESCRIPTION = """\
One record: density with band, outliers and λmin/λmax, and the mass near zero against the threshold.
Several records: their densities on common axes; more than eight, a sweep; spectra of single blocks,
a heat map. Training logs without records: held-out loss, a panel for each bit width. `--kind` asks
for another figure:

  density   smoothed densities             mass       |λ| ≤ τ against τ, with bands
  sweep     one number (--y) against --x   extremes   λmin and λmax against --x
  heatmap   one number over --x and block  training   a logged quantity (--y) against the step
  speedup   losses, and when WinQ has the baseline's last    grad   ‖∇L‖ / ‖W‖ against the step
  methods   quantizers and recipes side by side: λmin, λmax and rms eigenvalue on each surface
  saturation   amax windows of delayed scaling (--y ratio, exceeded, clipped, age)
  forgetting   loss on a kept task, beside the control in plain precision, with verdicts

`--style winq` draws the 50-bin histogram of arXiv 2605.17471."""

EPILOG = """\
examples:
  spectra plot results/tiny
  spectra plot results/w2 --hue step --output density.pdf
  spectra plot results --kind sweep --x step --y rms_eigenvalue --output rms.png
  spectra plot results/layers --kind heatmap --y lambda_max --output layers.svg
  spectra plot runs --kind speedup --output speedup.png
  spectra plot runs/hif8 --kind saturation --output windows.png"""

RECORDS = ("record", "density", "mass", "sweep", "extremes", "heatmap", "methods")
LOGS = ("training", "speedup", "saturation", "forgetting")
EITHER = ("grad",)
KINDS = (*RECORDS, *LOGS, *EITHER)
AXES = ("step", "w_bits", "toward_grid", "layer", "noisy_weights", "lanczos_steps")
MANY = 8  # densities in one figure beyond which none can be followed
FAVOURITES = ("near_zero_0.0015", "near_zero_0.01", "near_zero_0.1")


@dataclass(frozen=True)
class Arguments:
    """Flags of the verb."""

    results: list[str] = field(
        default_factory=list,
        metadata={"help": "Records, or directories that hold records or training runs."},
    )
    output: str = field(
        default="spectrum.png",
        metadata={"help": "Figure file: .png, .pdf or .svg; .pdf and .png without a suffix."},
    )
    kind: str | None = field(default=None, metadata={"help": f"One of {', '.join(KINDS)}."})
    style: str = field(default="spectra", metadata={"help": "spectra or winq."})
    x: str | None = field(
        default=None, metadata={"help": "Column along which a sweep or a map goes, e.g. w_bits."}
    )
    y: str | None = field(
        default=None,
        metadata={"help": "Number that is drawn: lambda_max, near_zero_0.1, eval_loss, ..."},
    )
    hue: str | None = field(
        default=None, metadata={"help": "Column that colours several records, e.g. step or w_bits."}
    )
    scope: str = field(
        default="batches",
        metadata={"help": "Intervals for these batches, or for the population over data."},
    )


def run(arguments: Sequence[str]) -> int:
    """Run the verb."""
    listed = list(arguments)
    if listed and not listed[0].startswith("-"):
        listed = ["--results", *listed]
    asked = parse(Arguments, listed, prog="spectra plot", description=DESCRIPTION, epilog=EPILOG)
    if not asked.results:
        raise UsageError("no results given; pass a record, as in: spectra plot results/tiny")
    if asked.style not in ("spectra", "winq"):
        raise UsageError(f"style={asked.style!r} is not known; pass spectra or winq.")
    if asked.kind is not None and asked.kind not in KINDS:
        raise UsageError(
            f"kind={asked.kind!r} is not one of {', '.join(KINDS)}{nearest(asked.kind, KINDS)}"
        )
    import analysis
    from analysis.style import check_figure_file

    place = check_figure_file("output", asked.output)
    if _from_logs(asked):
        drawn, spectra = _training(asked), []
    else:
        runs = analysis.load(asked.results, scope=asked.scope)
        spectra = [analysis.spectrum(row) for _, row in runs.iterrows()]
        drawn = _winq(spectra) if asked.style == "winq" else _records(asked, runs)
    for path in analysis.save_figure(drawn, place, spectra):
        print(path)
    return 0


def _from_logs(asked: Arguments) -> bool:
    """Whether the figure is of training logs: asked for, or the only thing there is."""
    from analysis.load import find_records
    from analysis.training import STATE

    if asked.kind in RECORDS or asked.style == "winq":
        return False
    logs = any(next(Path(root).rglob(STATE), None) for root in asked.results)
    return asked.kind in LOGS or (
        logs and (asked.kind == "grad" or not find_records(asked.results))
    )


def _winq(spectra: list[Any]) -> Any:
    import analysis

    if len(spectra) > 1:
        raise UsageError(f"style=winq draws one record, {len(spectra)} were found; name one.")
    return analysis.plot_winq(spectra[0])


def _training(asked: Arguments) -> Any:
    import analysis

    if asked.kind == "saturation":
        return analysis.plot_saturation(analysis.load_scaling(asked.results), asked.y or "ratio")
    logs = analysis.load_training(asked.results)
    if asked.kind == "forgetting":
        for verdict in analysis.forgetting(logs):
            say(verdict.text())
        return analysis.plot_forgetting(logs)
    widths = logs["w_bits"].nunique() if "w_bits" in logs else 0
    if asked.kind == "grad":
        ratio = "grad_weight_ratio"
        wide = widths > 1 and ratio in logs
        return analysis.plot_training_grid(logs, ratio) if wide else analysis.plot_grad_ratio(logs)
    if asked.kind == "speedup":
        return analysis.plot_speedup_grid(logs, y=asked.y or "eval_loss")
    y = asked.y or ("eval_loss" if "eval_loss" in logs else "loss")
    return analysis.plot_training_grid(logs, y) if widths else analysis.plot_training(logs, y)


def _records(asked: Arguments, runs: Any) -> Any:
    import analysis

    kind = asked.kind or _usual(runs)
    if kind == "record":
        if len(runs) > 1:
            raise UsageError(f"kind=record draws one record, {len(runs)} were found; name one.")
        return analysis.plot_record(analysis.spectrum(runs.iloc[0]))
    if kind == "density":
        return analysis.plot_density(runs, hue=asked.hue or _only_difference(runs))
    if kind == "mass":
        return analysis.plot_mass_curve(
            runs, hue=asked.hue or _only_difference(runs), scope=asked.scope
        )
    if kind == "grad":
        return analysis.plot_grad_ratio(runs)
    if kind == "methods":
        return analysis.plot_methods(runs).figure
    if kind == "heatmap":
        rows = "module" if runs["module"].notna().any() else "layer"
        along = asked.x or ("step" if rows == "layer" or runs["step"].nunique() > 1 else "layer")
        return analysis.plot_heatmap(runs, asked.y or _resolved(runs), x=along, y=rows)
    along = asked.x or _axis(runs)
    if kind == "extremes":
        return analysis.plot_extremes(runs, along, hue=asked.hue)
    y = asked.y or _resolved(runs)
    several = runs["w_bits"].nunique() > 1 and along != "w_bits"
    others = any(runs[c].nunique() > 1 for c in ("method", "surface") if c != along)
    if several and others and asked.hue is None:
        return analysis.plot_sweep_grid(runs, along, y)
    return analysis.plot_sweep(runs, along, y, hue=asked.hue)


def _usual(runs: Any) -> str:
    """Return the kind of figure that fits records when none is asked for."""
    if len(runs) == 1:
        return "record"
    if runs["layer"].nunique() > 1:
        return "heatmap"
    return "density" if len(runs) <= MANY else "sweep"


def _axis(runs: Any) -> str:
    """Return what the records lie along.

    Raises:
        UsageError: If they differ in nothing numeric that was asked for.
    """
    for name in AXES:
        if name in runs and runs[name].fillna(0.0).nunique() > 1:
            return name
    raise UsageError(
        f"the {len(runs)} records differ in none of {', '.join(AXES)}; pass --x with the column "
        "they lie along."
    )


def _resolved(runs: Any) -> str:
    """Return the near-zero mass at the smallest threshold that most records resolve.

    Where none is, the root mean square eigenvalue is drawn, and that is said.
    """
    from analysis.sweeps import with_intervals

    for name in FAVOURITES:
        if name in runs and with_intervals(runs, name)["resolved"].mean() > 0.5:
            return name
    say(
        "spectra plot: no near-zero mass is resolved in most of these records; drawing "
        "rms_eigenvalue (ask for a mass with --y near_zero_0.1)"
    )
    return "rms_eigenvalue"


def _only_difference(runs: Any) -> str | None:
    """Return the column in which the records differ, if that is one and tells them all apart."""
    from analysis.sweeps import HUES

    names = [n for n in HUES if n in runs and runs[n].nunique(dropna=False) > 1]
    if len(names) == 1 and runs[names[0]].nunique(dropna=False) == len(runs):
        return names[0]
    return None
