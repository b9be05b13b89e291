"""A run of `--recipe block-ap`: blocks in the place of the Trainer's steps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from spectra.errors import UsageError
from spectra.train.assembly import Assembly
from spectra.train.recipes import BlockAP
from spectra.train.reconstruction import FOLDER, BlockResult, Settings, reconstruct

log = logging.getLogger(__name__)


def train_blocks(assembly: Assembly, arguments: Any) -> None:
    """Evaluate, train every block of the model, and write the steps into the Trainer's state.

    Finished blocks of the same run in the output directory are taken from there.

    Raises:
        UsageError: If it is launched in several processes, or a flag has no meaning here.
        SpectraError: As `reconstruct`.
    """
    recipe, trainer = assembly.recipe, assembly.trainer
    assert isinstance(recipe, BlockAP)
    if arguments.world_size > 1:
        raise UsageError(
            f"recipe='block-ap' runs in one process, and {arguments.world_size} were launched; "
            "start it without torchrun."
        )
    if arguments.gradient_accumulation_steps != 1:
        raise UsageError(
            f"gradient_accumulation_steps={arguments.gradient_accumulation_steps} is not for "
            "recipe='block-ap', whose blocks are small; raise --per_device_train_batch_size."
        )
    if assembly.eval_data is not None:
        trainer.evaluate()
    settings = Settings(
        weight_rate=arguments.learning_rate,
        quant_rate=recipe.quant_learning_rate,
        epochs=arguments.num_train_epochs,
        max_steps=arguments.max_steps,
        batch_size=arguments.per_device_train_batch_size,
        seed=arguments.seed,
        bf16=arguments.bf16,
    )
    saved = assembly.saver.at(0)
    remember = saved.recipe | {"quantization": saved.spec.to_json()}

    def tell(result: BlockResult) -> None:
        trainer.state.global_step += result.steps
        entry = {
            "block": result.block,
            "error_before": result.before,
            "error_after": result.after,
            "step": trainer.state.global_step,
        }
        trainer.state.log_history.append(entry)
        log.info(
            "block %d: mean square error %.4g before, %.4g after %d steps",
            *(result.block, result.before, result.after, result.steps),
        )

    reconstruct(
        trainer.model,
        torch.as_tensor(assembly.train_data.ids).long(),
        settings,
        place=Path(arguments.output_dir) / FOLDER,
        remember=remember,
        tell=tell,
    )
