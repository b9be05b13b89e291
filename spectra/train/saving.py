"""Checkpoints of a run: what stands beside the weights, which are whole, and whose they are.

`spectra_quantization.json` is written into a directory before its weights, so latent weights never
lie about without the word that they are. The Trainer writes weights, optimizer, schedule, random
states and last its own state; a directory whose state can be read is whole, and one from an
interrupted save is passed over. Then it is sealed (spectra.train.seal).
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spectra.errors import CheckpointError, UsageError
from spectra.quant import QuantSpec, SavedQuantization, read_saved
from spectra.quant.saved import FILE
from spectra.record.atomic import make_directory, remove_remnants
from spectra.record.jsonfile import read_json
from spectra.train.recipes import Recipe
from spectra.train.reconstruction import FOLDER as BLOCKS
from spectra.train.seal import FILE as SEAL
from spectra.train.seal import sealed

log = logging.getLogger(__name__)

SUMMARY = "spectra_training.json"
LARGEST_STATE = 1 << 28  # bytes of the log of a run of a million steps
STATE, OPTIMIZER = "trainer_state.json", "optimizer.pt"
_NAME = re.compile(r"checkpoint-(\d+)")
_FINAL = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    FILE,
    SUMMARY,
    STATE,
    "spectra_evaluation.json",
    "spectra_scaling.jsonl",
    "spectra_kept.json",
)


class QuantizationWriter:
    """Puts the quantization file into every directory that a Trainer saves its model to.

    Attributes:
        spec: The quantization of the model.
        recipe: The recipe of the run.
        extra: Further settings to be remembered with the recipe's.
    """

    def __init__(self, spec: QuantSpec, recipe: Recipe, extra: dict[str, Any]) -> None:
        self.spec, self.recipe, self.extra = spec, recipe, extra

    def at(self, step: int) -> SavedQuantization:
        """Return what a checkpoint saved at `step` says about its quantization."""
        resets = self.recipe.resets(step)
        return SavedQuantization(
            spec=self.spec,
            method=self.recipe.name,
            step=step,
            resets=resets.count,
            steps_since_reset=resets.steps_since,
            recipe=self.recipe.settings() | self.extra,
        )

    def join(self, trainer: Any) -> None:
        """Have `trainer.save_model` write the file first."""
        save: Callable[..., Any] = trainer.save_model

        def save_model(output_dir: str | None = None, _internal_call: bool = False) -> None:
            if trainer.args.should_save:
                directory = Path(output_dir or trainer.args.output_dir)
                make_directory(directory)
                remove_remnants(directory)
                self.at(trainer.state.global_step).save(directory)
            with _own_names(trainer.accelerator.unwrap_model(trainer.model)):
                save(output_dir, _internal_call)

        trainer.save_model = save_model


@contextmanager
def _own_names(model: Any) -> Iterator[None]:
    """Have a model saved under the names of its modules, which training goes on with.

    transformers would give the parameters of some families the names of their first release.
    """
    save = getattr(model, "save_pretrained", None)
    if save is None or "save_original_format" not in inspect.signature(save).parameters:
        yield
        return
    model.save_pretrained = functools.partial(save, save_original_format=False)
    try:
        yield
    finally:
        del model.save_pretrained


def checkpoints(run: str | Path) -> dict[int, Path]:
    """Return the checkpoint directories of a run by step, whole or not."""
    path = Path(run)
    if not path.is_dir():
        return {}
    found = {int(m[1]): p for p in path.iterdir() if (m := _NAME.fullmatch(p.name)) and p.is_dir()}
    return dict(sorted(found.items()))


def last_complete(run: str | Path, *, verify: bool = False) -> Path | None:
    """Return the latest checkpoint that training can go on from, None if there is none.

    Args:
        run: Directory of the run.
        verify: Whether hashes are compared: one that was changed or torn is passed over, and said.
    """
    whole = [path for path in checkpoints(run).values() if _whole(path) and _goes_on(path)]
    if not verify:
        return whole[-1] if whole else None
    unsealed: list[Path] = []
    for path in reversed(whole):
        kept = sealed(path)
        if kept:
            return path
        if kept is None:
            unsealed.append(path)
        else:
            log.warning(
                "note: %s is not what was saved (its files differ from %s): it is passed over",
                *(path, SEAL),
            )
    return unsealed[0] if unsealed else None


def _whole(path: Path) -> bool:
    try:
        read_json(path / STATE, largest=LARGEST_STATE)
        return read_saved(path) is not None
    except (OSError, ValueError, CheckpointError):
        return False


def _goes_on(path: Path) -> bool:
    return (path / OPTIMIZER).exists()


def finished_blocks(output: Path) -> list[Path]:
    """Return the files of blocks that Block-AP has finished in a run, whole or not."""
    return sorted((output / BLOCKS).glob("block-*"))


def check_free(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a directory whose contents may not be touched.

    A checkpoint-0 by itself is no obstacle: nothing was trained for it.

    Raises:
        UsageError: If it holds a run and neither `resume` nor `overwrite` is asked, or both are, or
            it is a file.
    """
    if resume and overwrite:
        raise UsageError("resume and overwrite contradict each other; pass one of them.")
    if output.exists() and not output.is_dir():
        raise UsageError(f"output={str(output)!r} is a file; pass a directory.")
    if resume or overwrite:
        return
    blocks = len(finished_blocks(output))
    steps = [step for step in checkpoints(output) if step > 0]
    if steps or blocks or any(list(output.glob(name)) for name in _FINAL):
        what = f"checkpoints up to step {max(steps)}" if steps else "a model"
        what = f"{blocks} trained blocks" if blocks and not steps else what
        raise UsageError(
            f"output={str(output)!r} holds {what}; pass --resume to go on, --overwrite to delete "
            "it, or another --output."
        )


