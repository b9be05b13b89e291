"""Held-out loss and perplexity of any checkpoint, and its zero-shot accuracy, without training.

The text is cut into B consecutive blocks of T tokens. Each is read alone, so it carries T − 1
predictions with at most T − 1 tokens of context:

    loss = −1/(B(T−1)) Σ_b Σ_t log p(x_bt | x_b1 … x_b,t−1)  nats a token,    perplexity = exp(loss)

A longer block gives more context and a lower loss: the length belongs to the number. The standard
error is that of the mean over blocks, s/√B, taken as independent. Log-probabilities are float32 or
wider, means float64 and in a fixed order. It is the loss that training reports.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from spectra.checkpoint import CheckpointMeta, load_checkpoint
from spectra.data import TokenBlocks, token_blocks
from spectra.errors import InputWarning, NumericalError, OutOfMemoryError, UsageError
from spectra.estimation.environment import environment
from spectra.record.atomic import make_directory, write_atomically
from spectra.train.harness import TaskReport, run_tasks
from spectra.train.request import TrainRequest
from spectra.train.tasks import LoadedTasks

FILE = "spectra_evaluation.json"
DEFAULT_SEQ_LEN = 512
LARGEST = math.log(1.7e308)  # the largest loss whose exponential is a float64


@dataclass(frozen=True)
class Heldout:
    """What a model makes of a text.

    Attributes:
        loss: Mean over all predictions, nats a token.
        loss_se: Its standard error over blocks; None where there is one block.
        tokens: Predictions that the mean is over, B(T − 1).
        blocks: B.
        seq_len: T.
        source: Where the text came from.
        sha256: Hash of the token ids.
        seconds: Wall time.
    """

    loss: float
    loss_se: float | None
    tokens: int
    blocks: int
    seq_len: int
    source: str
    sha256: str
    seconds: float

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, LARGEST))

    def metadata(self) -> dict[str, Any]:
        """Return the `heldout` section of the file."""
        return {"perplexity": self.perplexity} | asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        checkpoint: What was evaluated.
        precision: "float32", or the type of autocast.
        heldout: Loss and perplexity, or None if only tasks were asked for.
        tasks: Zero-shot accuracy, or None if no tasks were.
        environment: Versions and device.
    """

    checkpoint: CheckpointMeta
    precision: str
    heldout: Heldout | None
    tasks: TaskReport | None
    environment: dict[str, Any]

    def save(self, path: Path, request: TrainRequest) -> None:
        """Write the result and what was asked for as JSON."""
        content = {
            "request": asdict(request),
            "checkpoint": self.checkpoint.metadata(),
            "precision": self.precision,
            "heldout": None if self.heldout is None else self.heldout.metadata(),
            "tasks": None if self.tasks is None else self.tasks.metadata(),
            "environment": self.environment,
        }
        text = json.dumps(content, indent=2, default=str) + "\n"
        try:
            make_directory(path.parent)
            write_atomically(path, text.encode())
        except OSError as error:
            raise UsageError(f"output={str(path)!r} cannot be written: {error.strerror}.") from None


def check_request(request: TrainRequest, *, do_train: bool, do_eval: bool) -> None:
    """Refuse, before anything is loaded, an evaluation that would come to nothing.

    Args:
        request: What is asked for.
        do_train: Whether the model is trained first.
        do_eval: Whether --do_eval was given.

    Raises:
        UsageError: If options contradict each other or have no effect.
    """
    if not do_train and not do_eval:
        raise UsageError(
            "do_train=False without do_eval leaves nothing to do; add --do_eval to evaluate "
            "--model as it is, or leave out --do_train false to train."
        )
    if request.tasks is not None and not do_eval:
        raise UsageError(f"tasks={request.tasks!r} belong to an evaluation; add --do_eval.")
    if request.task_limit is not None:
        if request.tasks is None:
            raise UsageError(f"task_limit={request.task_limit} limits no task; pass --tasks too.")
        if request.task_limit < 1:
            raise UsageError(f"task_limit={request.task_limit} is below 1; pass 1 or more.")
    if do_eval and request.eval_blocks == 0 and (do_train or request.tasks is None):
        raise UsageError(
            "eval_blocks=0 leaves no held-out text for do_eval; pass --eval_blocks 64, or leave "
            "out --do_eval."
        )
    if request.eval_blocks is not None and request.eval_blocks < 0:
        raise UsageError(f"eval_blocks={request.eval_blocks} is negative; pass 0 for none.")
    if not do_train and request.resume:
        raise UsageError("resume goes on with training, which do_train=False rules out; drop one.")


def output_file(output: str | None, *, overwrite: bool) -> Path | None:
    """Return where the JSON of an evaluation goes: `output` itself if it ends in .json.

    Raises:
        UsageError: If it is there already.
    """
    if output is None:
        return None
    path = Path(output)
    path = path if path.suffix == ".json" else path / FILE
    if path.exists() and not overwrite:
        raise UsageError(f"output={str(path)!r} exists; pass --overwrite, or another --output.")
    return path


