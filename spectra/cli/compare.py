"""`spectra compare A B`: what differs between two records of the same batches, B − A."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectra.cli.arguments import parse
from spectra.errors import RecordError, UsageError

DESCRIPTION = """\
B − A for two records of the same batches, or for the records of equal name below two directories:
every difference with its interval, what is resolved first. Data, surface, parameters, average and
curvature must agree; probes, steps and precision may differ."""
EPILOG = "example:\n  spectra compare results/baseline results/winq --scope population"


@dataclass(frozen=True)
class Arguments:
    """Flags of the verb."""

    results: list[str] = field(
        default_factory=list, metadata={"help": "Two records, or directories that hold records."}
    )
    scope: str = field(
        default="batches",
        metadata={"help": "batches (the ones used) or population (over data, 3 batches or more)."},
    )
    tau: list[float] = field(
        default_factory=list,
        metadata={"help": "Thresholds of near-zero masses, in place of the standard ones."},
    )
    csv: str | None = field(
        default=None, metadata={"help": "Write the table to this file (- for stdout)."}
    )
    figure: str | None = field(
        default=None, metadata={"help": "Draw both records into this .png, .pdf or .svg."}
    )


def run(arguments: Sequence[str]) -> int:
    """Run the verb."""
    asked = parse(
        Arguments, _positional(arguments), prog="spectra compare", description=DESCRIPTION,
        epilog=EPILOG,
    )  # fmt: skip
    if len(asked.results) != 2:
        raise UsageError(
            f"{len(asked.results)} records given; compare takes two, as in: "
            "spectra compare results/baseline results/winq"
        )
    import analysis
    from analysis.comparison import record_pairs

    found = record_pairs(*asked.results)
    if asked.figure is not None and len(found) > 1:
        raise UsageError(f"figure draws one pair, {len(found)} were found; name one.")
    comparisons = {
        name: analysis.compare(*pair, scope=asked.scope, taus=asked.tau or None)
        for name, pair in found.items()
    }
    if asked.csv == "-":
        print(_rows(comparisons).to_csv(index=False), end="")
    else:
        blocks = [f"{name}\n{one.text()}" if name else one.text()
                  for name, one in comparisons.items()]  # fmt: skip
        print("\n\n".join(blocks))
    if asked.csv not in (None, "-"):
        _write(asked.csv, _rows(comparisons))
    if asked.figure is not None:
        for pair in found.values():
            both = [analysis.spectrum(path) for path in pair]
            drawn = analysis.comparison_figure(*both, scope=asked.scope)
            for path in analysis.save_figure(drawn, Path(asked.figure), both):
                print(path)
    return 0


def _rows(comparisons: dict[str, Any]) -> Any:
    """Return all tables in one, the pair in front where there are several."""
    import pandas

    tables = []
    for name, one in comparisons.items():
        table = one.table.copy()
        if name:
            table.insert(0, "pair", name)
        tables.append(table)
    return pandas.concat(tables, ignore_index=True)


def _write(path: Any, rows: Any) -> None:
    try:
        rows.to_csv(path, index=False)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecordError(f"csv={str(path)!r} cannot be written: {reason}.") from None
    print(path)


def _positional(arguments: Sequence[str]) -> list[str]:
    """Let records be given without a flag, as `spectra compare A B`."""
    if arguments and not arguments[0].startswith("-"):
        return ["--results", *arguments]
    return list(arguments)
