"""What decides a run's numbers beside its recipe: stored in each checkpoint, compared on resume."""

from __future__ import annotations

import math
from typing import Any

from spectra.checkpoint import Checkpoint
from spectra.data import TokenBlocks
from spectra.train.request import TrainRequest


def remembered(
    request: TrainRequest, arguments: Any, data: TokenBlocks, checkpoint: Checkpoint
) -> dict[str, Any]:
    """Return what else decides a run's numbers; a resumed run must have the same."""
    step = arguments.train_batch_size * arguments.gradient_accumulation_steps
    schedule, optimizer = arguments.lr_scheduler_type, arguments.optim
    return {
        "trainable": request.trainable,
        "model_sha256": checkpoint.meta.sha256,
        "max_steps": arguments.max_steps,
        "num_train_epochs": arguments.num_train_epochs if arguments.max_steps <= 0 else None,
        "blocks_per_step": step * arguments.world_size,
        "seq_len": data.ids.shape[1],
        "learning_rate": arguments.learning_rate,
        "lr_scheduler_type": str(getattr(schedule, "value", schedule)),
        "warmup_steps": arguments.warmup_steps,
        "weight_decay": arguments.weight_decay,
        "max_grad_norm": arguments.max_grad_norm,
        "optim": str(getattr(optimizer, "value", optimizer)),
        "adam": [arguments.adam_beta1, arguments.adam_beta2, arguments.adam_epsilon],
        "bf16": arguments.bf16,
        "seed": arguments.seed,
        "data_sha256": data.sha256,
    }


def total_steps(data: TokenBlocks, arguments: Any) -> int:
    """Return the optimizer steps of a run that counts epochs."""
    batch = int(arguments.train_batch_size) * int(arguments.world_size)
    accumulation = int(arguments.gradient_accumulation_steps)
    epoch = max(1, math.ceil(math.ceil(len(data) / batch) / accumulation))
    return math.ceil(float(arguments.num_train_epochs) * epoch)
