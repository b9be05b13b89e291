"""Arguments of the Trainer that cannot be what the user wants of quantization-aware training."""

from __future__ import annotations

from typing import Any

from spectra.errors import UsageError

SHARDED = (
    "{what} shards weight matrices over ranks, while scales, resets and error ratios need whole "
    "rows; train with data parallelism (torchrun without an --fsdp or --deepspeed configuration), "
    "which resets identically on every rank."
)


def check_arguments(arguments: Any) -> None:
    """Refuse `transformers.TrainingArguments` that would fail late, or harm the run.

    Raises:
        UsageError: If a number is out of range, or a mode is not supported.
    """
    if arguments.fsdp or arguments.deepspeed:
        raise UsageError(SHARDED.format(what="FSDP" if arguments.fsdp else "DeepSpeed"))
    if arguments.fp16 and arguments.device.type == "cpu":
        raise UsageError("fp16 needs a GPU; on the CPU train in float32, or with --bf16.")
    if arguments.load_best_model_at_end:
        raise UsageError(
            "load_best_model_at_end puts an earlier step's weights into the end of the run, whose "
            "files say the last step; leave it out and pick the checkpoint you want."
        )
    if arguments.label_smoothing_factor:
        raise UsageError(
            f"label_smoothing_factor={arguments.label_smoothing_factor:g} would smooth the "
            "held-out loss as well, which is then no log-likelihood; leave it out."
        )
    for name in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(arguments, name):
            raise UsageError(
                f"{name} rounds the float32 weights themselves, which are then saved; leave it "
                "out: evaluation runs under the same autocast as training."
            )
    if arguments.max_steps == 0 or (arguments.max_steps < 0 and arguments.num_train_epochs <= 0):
        raise UsageError(
            f"max_steps={arguments.max_steps} and num_train_epochs={arguments.num_train_epochs:g} "
            "train nothing; pass a number of steps, or --do_train false --do_eval to evaluate."
        )
    if not arguments.learning_rate >= 0:
        raise UsageError(f"learning_rate={arguments.learning_rate} is negative; pass e.g. 2e-5.")
    for name in (
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
    ):
        value = getattr(arguments, name)
        if value < 1:
            raise UsageError(f"{name}={value} is too small; pass at least 1.")
