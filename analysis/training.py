"""Logs of training runs as one tidy table: a row for each step that logged something.

A run is a directory with the Trainer's `trainer_state.json` and, if `spectra train` made it,
`spectra_training.json`, which tells quantizer, recipe and seed. Columns are what the Trainer logged
(loss, eval_loss, quant_error_ratio, ...), missing where a step did not log it.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.labels import method_name
from analysis.load import TEXT_DTYPE, natural
from analysis.studies import RecordWarning, searched
from spectra.errors import RecordError, printable
from spectra.record.jsonfile import read_json

STATE, SUMMARY = "trainer_state.json", "spectra_training.json"
DATA = ("train_data", "eval_data", "optimizer")
TEXT = ("path", "run", "model", "quantizer", "recipe", "method", "schedule", *DATA)
RESETS = ("reset_every", "reset_fraction", "reset_from", "reset_until", "noise_std")
CONTROL = "scales only"
LARGEST = 1 << 28  # bytes of the log of a run of a million steps
LONGEST_NAME = 100
MOST_COLUMNS = 1000  # of a table with a row a step: what a run logs has tens of names


def load_training(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> pd.DataFrame:
    """Return the logs of every run at or below `paths`.

    Args:
        paths: A run, a directory that holds runs at any depth, or several of these.

    Returns:
        Columns `path`, `run`, `search` (whether it is of one, `analysis.studies`), `model`,
        `quantizer`, `recipe`, `method` (of `analysis.labels.method_name`; "scales only" for a run
        whose matrices were frozen),
        `w_bits`, `a_bits`, `seed`, `base_learning_rate` (the schedule's largest), `schedule`,
        `max_steps`, `train_data` and `eval_data` (source and hash), `seq_len`, `batch_size` (blocks
        of a step), `optimizer`, the settings of resets and noise, `step`, and what was logged.

    Raises:
        RecordError: If there is no run, or none that can be read.
    """
    roots = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    rows: list[dict[str, Any]] = []
    for place, name in _runs(roots).items():
        try:
            rows += _rows(place, name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            warnings.warn(
                f"left out: {str(place)!r} holds a log that cannot be read.",
                RecordWarning,
                stacklevel=2,
            )
    if not rows:
        asked = ", ".join(repr(str(root)) for root in roots) or "an empty list"
        raise RecordError(
            f"{asked} holds no readable training run (no {STATE} at any depth); pass a directory "
            "that `spectra train --output` wrote to."
        )
    frame = pd.DataFrame(rows)
    for column in frame.columns:
        if column in TEXT:
            frame[column] = frame[column].astype(TEXT_DTYPE)
        elif column != "search":
            frame[column] = pd.to_numeric(frame[column], errors="coerce")
    return frame


def _runs(roots: Iterable[str | os.PathLike[str]]) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for root in map(Path, roots):
        for directory, below, files in os.walk(root):
            # The logs of a run's checkpoints are beginnings of its own.
            below[:] = sorted(name for name in below if not name.startswith("checkpoint-"))
            if STATE in files:
                place = Path(directory)
                found[place] = place.relative_to(root).as_posix() if place != root else place.name
    return dict(sorted(found.items(), key=lambda item: natural(str(item[0]))))


def _rows(place: Path, name: str) -> list[dict[str, Any]]:
    history = read_json(place / STATE, largest=LARGEST)["log_history"]
    about: dict[str, Any] = {"path": str(place), "run": printable(name), "search": searched(place)}
    if (place / SUMMARY).exists():
        summary = read_json(place / SUMMARY)
        quantization, recipe = summary["quantization"], summary["recipe"]["name"]
        arguments = summary["arguments"]
        settings = summary["recipe"] | {"max_steps": _number(arguments.get("max_steps"))}
        method = method_name(recipe, settings)
        control = summary["request"].get("trainable") == "scales"
        about |= {
            "model": printable(str(summary["request"].get("model"))),
            "quantizer": printable(str(quantization["quantizer"])),
            "recipe": printable(recipe),
            "method": CONTROL if control else printable(method),
            "w_bits": _number(quantization["w_bits"]),
            "a_bits": _number(quantization["a_bits"]),
            "seed": _number(arguments.get("seed")),
            "base_learning_rate": _number(arguments.get("learning_rate")),
            "schedule": printable(str(arguments.get("lr_scheduler_type"))),
            "max_steps": settings["max_steps"],
            "train_data": _digest(summary.get("train_data")),
            "eval_data": _digest(summary.get("eval_data")),
            "seq_len": _number((summary.get("train_data") or {}).get("seq_len")),
            "batch_size": _batch(arguments, summary.get("environment") or {}),
            "optimizer": printable(str(arguments.get("optim"))),
            **{key: _number(settings.get(key)) for key in RESETS},
        }
    merged: dict[int, dict[str, Any]] = {}
    names: set[str] = set()
    for entry in history:  # a step logs its loss and its evaluation apart
        values = {
            printable(k, longest=LONGEST_NAME): v
            for k, v in entry.items()
            if isinstance(v, int | float) and k not in TEXT
        }
        names.update(values)
        if len(names) > MOST_COLUMNS:
            raise ValueError(len(names))
        merged.setdefault(int(entry["step"]), {}).update(values)
    return [about | merged[step] for step in sorted(merged)]


def _digest(data: Any) -> str | None:
    """Return source and the beginning of the hash of what was read."""
    if not isinstance(data, dict):
        return None
    source = str(data.get("source")).partition(" (")[0]
    return printable(f"{source} {str(data.get('sha256'))[:6]}")


def _batch(arguments: dict[str, Any], environment: dict[str, Any]) -> float | None:
    """Return the blocks of an optimizer step, None where that is not told."""
    parts = (
        arguments.get("per_device_train_batch_size"),
        arguments.get("gradient_accumulation_steps", 1),
        environment.get("ranks", 1),
    )
    numbers = [_number(part) for part in parts]
    return None if None in numbers else float(math.prod(n for n in numbers if n is not None))


def _number(value: Any) -> float | None:
    """Return a number, None for anything else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
