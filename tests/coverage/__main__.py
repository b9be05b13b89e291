"""Coverage of every interval that is printed: `python -m tests.coverage [options]`.

Each cell of the table is one quantity on one family of spectra in one setting: how many of the
instances' nominal 95 % intervals hold the exact value, and their median width. The table is printed
and written to `notebooks/benchmarks/coverage.json`, with a rendering for readers beside it
(`coverage.md`). `--before FILE` puts the widths and coverages of an earlier table beside these.

    python -m tests.coverage --part trace --instances 300
    python -m tests.coverage --quantity "mean|rms" --family "rank|n =" --output /tmp/some.json
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.coverage.cells import Cell, spectrum_cells
from tests.coverage.differences import CHEAP, PAIRS, difference_cells
from tests.coverage.families import FAMILIES
from tests.coverage.instances import SETTINGS
from tests.coverage.population import BATCHES, LAWS, population_cells
from tests.coverage.quantities import QUANTITIES
from tests.coverage.table import KEPT, load, merged, render, write
from tests.coverage.traces import SPARSE, SPECTRA, WAYS, trace_cells


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that are asked for and keep the table."""
    parser = argparse.ArgumentParser(
        "python -m tests.coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", action="append", choices=tuple(PARTS), help="default: all")
    parser.add_argument("--instances", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", default="", help="regular expression; default: all")
    parser.add_argument("--quantity", default="", help="regular expression; default: all")
    parser.add_argument("--setting", default="", help="regular expression; default: all")
    parser.add_argument("--cheap", action="store_true", help="of differences, none of a curve")
    parser.add_argument("--before", type=Path, help="an earlier table to compare with")
    parser.add_argument("--output", type=Path, default=KEPT)
    asked = parser.parse_args(arguments)
    cells: list[Cell] = []
    begin = time.perf_counter()
    for part in asked.part or tuple(PARTS):
        for cell in PARTS[part](asked):
            cells.append(cell)
            mark = " <" if cell.coverage < 0.94 else ""
            print(
                f"{time.perf_counter() - begin:6.0f} s  {', '.join(cell.place)}: {cell.held} of "
                f"{cell.instances} ({cell.coverage:.3f}), width {cell.width:.3g}{mark}",
                flush=True,
            )
    before = load(asked.before) if asked.before else {}
    table = merged(load(asked.output) if asked.output.exists() else {}, cells, before)
    write(asked.output, table)
    print(render(table))
    return 0


def _chosen(names: list[str], pattern: str) -> list[str]:
    return [name for name in names if re.search(pattern, name)]


def _spectrum(asked: argparse.Namespace) -> Iterator[Cell]:
    return spectrum_cells(
        asked.instances,
        _chosen(list(SETTINGS), asked.setting),
        _chosen(list(FAMILIES), asked.family),
        [QUANTITIES[name] for name in _chosen(list(QUANTITIES), asked.quantity)],
        asked.seed,
    )


def _population(asked: argparse.Namespace) -> Iterator[Cell]:
    return population_cells(
        asked.instances,
        [count for count in BATCHES if re.search(asked.setting, f"{count} batches")],
        _chosen(list(LAWS), asked.family),
        [QUANTITIES[name] for name in _chosen(list(QUANTITIES), asked.quantity)],
        asked.seed,
    )


def _difference(asked: argparse.Namespace) -> Iterator[Cell]:
    for cell in difference_cells(
        asked.instances,
        _chosen(list(PAIRS), asked.family),
        names=CHEAP if asked.cheap else None,
        seed=asked.seed,
    ):
        if re.search(asked.quantity, cell.quantity):
            yield cell


def _trace(asked: argparse.Namespace) -> Iterator[Cell]:
    families = _chosen([*SPECTRA, *SPARSE], asked.family)
    ways = [way for way in WAYS if re.search(asked.quantity, way[0])]
    return trace_cells(asked.instances, families, ways, seed=asked.seed)


PARTS = {
    "spectrum": _spectrum,
    "population": _population,
    "difference": _difference,
    "trace": _trace,
}

if __name__ == "__main__":
    sys.exit(main())
