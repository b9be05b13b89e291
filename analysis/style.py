"""The look of every figure, and how figures reach the disk.

The style is a context: nothing global changes. Colours are those of Okabe & Ito (Color Universal
Design, 2008), told apart with any common colour vision; each bit width has one colour everywhere.
Ordered quantities (steps) take a ramp that also grows in lightness, so that it survives grey print.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.labels import config_id, known
from spectra.errors import RecordError, UsageError
from spectra.record import write_atomically
from spectra.record.doubts import heads
from spectra.record.spectrum import Spectrum

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#222222", "#7A7A7A"
BROWN = "#8C5A00"  # ORANGE dark enough for text
CATEGORIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
BITS = {1.0: VERMILION, 1.58: PURPLE, 2.0: BLUE, 3.0: GREEN, 4.0: ORANGE, 8.0: SKY, 16.0: BLACK}
RAMP = "cividis"

RC: Any = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "spectra",
    "text.usetex": False,
    "savefig.dpi": 200.0,
    "savefig.bbox": None,
}
FORMATS = ("pdf", "svg", "png")
COLUMNS = 4  # of a legend above panels, at most
LINE, MARGIN = 0.17, 0.12  # inches: a line of a legend, what is left free beside it


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw in the project's style inside this context; the caller's settings come back after it.

    Only these settings: what pyplot sets when it is first used inside, such as that it is
    interactive in a notebook, has to stay, or no figure is shown there.
    """
    before = {name: mpl.rcParams[name] for name in RC}
    mpl.rcParams.update(RC)
    try:
        yield
    finally:
        mpl.rcParams.update(before)


def axes_for(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return `ax`, or the axes of a new pyplot figure of `size` inches (so that notebooks show)."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]


def colours(values: Sequence[Any], *, hue: str | None = None) -> list[Any]:
    """Return a colour for each value of the quantity `hue`, equal values alike.

    Bit widths keep their own colour, many numbers take a ramp, anything else the categories.
    """
    if hue == "w_bits":
        return [BITS.get(float(value), GREY) if known(value) else BLACK for value in values]
    distinct = list(dict.fromkeys(values))
    numeric = all(isinstance(value, int | float) and known(value) for value in distinct)
    if hue is not None and numeric and len(distinct) > 2:
        ranks = {value: rank for rank, value in enumerate(sorted(distinct))}
        ramp = mpl.colormaps[RAMP]
        return [ramp(0.9 * ranks[value] / (len(distinct) - 1)) for value in values]
    return [CATEGORIES[distinct.index(value) % len(CATEGORIES)] for value in values]


def legend_above(figure: Figure, handles: Sequence[tuple[Any, str]]) -> None:
    """Put a legend above the panels in as many columns as fit; the figure grows by its lines."""
    room = figure.bbox.width - MARGIN * figure.dpi
    for columns in range(min(COLUMNS, len(handles)), 0, -1):
        shown, names = zip(*handles, strict=True)
        legend = figure.legend(shown, names, loc="outside upper left", ncols=columns)
        if columns == 1 or legend.get_window_extent().width <= room:
            more = math.ceil(len(handles) / columns) - 1
            figure.set_figheight(figure.get_figheight() + LINE * more)
            return
        legend.remove()


def check_figure_file(flag: str, path: str) -> Path:
    """Return the path of a figure asked for on the command line.

    Raises:
        UsageError: If it has a suffix that is no format of a figure, or no name.
    """
    place = Path(path)
    if place.name and place.suffix.lower() in ("", *(f".{kind}" for kind in FORMATS)):
        return place
    raise UsageError(
        f"{flag}={path!r} is no name of a figure; pass one that ends in .png, .pdf or .svg, or one "
        "without a dot for .pdf and .png."
    )


DOUBTS = "doubts"  # of the text at a figure's foot


def save_figure(
    figure: Figure | Axes,
    path: str | Path,
    spectra: Spectrum | Iterable[Spectrum] = (),
    *,
    formats: Iterable[str] | None = None,
) -> list[Path]:
    """Write a figure, with the configuration ids of its records in the files' metadata.

    Args:
        figure: The figure, or axes of it.
        path: Where; a suffix .pdf, .svg or .png chooses the format.
        spectra: The records that were drawn.
        formats: Formats to write beside each other; default the suffix, or pdf and png.

    Returns:
        The files written; they hold no date.

    Raises:
        UsageError: If a format is not known.
        RecordError: If a file cannot be written.
    """
    place = Path(path)
    suffix = place.suffix.lstrip(".").lower()
    wanted = list(formats) if formats is not None else [suffix] if suffix in FORMATS else None
    stem = place.with_suffix("") if suffix in FORMATS else place
    found = [spectra] if isinstance(spectra, Spectrum) else list(spectra)
    ids = ", ".join(dict.fromkeys(config_id(one.metadata) for one in found)) or "none"
    drawn: Any = figure if isinstance(figure, Figure) else figure.figure
    _doubted(drawn, found)
    written = []
    layout = drawn.get_layout_engine()
    try:
        for kind in wanted or ("pdf", "png"):
            if kind not in FORMATS:
                raise UsageError(
                    f"format {kind!r} is not known; pass some of {', '.join(FORMATS)}."
                )
            written.append(_write(drawn, kind, stem, ids))
            drawn.set_layout_engine("none")  # it is laid out now: half of the time of a format
    finally:
        drawn.set_layout_engine(layout if layout is not None else "none")
    return written


def _write(drawn: Any, kind: str, stem: Path, ids: str) -> Path:
    """Write one format of a figure; return its place."""
    buffer = io.BytesIO()
    with figure_style():
        drawn.savefig(buffer, format=kind, metadata=_metadata(kind, ids))
    target = stem.with_name(f"{stem.name}.{kind}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, buffer.getvalue())
    except OSError as error:
        raise RecordError(
            f"the figure {str(target)!r} cannot be written: {error.strerror}; choose another place."
        ) from None
    return target


def _doubted(drawn: Any, spectra: list[Spectrum]) -> None:
    """Say at the foot of a figure which doubts its records have."""
    names = dict.fromkeys(h for one in spectra for h in heads(one.metadata.get("warnings") or []))
    for old in [text for text in drawn.texts if text.get_gid() == DOUBTS]:
        old.remove()
    if names:
        words = f"warnings: {', '.join(names)} (see the records)"
        drawn.text(0.004, 0.004, words, size=5, color="0.35", ha="left", va="bottom", gid=DOUBTS)


def _metadata(kind: str, ids: str) -> dict[str, Any]:
    text = f"spectra config {ids}"
    if kind == "pdf":
        return {"Subject": text, "CreationDate": None}
    if kind == "svg":
        return {"Description": text, "Date": None}
    return {"Description": text}