def evaluate(
    request: TrainRequest, arguments: Any, tasks: LoadedTasks | None = None, *, show: bool = True
) -> Evaluation:
    """Load a checkpoint, quantized or float, and evaluate it; writes nothing.

    Args:
        request: The model, its quantization, and the text: `eval_data`, or else `data`, of which
            the first `eval_blocks` blocks are read (None: all; 0: none).
        arguments: `transformers.TrainingArguments`: device, precision and batch size are theirs.
        tasks: Tasks to be run on it.
        show: Whether there is a progress bar, on stderr where that is a terminal.

    Raises:
        SpectraError: Whatever is wrong with the input, in one sentence.
    """
    checkpoint = load_checkpoint(
        request.model,
        revision=request.revision,
        tokenizer=request.tokenizer,
        device=arguments.device,
        dtype="float32",
        trust_remote_code=request.trust_remote_code,
        quantizer=request.quantizer,
        w_bits=request.w_bits,
        a_bits=request.a_bits,
        kv_bits=request.kv_bits,
        initialize_scales=request.initialize_scales,
    )
    model, size = checkpoint.model, arguments.per_device_eval_batch_size
    autocast = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None
    text = None
    if request.eval_blocks != 0:
        blocks = token_blocks(
            request.eval_data or request.data,
            checkpoint.tokenizer,
            seq_len=block_length(request, model),
            max_blocks=request.eval_blocks,
            vocab_size=model.get_input_embeddings().num_embeddings,
        )
        text = heldout(model, blocks, batch_size=size, autocast=autocast, show=show)
    report = None
    if tasks is not None:
        report = run_tasks(
            model,
            checkpoint.tokenizer,
            tasks,
            limit=request.task_limit,
            batch_size=size,
            autocast=autocast,
            show=show,
        )
    name = "float32" if autocast is None else f"{str(autocast).removeprefix('torch.')} autocast"
    return Evaluation(checkpoint.meta, name, text, report, environment(arguments.device))


def block_length(request: TrainRequest, model: nn.Module) -> int:
    """Return the tokens of a block: those asked for, or 512, or what the model was built for."""
    longest = getattr(model.config, "max_position_embeddings", None)
    usual = min(DEFAULT_SEQ_LEN, longest or DEFAULT_SEQ_LEN)
    seq_len = usual if request.seq_len is None else request.seq_len
    if longest is not None and seq_len > longest:
        warnings.warn(
            f"seq_len={seq_len} exceeds the {longest} positions this model was built for.",
            InputWarning,
            stacklevel=2,
        )
    return seq_len


def heldout(
    model: nn.Module,
    blocks: TokenBlocks,
    *,
    batch_size: int = 8,
    autocast: torch.dtype | None = None,
    show: bool = True,
) -> Heldout:
    """Return the loss of a model on blocks of tokens.

    Args:
        model: A causal language model; for a quantized one this is the quantized loss, noise-free.
        blocks: (B, T) token ids.
        batch_size: Blocks in a forward.
        autocast: Type of matrix products, or None for that of the weights.
        show: Whether there is a progress bar.

    Raises:
        NumericalError: If the loss is not finite.
        OutOfMemoryError: If a batch does not fit.
    """
    started, device = time.monotonic(), next(model.parameters()).device
    means = torch.empty(len(blocks), dtype=torch.float64)
    training = model.training
    model.eval()
    bar = tqdm(total=len(blocks), desc="held-out", unit="block", disable=None if show else True)
    try:
        with torch.no_grad(), bar:
            for start in range(0, len(blocks), batch_size):
                ids = blocks.ids[start : start + batch_size]
                means[start : start + len(ids)] = block_losses(model, ids.to(device), autocast)
                bar.update(len(ids))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "out of memory" not in str(error).lower():
            raise
        raise OutOfMemoryError(
            f"a batch of {batch_size} blocks of {blocks.ids.shape[1]} tokens does not fit into "
            "memory; lower --per_device_eval_batch_size."
        ) from None
    finally:
        model.train(training)
    loss = float(means.mean())
    if not math.isfinite(loss):
        raise NumericalError(
            f"the loss on {blocks.source} is {loss}; evaluate another checkpoint, or in float32."
        )
    count, seq_len = blocks.ids.shape
    return Heldout(
        loss=loss,
        loss_se=float(means.std()) / math.sqrt(count) if count > 1 else None,
        tokens=count * (seq_len - 1),
        blocks=count,
        seq_len=seq_len,
        source=blocks.source,
        sha256=blocks.sha256,
        seconds=time.monotonic() - started,
    )


def block_losses(model: nn.Module, ids: torch.Tensor, autocast: torch.dtype | None) -> torch.Tensor:
    """Return the mean loss of each block of (b, T), float64 on the CPU."""
    with torch.autocast(ids.device.type, dtype=autocast, enabled=autocast is not None):
        logits = model(input_ids=ids, use_cache=False).logits  # (b, T, V)
    losses = []
    for scores, words in zip(logits, ids, strict=True):
        # One block at a time: the float32 copy of all logits would be the largest tensor here.
        wide = scores[:-1].to(torch.promote_types(scores.dtype, torch.float32))
        each = nn.functional.cross_entropy(wide, words[1:], reduction="none")
        losses.append(each.cpu().double().mean())
    return torch.stack(losses)
