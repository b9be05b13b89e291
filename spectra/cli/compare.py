"""`spectra compare A B`: what differs between two records of the same batches, B − A."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectra.cli.arguments import parse, say
from spectra.errors import SpectraError, UsageError

DESCRIPTION = """\
B − A for two records of the same batches, or for the records of equal name below two directories:
every difference with its interval, what is resolved first. Data, surface, parameters, average and
curvature must agree; probes, steps and precision may differ. Of several pairs, what fails is told
at the end and the rest goes on."""
EPILOG = "example:\n  spectra compare results/baseline results/winq --scope population"

SCOPES = ("batches", "population")


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
        default=None,
        metadata={
            "help": "Draw both records here: .png, .pdf or .svg; .pdf and .png without a suffix."
        },
    )


def run(arguments: Sequence[str]) -> int:
    """Run the verb; return 1 if one of several pairs failed."""
    asked = _asked(arguments)
    if len(asked.results) != 2:
        raise UsageError(
            f"{len(asked.results)} records given; compare takes two, as in: "
            "spectra compare results/baseline results/winq"
        )
    if asked.scope not in SCOPES:
        raise UsageError(f"scope={asked.scope!r} is not known; pass {' or '.join(SCOPES)}.")
    if min(asked.tau, default=1.0) <= 0:
        raise UsageError(f"tau={min(asked.tau):g} is not a threshold; pass positive numbers.")
    import analysis
    from analysis.comparison import record_pairs
    from analysis.style import check_figure_file

    place = None if asked.figure is None else check_figure_file("figure", asked.figure)
    found = record_pairs(*asked.results)
    if place is not None and len(found) > 1:
        raise UsageError(f"figure draws one pair, {len(found)} were found; name one.")
    comparisons, failed = _compared(found, asked)
    if asked.csv is not None and comparisons:
        _write(asked.csv, _rows(comparisons))
    if place is not None:
        for pair in found.values():
            both = [analysis.spectrum(path) for path in pair]
            drawn = analysis.comparison_figure(*both, scope=asked.scope)
            for path in analysis.save_figure(drawn, place, both):
                print(path)
    if failed:
        say(f"{len(failed)} of {len(found)} pairs failed:")
        for name, reason in failed.items():
            say(f"  {name}: {reason}")
    return 1 if failed else 0


def _compared(
    found: dict[str, tuple[Path, Path]], asked: Arguments
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the comparisons, each printed unless the table goes to stdout, and what failed.

    Raises:
        SpectraError: If the only pair fails.
    """
    import analysis

    made: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, pair in found.items():
        try:
            one = analysis.compare(*pair, scope=asked.scope, taus=asked.tau or None)
        except SpectraError as error:
            if not name:
                raise
            words = f"{name} ({pair[0]} and {pair[1]})"
            if len(found) == 1:
                raise type(error)(f"{words}: {error}") from None
            failed[words] = str(error)
            continue
        if asked.csv != "-":
            print(("\n" if made else "") + (f"{name}\n" if name else "") + one.text())
        made[name] = one
    return made, failed


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


def _write(path: str, rows: Any) -> None:
    from analysis.tables import write_csv

    text = write_csv(rows, None if path == "-" else path)
    print(text, end="") if path == "-" else print(path)


def _asked(arguments: Sequence[str]) -> Arguments:
    """Return the flags; records are given without one, as `spectra compare A B`.

    Raises:
        UsageError: If they are wrong, with the right order for records after options.
    """
    listed = list(arguments)
    bare = bool(listed) and not listed[0].startswith("-")
    try:
        return parse(
            Arguments, ["--results", *listed] if bare else listed, prog="spectra compare",
            description=DESCRIPTION, epilog=EPILOG,
        )  # fmt: skip
    except UsageError as error:
        command = _records_first(listed, str(error))
        if command is None:
            raise
        raise UsageError(f"records come first, before the options, as in: {command}") from None


def _records_first(listed: list[str], message: str) -> str | None:
    """Return the command with its two records in front, if that they were not is what is wrong."""
    options = [place for place, one in enumerate(listed) if one.startswith("-")]
    if not options or "--results" in listed:
        return None
    head = listed[: options[0]]
    for place in range(options[0] + 1, len(listed)):
        before = listed[place - 1]
        value = before.startswith("-") and "=" not in before
        end = next((k for k in options if k >= place), len(listed))
        tail = listed[place:end]
        if len(head) + len(tail) == 2 and tail and not value and repr(tail[0]) in message:
            rest = listed[options[0] : place] + listed[end:]
            return shlex.join(["spectra", "compare", *head, *tail, *rest])
    return None
