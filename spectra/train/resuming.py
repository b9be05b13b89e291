"""Going on from a checkpoint: its states are looked at before they are opened.

`optimizer.pt`, `scheduler.pt` and `rng_state.pth` are pickles. The Trainer opens them with torch's
restricted loader, which runs nothing; here they are refused before it does, in a sentence, and so
are a `trainer_state.json` that is none and links that lead a run's files out of its directory.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from spectra.checkpoint.locate import locate
from spectra.checkpoint.pickles import STATES, check_program
from spectra.checkpoint.quiet import first_line
from spectra.checkpoint.renaming import load_state
from spectra.checkpoint.tensors import list_tensors, read_tensors
from spectra.errors import CheckpointError, SpectraError
from spectra.record.jsonfile import read_json
from spectra.train.reconstruction import FOLDER
from spectra.train.saving import LARGEST_STATE, STATE

PICKLES = ("*.pt", "*.pth", "pytorch_model*.bin")
NUMBERS = (
    "epoch", "global_step", "max_steps", "logging_steps", "eval_steps", "save_steps",
    "num_train_epochs", "num_input_tokens_seen", "total_flos",
)  # fmt: skip
LOADERS = (
    "_load_from_checkpoint", "_load_optimizer_and_scheduler", "_load_rng_state", "_load_scaler",
    "_load_callback_state",
)  # fmt: skip


def check_checkpoint(checkpoint: Path) -> None:
    """Refuse a checkpoint that training cannot go on from.

    Raises:
        CheckpointError: If a state is a pickle of more than tensors and numbers, or damaged.
    """
    for pattern in PICKLES:
        for path in sorted(checkpoint.glob(pattern)):
            check_program(path, STATES)
    try:
        state = read_json(checkpoint / STATE, largest=LARGEST_STATE)
    except (OSError, ValueError) as error:
        raise _unfit(checkpoint, f"its {STATE} is not JSON ({first_line(error)})") from None
    history = state.get("log_history") if isinstance(state, dict) else None
    best = state.get("best_model_checkpoint") if isinstance(state, dict) else None
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise _unfit(checkpoint, f"its {STATE} has no log of steps")
    for key in NUMBERS:
        if isinstance(state.get(key, 0), bool) or not isinstance(state.get(key, 0), int | float):
            raise _unfit(checkpoint, f"its {STATE} has {key}={state[key]!r}")
    if best is not None and Path(str(best)).resolve().parent != checkpoint.resolve().parent:
        raise _unfit(checkpoint, f"its {STATE} names {best!r}, outside its run, as the best")


def check_links(output: Path) -> None:
    """Refuse a run in which a link leads out of it: what is written there would follow.

    Links to directories that no run writes to are left alone.

    Raises:
        CheckpointError: With the link.
    """
    root = output.resolve()
    parts = [*root.glob("checkpoint-*"), root / FOLDER]
    written = [path for path in root.glob("*") if not path.is_dir()] + parts
    for path in (*written, *(inner for part in parts for inner in part.glob("*"))):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise CheckpointError(
                f"output={str(output)!r} holds {str(path.relative_to(root))!r}, a link out of it, "
                "and a run writes where its files are; remove the link, or choose another --output."
            )


def load_every_tensor(trainer: Any, checkpoint: Path) -> None:
    """Have the Trainer load weights so that each stored tensor arrives and none is left as it was.

    Its own way drops what has another name in the model, and goes on from the initial weights.
    """

    def load(directory: str, model: Any = None) -> None:
        location = locate(directory)
        state = read_tensors(location, [tensor.name for tensor in list_tensors(location)])
        whole = trainer.accelerator.unwrap_model(trainer.model if model is None else model)
        load_state(whole, state, str(checkpoint))

    trainer._load_from_checkpoint = load


def in_sentences(trainer: Any, checkpoint: Path) -> None:
    """Have what a Trainer raises while it reads `checkpoint` said as a CheckpointError."""
    for name in LOADERS:
        load = getattr(trainer, name, None)
        if load is not None:
            setattr(trainer, name, _told(load, checkpoint))


def _told(load: Any, checkpoint: Path) -> Any:
    @functools.wraps(load)
    def told(*arguments: Any, **options: Any) -> Any:
        try:
            return load(*arguments, **options)
        except (SpectraError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # torch, safetensors and the optimizers raise their own
            raise _unfit(checkpoint, first_line(error)) from None

    return told


def _unfit(checkpoint: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"training cannot go on from {str(checkpoint)!r}: {why}; delete it, and --resume goes on "
        "from the one before."
    )