def last_of_same_run(output: Path, wanted: SavedQuantization) -> Path | None:
    """Return the checkpoint to go on from, None if there is none.

    Args:
        output: Directory of the run.
        wanted: What the run now asked for would save.

    Raises:
        UsageError: If the run in the directory was trained otherwise, or its checkpoints were saved
            without what training needs to go on.
    """
    last = last_complete(output, verify=True)
    if last is not None:
        _check_same_run(last, wanted)
        return last
    bare = [path for step, path in checkpoints(output).items() if step > 0 and _whole(path)]
    if bare and (bare[-1] / OPTIMIZER).exists():
        raise UsageError(
            f"{bare[-1]} is not what was saved (its files differ from {SEAL}), and there is no "
            "other to go on from; restore it, or pass --overwrite to begin anew."
        )
    if bare:
        raise UsageError(
            f"{bare[-1]} has no {OPTIMIZER} (saved with --save_only_model), so training cannot go "
            "on from it; pass --overwrite to begin anew, or another --output."
        )
    return None


def delete_run(output: Path) -> None:
    """Delete the checkpoints and the final model in `output`, and nothing else."""
    for path in checkpoints(output).values():
        shutil.rmtree(path)
    for path in finished_blocks(output):
        path.unlink()
    for name in _FINAL:
        for path in output.glob(name):
            path.unlink()


def _check_same_run(last: Path, wanted: SavedQuantization) -> None:
    found = read_saved(last)
    assert found is not None
    then, now = _settings(found), _settings(wanted)
    # What the run settles by itself (None) is not a difference. Data follow from steps and batch,
    # so those are named first.
    keys = sorted(now, key=lambda key: key == "data_sha256")
    for key in keys:
        if key in then and now[key] is not None and now[key] != then[key]:
            raise UsageError(
                f"{last} was trained with {key}={then[key]}, and {key}={now[key]} is asked for "
                "now; resume with the same settings (a schedule is made for its length), or choose "
                "another --output."
            )


def _settings(saved: SavedQuantization) -> dict[str, Any]:
    spec = saved.spec
    widths = {key: getattr(spec, key) for key in ("quantizer", "w_bits", "a_bits", "kv_bits")}
    return widths | {"options": dict(spec.options), "recipe": saved.method} | saved.recipe
