"""The checkpoints of one training run, in the order of their steps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from spectra.checkpoint.entries import CHECKPOINT
from spectra.checkpoint.locate import FORMATS, shorten, stated_step
from spectra.errors import CheckpointError, InputWarning, UsageError


def series(path: str | Path, steps: str | Sequence[int] = "all") -> list[tuple[int, str]]:
    """Return (step, path) of the `checkpoint-N` directories in a run, sorted by step.

    Weights of the run directory itself are those of the end of training; they join the series
    under the step that its trainer_state.json or quantization file states, unless a `checkpoint-N`
    of that step exists.

    Args:
        path: The run directory.
        steps: "all", or the steps wanted.

    Raises:
        UsageError: If a step is asked for that the run does not have.
        CheckpointError: If the directory does not exist or holds no checkpoint.
    """
    run = Path(path).expanduser()
    if not run.is_dir():
        raise CheckpointError(
            f"ckpt={str(path)!r} is not a directory; steps are read from a training run with "
            "checkpoint-* directories."
        )
    if isinstance(steps, str) and steps != "all":
        raise UsageError(f"steps={steps!r} is neither 'all' nor a list of steps.")
    found = {
        int(named[1]): entry
        for entry in run.iterdir()
        if entry.is_dir() and (named := CHECKPOINT.fullmatch(entry.name))
    }
    empty = sorted(step for step, entry in found.items() if not _has_weights(entry))
    final, _ = stated_step(run)
    if final is not None and _has_weights(run) and (final not in found or final in empty):
        found[final] = run
        empty = [step for step in empty if step != final]
    if not found:
        raise CheckpointError(
            f"ckpt={str(path)!r} holds no checkpoint-* directory; drop --steps if it is a single "
            "checkpoint."
        )
    usable = sorted(set(found) - set(empty))
    if steps == "all":
        if empty:
            names = shorten([f"checkpoint-{step}" for step in empty])
            if not usable:
                raise CheckpointError(
                    f"ckpt={str(path)!r}: {names} hold no weights with a config.json."
                )
            warnings.warn(
                f"ckpt={str(path)!r}: {names} left out, without weights or config.json (an "
                "interrupted save).",
                InputWarning,
                stacklevel=2,
            )
        wanted = usable
    else:
        wanted = sorted({int(step) for step in steps})
        absent = [str(step) for step in wanted if step not in usable]
        if absent or not wanted:
            known = shorten([str(step) for step in usable], 20)
            raise UsageError(
                f"steps={','.join(absent) or '[]'} not in {str(path)!r}; its steps are {known}."
            )
    return [(step, str(found[step])) for step in wanted]


def _has_weights(directory: Path) -> bool:
    """Return whether a save got as far as weights and configuration."""
    weights = any((directory / name).is_file() for name in FORMATS)
    return weights and (directory / "config.json").is_file()
