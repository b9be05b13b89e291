"""`spectra table`: records below some directories, as a table or CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from spectra.cli.arguments import parse
from spectra.errors import UsageError

DESCRIPTION = """\
One row for each record found below the given directories. Shares near zero have a smooth edge and
are intervals; where the steps do not resolve one, the cell says from which threshold they do."""


@dataclass(frozen=True)
class Arguments:
    """Flags of the verb."""

    results: list[str] = field(
        default_factory=list, metadata={"help": "Directories that hold records."}
    )
    sharp: bool = field(
        default=False, metadata={"help": "Shares with sharp edges in place of the soft ones."}
    )
    csv: str | None = field(
        default=None, metadata={"help": "Write every column to this file (- for stdout)."}
    )


def run(arguments: Sequence[str]) -> int:
    """Run the verb."""
    asked = parse(Arguments, _positional(arguments), prog="spectra table", description=DESCRIPTION)
    if not asked.results:
        raise UsageError("no results given; pass a directory, as in: spectra table results/")
    import analysis
    from analysis.tables import write_csv

    runs = analysis.load(asked.results)
    if asked.csv == "-":
        print(write_csv(runs, None), end="")
    elif asked.csv is not None:
        write_csv(runs, asked.csv)
        print(asked.csv)
    else:
        print(analysis.table_text(runs, sharp=asked.sharp))
    return 0


def _positional(arguments: Sequence[str]) -> list[str]:
    """Let directories be given without a flag, as `spectra table results/`."""
    if arguments and not arguments[0].startswith("-"):
        return ["--results", *arguments]
    return list(arguments)
