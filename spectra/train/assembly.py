"""Request and TrainingArguments -> a Trainer, its data and its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PrinterCallback, ProgressCallback, Trainer, default_data_collator

from spectra.checkpoint import Checkpoint, load_checkpoint
from spectra.checkpoint.quiet import first_line
from spectra.data import TokenBlocks, token_blocks
from spectra.errors import CheckpointError, UsageError, nearest
from spectra.quant import quant_layers
from spectra.train.attach import attach
from spectra.train.checks import check_arguments
from spectra.train.evaluation import block_length
from spectra.train.kept import KeptTask
from spectra.train.progress import TrainProgress
from spectra.train.recipes import BlockAP, Distill, Recipe
from spectra.train.recipes.choose import build_recipe
from spectra.train.remember import remembered, total_steps
from spectra.train.request import TrainRequest
from spectra.train.saving import QuantizationWriter

DEFAULT_EVAL_BLOCKS = 64
STDLIB = ("stdlib", "stdlib:train")
TRAINABLE = ("all", "scales")


@dataclass(frozen=True)
class Assembly:
    """What a run is made of.

    Attributes:
        trainer: The Trainer, with every callback attached.
        checkpoint: What training starts from.
        recipe: What the loop does.
        train_data: Blocks trained on.
        eval_data: Held-out blocks, or None.
        saver: Writes the quantization file.
    """

    trainer: Any
    checkpoint: Checkpoint
    recipe: Recipe
    train_data: TokenBlocks
    eval_data: TokenBlocks | None
    saver: QuantizationWriter


def build(request: TrainRequest, arguments: Any) -> Assembly:
    """Load model and data and assemble the Trainer.

    Args:
        request: What to train.
        arguments: `transformers.TrainingArguments`, with `output_dir` settled.
    """
    check_arguments(arguments)
    recipe = build_recipe(request)
    recipe.check(arguments)
    _check_place(request, arguments)
    if arguments.max_steps > 0:
        recipe.plan(arguments.max_steps)
    checkpoint = load_model(request)
    for part in recipe.parts:
        if isinstance(part, Distill):
            teacher = load_teacher(request)
            part.teacher, part.teacher_sha256 = teacher.model, teacher.meta.sha256
    train_data, eval_data = read_data(request, checkpoint, arguments, recipe)
    kept = read_kept(request, checkpoint, eval_data)
    if eval_data is None:
        arguments.eval_strategy = "no"
    if arguments.max_steps <= 0:
        recipe.plan(total_steps(train_data, arguments))
    if request.trainable not in TRAINABLE:
        raise UsageError(
            f"trainable={request.trainable!r} is not one of {', '.join(TRAINABLE)}"
            f"{nearest(request.trainable, TRAINABLE)}"
        )
    if request.trainable == "scales":
        if recipe.moves_weights:
            raise UsageError(
                "trainable='scales' holds the matrices still, and the resets or the pull of "
                f"recipe={request.recipe!r} would move them; pass --recipe baseline, or "
                "--reset_fraction 0 or --cage_lambda 0."
            )
        freeze_matrices(checkpoint.model)
    try:
        trainer = Trainer(
            model=checkpoint.model,
            args=arguments,
            train_dataset=train_data,
            eval_dataset=eval_data,
            processing_class=checkpoint.tokenizer,
            data_collator=default_data_collator,  # blocks are of one length: nothing to pad
        )
    except OSError as error:
        raise UsageError(
            f"output={arguments.output_dir!r} cannot be made: {error.strerror}; choose another."
        ) from None
    except (ValueError, RuntimeError, ImportError) as error:
        raise UsageError(f"the Trainer refuses its arguments: {first_line(error)}.") from None
    settings = remembered(request, arguments, train_data, checkpoint)
    saver = attach(trainer, recipe, remember=settings)
    if kept is not None:
        task = KeptTask(kept, arguments)
        trainer.callback_handler.callbacks.insert(0, task)
    _try_optimizer(trainer, arguments)
    for bar in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(bar)
    if not arguments.disable_tqdm:
        trainer.add_callback(TrainProgress(Path(arguments.output_dir).name))
    return Assembly(trainer, checkpoint, recipe, train_data, eval_data, saver)


def _try_optimizer(trainer: Any, arguments: Any) -> None:
    """Make optimizer and schedule now: what does not exist is told before anything is saved."""
    try:
        trainer.create_optimizer()
        trainer.create_scheduler(num_training_steps=max(1, arguments.max_steps))
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise UsageError(
            f"optim={arguments.optim} with its schedule cannot be made: {first_line(error)}."
        ) from None


def _check_place(request: TrainRequest, arguments: Any) -> None:
    """Refuse to write a run over the model that it starts from."""
    model, output = Path(request.model), Path(arguments.output_dir)
    if request.resume or not model.exists():
        return
    if model.resolve().is_relative_to(output.resolve()):
        raise UsageError(
            f"model={request.model!r} lies in output={str(output)!r}, which the run would write "
            "over; choose another --output."
        )


def load_model(request: TrainRequest) -> Checkpoint:
    """Load the model of a request in float32 and quantize its layers.

    Raises:
        UsageError: If no width is asked for and the checkpoint has none.
    """
    try:
        checkpoint = load_checkpoint(
            request.model,
            revision=request.revision,
            tokenizer=request.tokenizer,
            device="cpu",
            dtype="float32",
            trust_remote_code=request.trust_remote_code,
            quantizer=request.quantizer,
            w_bits=request.w_bits,
            a_bits=request.a_bits,
            kv_bits=request.kv_bits,
            initialize_scales=request.initialize_scales,
        )
    except CheckpointError as error:  # the flag is another one here
        raise CheckpointError(str(error).replace("ckpt=", "model=", 1)) from None
    if checkpoint.qat is not None and checkpoint.qat.packed_bits is not None:
        raise UsageError(
            f"model={request.model!r} holds packed weights of {checkpoint.qat.packed_bits:g} bits, "
            "which training would move off their grid; train from the masters they were packed "
            "from (of BitNet, the -bf16 repository)."
        )
    if checkpoint.qat is None:
        raise UsageError(
            f"model={request.model!r} is a float checkpoint and no width is asked for; pass "
            "--w_bits 2, for example (--w_bits 16 trains without weight quantization)."
        )
    return checkpoint


def load_teacher(request: TrainRequest) -> Checkpoint:
    """Load the float model that distillation learns from.

    Raises:
        UsageError: If it is quantized.
    """
    path = request.model if request.teacher is None else request.teacher
    revision = request.revision if request.teacher is None else None
    try:
        teacher = load_checkpoint(
            path, revision=revision, device="cpu", trust_remote_code=request.trust_remote_code
        )
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("ckpt=", "teacher=", 1)) from None
    if teacher.qat is not None:
        raise UsageError(
            f"teacher={path!r} is a quantized checkpoint, and distillation learns from a float "
            "model; pass --teacher with the one it was made from."
        )
    return teacher


def read_data(
    request: TrainRequest, checkpoint: Checkpoint, arguments: Any, recipe: Recipe | None = None
) -> tuple[TokenBlocks, TokenBlocks | None]:
    """Read the blocks to train on, no more than the run needs, and the held-out ones.

    Raises:
        UsageError: If a size is out of range.
        DataError: If the text is too short or cannot be read.
    """
    heldout_blocks = DEFAULT_EVAL_BLOCKS if request.eval_blocks is None else request.eval_blocks
    if heldout_blocks < 0:
        raise UsageError(f"eval_blocks={heldout_blocks} is negative; pass 0 for none.")
    common: dict[str, Any] = {
        "seq_len": block_length(request, checkpoint.model),
        "vocab_size": checkpoint.model.get_input_embeddings().num_embeddings,
    }
    words = checkpoint.tokenizer
    builtin = request.data in STDLIB
    source = "stdlib:train" if builtin else request.data
    heldout = request.eval_data or ("stdlib" if builtin else None)
    need = None
    if isinstance(recipe, BlockAP):
        need = recipe.calibration_blocks
        if arguments.max_steps > 0:  # of each block
            need = min(need, arguments.max_steps * arguments.train_batch_size)
    elif arguments.max_steps > 0:
        step = arguments.train_batch_size * arguments.gradient_accumulation_steps
        need = arguments.max_steps * step * arguments.world_size
    if not heldout_blocks or heldout is not None:
        train = token_blocks(source, words, max_blocks=need, **common)
        if not heldout_blocks:
            return train, None
        return train, token_blocks(str(heldout), words, max_blocks=heldout_blocks, **common)
    whole = token_blocks(
        source, words, max_blocks=None if need is None else need + heldout_blocks, **common
    )
    if len(whole) <= heldout_blocks:
        raise UsageError(
            f"data={request.data!r} holds {len(whole)} blocks of {whole.ids.shape[1]} tokens, and "
            f"the last eval_blocks={heldout_blocks} are to be held out; pass --eval_data, fewer "
            "--eval_blocks, or a smaller --seq_len."
        )
    return whole.split(len(whole) - heldout_blocks)


def read_kept(
    request: TrainRequest, checkpoint: Checkpoint, eval_data: TokenBlocks | None
) -> TokenBlocks | None:
    """Read the blocks of the kept task, None where none is asked for.

    Raises:
        UsageError: If nothing is evaluated in the run.
        DataError: If the text is too short or cannot be read.
    """
    if request.kept_data is None:
        return None
    if eval_data is None:
        raise UsageError(
            f"kept_data={request.kept_data!r} is read wherever held-out text is, and eval_blocks=0 "
            "leaves none; pass --eval_blocks 64, or leave it out."
        )
    return token_blocks(
        request.kept_data,
        checkpoint.tokenizer,
        seq_len=block_length(request, checkpoint.model),
        max_blocks=request.eval_blocks or DEFAULT_EVAL_BLOCKS,
        vocab_size=checkpoint.model.get_input_embeddings().num_embeddings,
    )


def freeze_matrices(model: nn.Module) -> None:
    """Leave only quantizer scales and norms to train: what has one entry, or one for each row."""
    layers = quant_layers(model).values()
    own = {id(p) for layer in layers for p in (layer.scale, layer.zero) if p is not None}
    for name, parameter in model.named_parameters():
        thin = parameter.numel() == max(parameter.shape, default=1)
        parameter.requires_grad_(id(parameter) in own or (thin and not name.endswith(".bias")))
