"""The commands that repeat a study, or one record."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from analysis import html
from analysis.labels import known, section
from spectra.record.spectrum import Spectrum

STUDY = "study.json"


def study_of(root: Path) -> dict[str, Any]:
    """Return the settings of the study whose results are below `root`; empty if there is none."""
    try:
        content = json.loads((root / STUDY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def commands(root: Path, spectra: list[Spectrum]) -> list[str]:
    """Return the section with the commands of the study and of each record."""
    parts = []
    study = {k: v for k, v in study_of(root).items() if v is not None and k != "version"}
    if study:
        words = ["spectra", "reproduce", "--output", root.name]
        for key, value in study.items():
            words += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
        parts += [html.paragraph("The whole study:"), html.code(shlex.join(words))]
    if spectra:
        lines = [estimate_command(one) for one in spectra]
        parts += [html.paragraph("Each record by itself:"), html.code("\n".join(lines))]
    return parts


def estimate_command(one: Spectrum) -> str:
    """Return the command that estimates a record again."""
    meta = one.metadata
    checkpoint, data = section(meta, "checkpoint"), section(meta, "data")
    estimator, point = section(meta, "estimator"), section(meta, "point")
    words = ["spectra", "estimate", "--ckpt", str(checkpoint.get("path"))]
    source = str(data.get("source", "")).partition(" (Python")[0]
    select = section(meta, "params").get("select")
    flags = {
        "data": source.replace("stdlib:heldout", "stdlib"),
        "params": ",".join(select) if isinstance(select, list) else select,
        "surface": meta.get("surface"),
        "toward_grid": point.get("toward_grid"),
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
    for key, value in flags.items():
        if known(value) and value != "":
            words += [f"--{key}", str(value)]
    return shlex.join(words)
