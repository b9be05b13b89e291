"""One self-contained HTML file from records and training logs: what was run, found and concluded.

Made from what is on disk and nothing else: no time of writing, no state of the machine that writes
it. The same results give the same file. Each number in the table of records carries, as attributes
`data-record` and `data-key`, the record it is from and the key in its metadata.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pandas as pd

from analysis import html
from analysis.canvas import for_files
from analysis.claims import Claim, claims_table, collect
from analysis.load import load, spectrum
from analysis.report import sections
from analysis.report.claims import claims_section
from analysis.report.commands import commands
from analysis.report.drawings import FIGURES, draw
from analysis.report.paths import shorter
from analysis.resets import regime
from analysis.tables import write_csv
from analysis.training import load_training
from spectra.errors import RecordError, SpectraError, UsageError
from spectra.record import write_atomically
from spectra.record.spectrum import Spectrum

REPORT, TABLES = "report.html", "tables"


@for_files()
def write_report(results: str | os.PathLike[str]) -> list[Path]:
    """Write tables, figures and `report.html` below `results`, and return their paths.

    Args:
        results: Directory with records and training runs at any depth, as `spectra reproduce`,
            `spectra estimate` and `spectra train` leave them.

    Raises:
        RecordError: If there is nothing to report on, or the files cannot be written.
    """
    root = Path(results).resolve()
    records, training = _read(root)
    spectra = [] if records is None else [spectrum(row) for _, row in records.iterrows()]
    found, notes = collect(records, training)
    try:
        for place in (root / FIGURES, root / TABLES):
            _make(place)
        written = _tables(root, records, training, found)
        drawn = draw(root, records, training)
        path = root / REPORT
        page = _page(root, records, spectra, training, (found, notes), drawn)
        write_atomically(path, page.encode())
    except OSError as error:
        raise RecordError(
            f"the report cannot be written below {str(root)!r}: {error.strerror}."
        ) from None
    return [*written, *(png for png, _ in drawn), path]


def _read(root: Path) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    if not root.is_dir():
        raise RecordError(f"{str(root)!r} is not a directory; pass where results were written.")
    records = training = None
    problems = []
    for kind in ("records", "training"):
        try:
            if kind == "records":
                records = load(root)
            else:
                training = load_training(root)
        except SpectraError as error:
            problems.append(str(error))
    if records is None and training is None:
        raise RecordError(" ".join(problems))
    return records, training


def _make(place: Path) -> None:
    """Make a directory; results of somebody else may have a link of its name to any place."""
    if place.is_symlink():
        raise RecordError(
            f"{str(place)!r} is a link, and a report is written below its results; remove it."
        )
    place.mkdir(exist_ok=True)


def _tables(
    root: Path,
    records: pd.DataFrame | None,
    training: pd.DataFrame | None,
    found: list[Claim],
) -> list[Path]:
    written = []
    leads = None
    with suppress(UsageError, KeyError):  # no run with a baseline, or no losses
        leads = None if training is None else regime(training)
    for name, frame in (
        ("records", records),
        ("training", training),
        ("regime", leads),
        ("claims", claims_table(found)),
    ):
        if frame is not None:
            if "path" in frame:
                frame = frame.assign(path=[shorter(root, path) for path in frame["path"]])
            path = root / TABLES / f"{name}.csv"
            write_csv(frame, path)
            written.append(path)
    return written


def _page(
    root: Path,
    records: pd.DataFrame | None,
    spectra: list[Spectrum],
    training: pd.DataFrame | None,
    found: tuple[list[Claim], list[str]],
    drawn: list[tuple[Path, str]],
) -> str:
    paths = [] if records is None else [shorter(root, path) for path in records["path"]]
    places = dict(zip(paths, spectra, strict=True))
    contents = {
        "claims": "Claims",
        "figures": "Figures",
        "training": "Training",
        "run": "What was run",
        "records": "Records",
        "method": "How the numbers were obtained",
        "repeat": "Commands",
    }
    parts = [
        html.section("claims", contents["claims"], *claims_section(root, *found)),
        html.section("figures", contents["figures"], *(html.figure(p, text) for p, text in drawn)),
        html.section("training", contents["training"], sections.training_table(training)),
        html.section("run", contents["run"], *sections.what_was_run(root, spectra, training)),
        html.section("records", contents["records"], *sections.records_section(root, records)),
        html.section("method", contents["method"], *(html.paragraph(t) for t in sections.METHOD)),
        html.section("repeat", contents["repeat"], *commands(root, places)),
    ]
    return html.page("Spectra of quantization-aware training", contents, parts)
