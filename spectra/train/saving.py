"""Checkpoints of a run: what stands beside the weights, and which directories are whole.

The Trainer writes weights (latent ones, with the learned scales), optimizer, schedule, random
states and its own state into `checkpoint-N`; `spectra_quantization.json` comes last, so a directory
that has it is whole and one from an interrupted save is passed over.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from spectra.errors import UsageError
from spectra.quant import QuantSpec, SavedQuantization, read_saved
from spectra.quant.saved import FILE
from spectra.train.recipes import Recipe

_NAME = re.compile(r"checkpoint-(\d+)")
_NEEDED = ("trainer_state.json", "optimizer.pt", FILE)


def saved_quantization(
    spec: QuantSpec, recipe: Recipe, step: int, extra: dict[str, Any]
) -> SavedQuantization:
    """Return what a checkpoint saved at `step` says about its quantization."""
    resets = recipe.resets(step)
    return SavedQuantization(
        spec=spec,
        method=recipe.name,
        step=step,
        resets=resets.count,
        steps_since_reset=resets.steps_since,
        recipe=recipe.settings() | extra,
    )


class SaveQuantization(TrainerCallback):  # type: ignore[misc]
    """Completes every checkpoint with its quantization file.

    Attributes:
        spec: The quantization of the model.
        recipe: The recipe of the run.
        extra: Further settings to be remembered with the recipe's.
    """

    def __init__(self, spec: QuantSpec, recipe: Recipe, extra: dict[str, Any]) -> None:
        self.spec, self.recipe, self.extra = spec, recipe, extra

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the file into the checkpoint that was just saved."""
        del control, kwargs
        if args.should_save:
            self.write(Path(args.output_dir) / f"checkpoint-{state.global_step}", state.global_step)

    def write(self, directory: Path, step: int) -> None:
        """Write the file of `step` into `directory`."""
        saved_quantization(self.spec, self.recipe, step, self.extra).save(directory)


def checkpoints(run: str | Path) -> dict[int, Path]:
    """Return the checkpoint directories of a run by step, whole or not."""
    path = Path(run)
    if not path.is_dir():
        return {}
    found = {int(m[1]): p for p in path.iterdir() if (m := _NAME.fullmatch(p.name)) and p.is_dir()}
    return dict(sorted(found.items()))


def last_complete(run: str | Path) -> Path | None:
    """Return the latest checkpoint that training can go on from, None if there is none."""
    whole = [p for p in checkpoints(run).values() if all((p / name).exists() for name in _NEEDED)]
    return whole[-1] if whole else None


def check_free(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a directory whose checkpoints may not be touched.

    Raises:
        UsageError: If it holds checkpoints and neither `resume` nor `overwrite` is asked, or both
            are, or it is a file.
    """
    if resume and overwrite:
        raise UsageError("resume and overwrite contradict each other; pass one of them.")
    if output.exists() and not output.is_dir():
        raise UsageError(f"output={str(output)!r} is a file; pass a directory.")
    held = checkpoints(output)
    if held and not (resume or overwrite):
        raise UsageError(
            f"output={str(output)!r} holds checkpoints up to step {max(held)}; pass --resume to go "
            "on, --overwrite to delete them, or another --output."
        )


def last_of_same_run(output: Path, wanted: SavedQuantization) -> Path | None:
    """Return the checkpoint to go on from, None if there is none.

    Args:
        output: Directory of the run.
        wanted: What the run now asked for would save.

    Raises:
        UsageError: If the run in the directory was trained otherwise.
    """
    last = last_complete(output)
    if last is not None:
        _check_same_run(last, wanted)
    elif any(checkpoints(output)):  # checkpoint-0 alone is where a run begins anyway
        raise UsageError(
            f"output={str(output)!r} holds checkpoints, but none to go on from: each lacks one of "
            f"{', '.join(_NEEDED)} (saved with --save_only_model, or interrupted while saving); "
            "pass --overwrite to begin anew, or another --output."
        )
    return last


def delete_checkpoints(output: Path) -> None:
    """Delete the checkpoints in `output`, and nothing else."""
    for path in checkpoints(output).values():
        shutil.rmtree(path)


def _check_same_run(last: Path, wanted: SavedQuantization) -> None:
    found = read_saved(last)
    assert found is not None
    then = {"quantization": found.spec, "recipe": found.method} | found.recipe
    now = {"quantization": wanted.spec, "recipe": wanted.method} | wanted.recipe
    # What the run settles by itself is not a difference.
    differing = [k for k in then if k in now and now[k] is not None and now[k] != then[k]]
    if differing:
        key = differing[0]
        raise UsageError(
            f"{last} was trained with {key}={then[key]}, and {key}={now[key]} is asked for now; "
            "resume with the same settings, or choose another --output."
        )
