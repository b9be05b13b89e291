"""What a run forgets: the held-out loss of a task from before, on the same blocks throughout.

Training on new text at a high learning rate may cost what the model knew, in plain precision as
much as in 8 bits; a loss on the new text does not show it. So a text of the old task is evaluated
wherever the held-out text is, by the model as its checkpoints are (quantized, in evaluation mode):

    kept_loss      mean over blocks, nats a token
    kept_rise      its mean difference from the model before training, block by block
    kept_rise_se   the standard error of that difference over blocks

A run by itself cannot tell forgetting from the cost of quantization: that takes a control, the
same run with --w_bits 16 --a_bits 16 (`analysis.forgetting`). The losses before training are kept
in OUTPUT/spectra_kept.json, so that a resumed run goes on measuring from there.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from spectra.data import TokenBlocks
from spectra.errors import CheckpointError
from spectra.record.atomic import make_directory, write_atomically
from spectra.record.digest import KEY, json_sha256
from spectra.record.jsonfile import read_json
from spectra.train.evaluation import block_losses

FILE = "spectra_kept.json"


class KeptTask(TrainerCallback):  # type: ignore[misc]
    """Adds the loss of a kept task to every evaluation.

    Args:
        blocks: (B, T) token ids of the kept task.
        arguments: `transformers.TrainingArguments`: batch size and precision are theirs.
    """

    def __init__(self, blocks: TokenBlocks, arguments: Any) -> None:
        self.blocks, self.batch_size = blocks, arguments.per_device_eval_batch_size
        self.autocast: torch.dtype | None = None
        if arguments.bf16 or arguments.fp16:
            self.autocast = torch.bfloat16 if arguments.bf16 else torch.float16
        self._before: torch.Tensor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the losses from before, if the run goes on."""
        del control, kwargs
        if state.global_step:
            self._before = _read(Path(args.output_dir) / FILE, self.blocks)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the loss, and its rise, to the log of an evaluation."""
        del control
        logs = kwargs.get("logs") or {}
        if "eval_loss" not in logs:
            return
        losses = self._losses(kwargs["model"])
        if self._before is None and state.global_step == 0:
            self._before = losses
            if state.is_world_process_zero:
                content = {"sha256": self.blocks.sha256, "losses": losses.tolist()}
                content[KEY] = json_sha256(content)
                make_directory(Path(args.output_dir))
                text = json.dumps(content) + "\n"
                write_atomically(Path(args.output_dir) / FILE, text.encode())
        extra = {"kept_loss": float(losses.mean())}
        if self._before is not None:
            rise = losses - self._before
            extra["kept_rise"] = float(rise.mean())
            if len(rise) > 1:
                extra["kept_rise_se"] = float(rise.std()) / math.sqrt(len(rise))
        logs.update(extra)
        if state.log_history:
            state.log_history[-1].update(extra)

    @torch.no_grad()
    def _losses(self, model: nn.Module) -> torch.Tensor:
        """Return the loss of each block, (B,) float64 on the CPU."""
        device, training = next(model.parameters()).device, model.training
        model.eval()
        try:
            return torch.cat(
                [
                    block_losses(model, ids.to(device), self.autocast)
                    for ids in self.blocks.ids.split(self.batch_size)
                ]
            )
        finally:
            model.train(training)


def _read(path: Path, blocks: TokenBlocks) -> torch.Tensor | None:
    try:
        content = read_json(path)
        if content.get(KEY) not in (None, json_sha256(content)):
            raise ValueError
        same = content["sha256"] == blocks.sha256
        losses = torch.tensor(content["losses"], dtype=torch.float64)
    except FileNotFoundError:
        return None  # the run began without a kept task
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError):
        raise CheckpointError(f"{str(path)!r} is damaged; delete it, or begin anew.") from None
    return losses if same else None
