"""`spectra reproduce`: train, estimate, compare, report: the whole study by one command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

from spectra.cli.arguments import parse_values, say
from spectra.errors import SpectraError
from spectra.study import PRESETS, Study, conduct, study
from spectra.study.place import FILE

DESCRIPTION = """\
Trains every method at every width and seed, estimates the spectra of the checkpoints, and writes
tables, figures and one self-contained report.html with a verdict on each of the paper's claims.

  quick        the built-in model at 2 bits, baseline and WinQ, one seed: minutes on two cores;
               verdicts on training are withheld, since they need three seeds.
  winq-ahead   1 bit, three seeds, a constant rate: three resets of 0.2 end below the baseline.
  winq-behind  the same with a rate that falls to zero: they end above it.
  full         five widths, three seeds, the factorial of resets and noise, ablations: hours.

The same command again goes on where it stopped. Every setting of a preset can be changed."""

EPILOG = """\
examples:
  spectra reproduce --preset quick --output results/quick
  spectra reproduce --preset quick --bits 1 2 4 --seeds 0 1 2 --output results/widths
  spectra reproduce --preset full --model ID --data text.jsonl --eval_data wiki.txt --output o"""


@dataclass(frozen=True)
class _Own:
    """Flags beside the study's."""

    preset: str = field(default="quick", metadata={"help": f"One of {', '.join(PRESETS)}."})
    output: str = field(default="results/reproduce", metadata={"help": "Directory of the results."})


Arguments: Any = make_dataclass(
    "Arguments",
    [
        (f.name, f"{f.type} | None" if "None" not in str(f.type) else f.type,
         field(default=None, metadata=dict(f.metadata)))
        for f in fields(Study)
    ],
    bases=(_Own,),
    frozen=True,
    namespace={"__module__": __name__},
)  # fmt: skip


def run(arguments: Sequence[str]) -> int:
    """Run the verb; return 1 if a job failed."""
    values = parse_values(
        Arguments,
        arguments,
        prog="spectra reproduce",
        description=DESCRIPTION,
        epilog=EPILOG,
        none_of=("spectra_methods", "series_surfaces", "fractions", "surfaces"),
    )
    own = {name: values.pop(name) for name in ("preset", "output")}
    asked = study(own["preset"], {k: v for k, v in values.items() if v is not None})
    root = Path(own["output"])
    try:
        outcome = conduct(asked, root, say=say)
    except KeyboardInterrupt:
        if (root / FILE).exists():
            command = shlex.join(["spectra", "reproduce", *arguments])
            say(f"what is done is kept in {root}; go on with: {command}")
        raise
    for name, why in outcome.failed.items():
        count = outcome.without.get(name, 0)
        records = f" ({count} of its records were not made)" if count else ""
        say(f"failed: {name}: {why}{records}")
    try:
        report = _report(root)
    except SpectraError as error:
        if outcome.failed:
            say(f"no report: {error}")
            return 1
        raise
    for path in report:
        print(path)
    return 1 if outcome.failed else 0


def _report(root: Path) -> list[Path]:
    import analysis

    return list(analysis.write_report(root))
