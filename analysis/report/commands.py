"""The commands that repeat a study, or one record."""

from __future__ import annotations

import shlex
from pathlib import Path, PurePosixPath
from typing import Any

from analysis import html
from analysis.labels import known, section
from analysis.studies import EARLIER, studies_below
from spectra.record.spectrum import Spectrum


def commands(root: Path, spectra: dict[str, Spectrum]) -> list[str]:
    """Return the section with the commands of each study and of each record, by its place."""
    parts = []
    name = root.name or "results"
    studies = studies_below(root)
    inside = f"{name}/" if "." in studies else ""
    lines = [
        reproduce_command(name if place == "." else inside + place, study)
        for place, study in studies.items()
    ]
    if lines:
        words = "The whole study:" if len(lines) == 1 else "Each whole study:"
        parts += [html.paragraph(words), html.code("\n".join(lines))]
    if spectra:
        lines = list(dict.fromkeys(estimate_command(one, place) for place, one in spectra.items()))
        parts += [html.paragraph("Each record by itself:"), html.code("\n".join(lines))]
    return parts


def reproduce_command(place: str, study: dict[str, Any]) -> str:
    """Return the command that runs a study again in `place`."""
    words = ["spectra", "reproduce", "--output", place]
    for key, value in study.items():
        if value is not None and key != EARLIER:
            values = value if isinstance(value, list) else [value]
            words += [f"--{key}", *map(_word, values)]
    return shlex.join(words)


def _word(value: Any) -> str:
    """Return a value as the command line reads it back."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def estimate_command(one: Spectrum, place: str) -> str:
    """Return the command that estimates the record at `place` again, in a place of its own.

    A record tells its request; of one that does not (made from Python, or by an earlier release)
    the flags are read off its settings, as far as they go.
    """
    meta = one.metadata
    request = section(meta, "request")
    checkpoint, per = section(meta, "checkpoint"), section(meta, "params").get("per")
    flags = dict(request) or _flags(meta)
    words = ["spectra", "estimate", "--ckpt", str(flags.pop("ckpt", checkpoint.get("path")))]
    if known(per):
        flags["per"] = per
        place = PurePosixPath(place).parent.as_posix()
    for key, value in flags.items():
        if value is True:
            words.append(f"--{key}")
        elif known(value) and value != "":
            words += [f"--{key}", str(value)]
    return shlex.join([*words, "--output", f"again/{place}"])


def _flags(meta: dict[str, Any]) -> dict[str, Any]:
    data, estimator, point = (section(meta, name) for name in ("data", "estimator", "point"))
    source = str(data.get("source", "")).partition(" (Python")[0]
    select = section(meta, "params").get("select")
    curvature = str(estimator.get("curvature") or "")
    return {
        "data": source.replace("stdlib:heldout", "stdlib"),
        "params": ",".join(select) if isinstance(select, list) else select,
        "surface": meta.get("surface"),
        "curvature": "ggn" if "auss" in curvature else None,
        "toward_grid": point.get("toward_grid"),
        "rederive_scales": point.get("rederived_scales") or None,
        "noisy_weights": point.get("noisy_weights"),
        "proximal": point.get("proximal"),
        "reduce": meta.get("reduce"),
        "seq_len": data.get("seq_len"),
        "batch_size": data.get("batch_size"),
        "num_batches": estimator.get("num_batches"),
        "num_probes": estimator.get("num_probes"),
        "lanczos_steps": estimator.get("lanczos_steps"),
        "seed": estimator.get("seed"),
        "dtype": estimator.get("dtype"),
    }
