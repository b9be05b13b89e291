"""`spectra report`: records and training logs in, one self-contained HTML file out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from spectra.cli.arguments import parse
from spectra.errors import UsageError

DESCRIPTION = """\
Writes tables/, figures/ and report.html below a directory of results: what was run, the paper's
claims with a verdict each, figures, every record, how the numbers were obtained and the commands to
repeat them. The file opens offline; the same results give the same report."""


@dataclass(frozen=True)
class Arguments:
    """Flags of the verb."""

    results: str | None = field(
        default=None, metadata={"help": "Directory with records and training runs."}
    )


def run(arguments: Sequence[str]) -> int:
    """Run the verb."""
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--results", *arguments]
    asked = parse(Arguments, arguments, prog="spectra report", description=DESCRIPTION)
    if asked.results is None:
        raise UsageError("no results given; pass a directory, as in: spectra report results/")
    import analysis

    for path in analysis.write_report(asked.results):
        print(path)
    return 0
