"""`spectra plot`: one record as its figure, or several in one density figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectra.cli.arguments import parse
from spectra.errors import UsageError

DESCRIPTION = """\
One record: density with band, outliers and λmin/λmax, and the mass near zero against the threshold.
Several records: their densities on common axes. `--style winq` draws the 50-bin histogram of
arXiv 2605.17471."""


@dataclass(frozen=True)
class Arguments:
    """Flags of the verb."""

    results: list[str] = field(
        default_factory=list, metadata={"help": "Records, or directories that hold records."}
    )
    output: str = field(
        default="spectrum.png", metadata={"help": "Figure file: .png, .pdf or .svg."}
    )
    style: str = field(default="spectra", metadata={"help": "spectra or winq."})
    hue: str | None = field(
        default=None, metadata={"help": "Column that colours several records, e.g. step or w_bits."}
    )


def run(arguments: Sequence[str]) -> int:
    """Run the verb."""
    listed = list(arguments)
    if listed and not listed[0].startswith("-"):
        listed = ["--results", *listed]
    asked = parse(Arguments, listed, prog="spectra plot", description=DESCRIPTION)
    if not asked.results:
        raise UsageError("no results given; pass a record, as in: spectra plot results/tiny")
    if asked.style not in ("spectra", "winq"):
        raise UsageError(f"style={asked.style!r} is not known; pass spectra or winq.")
    import analysis

    runs = analysis.load(asked.results)
    spectra = [analysis.spectrum(row) for _, row in runs.iterrows()]
    if asked.style == "winq":
        if len(runs) > 1:
            raise UsageError(f"style=winq draws one record, {len(runs)} were found; name one.")
        drawn: Any = analysis.plot_winq(spectra[0])
    elif len(runs) == 1:
        drawn = analysis.plot_record(spectra[0])
    else:
        drawn = analysis.plot_density(runs, hue=asked.hue)
    for path in analysis.save_figure(drawn, Path(asked.output), spectra):
        print(path)
    return 0
