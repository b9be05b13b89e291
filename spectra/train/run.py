"""From a model and text to a run on disk: load, evaluate, train, evaluate, save.

OUTPUT/checkpoint-0                  the quantized model before training
OUTPUT/blocks/block-NNN.safetensors  with --recipe block-ap: each block as soon as it is trained
OUTPUT/checkpoint-N                  as the Trainer saves them, with spectra_quantization.json
OUTPUT/{model.safetensors, ...}      the model at the end
OUTPUT/spectra_training.json         what was asked, the data, the result, the cost
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from spectra.checkpoint.quiet import first_line, without_chatter
from spectra.errors import OutOfMemoryError, SpectraError
from spectra.estimation.environment import environment
from spectra.estimation.peak import PeakMemory
from spectra.quant import read_saved
from spectra.record import holding, write_atomically
from spectra.train.assembly import Assembly, build
from spectra.train.blocks import train_blocks
from spectra.train.metrics import weight_metrics
from spectra.train.recipes import BlockAP, WinQ
from spectra.train.request import TrainRequest
from spectra.train.resuming import check_checkpoint, check_links, in_sentences, load_every_tensor
from spectra.train.saving import (
    STATE,
    SUMMARY,
    check_free,
    delete_run,
    last_of_same_run,
)
from spectra.train.seal import flush_file, seal

_TORN = ("unexpected pos", "pytorchstreamwriter", "iostream error")  # torch's words for a full disk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        output: Directory of the run.
        step: Optimizer steps taken, those before a resume included.
        initial: Held-out metrics of the quantized model before training, empty if not evaluated.
        final: Held-out metrics after it.
        weights: Error ratio and masked fraction after training.
        seconds: Wall time of this call's training.
        peak_bytes: Peak memory.
        log_history: The Trainer's log.
    """

    output: Path
    step: int
    initial: dict[str, float]
    final: dict[str, float]
    weights: dict[str, float]
    seconds: float
    peak_bytes: int
    log_history: list[dict[str, Any]] = field(repr=False)


def default_output(request: TrainRequest) -> str:
    """Return where a run goes that names no directory."""
    path = Path(request.model)
    name = path.name or "model"
    if name.startswith("checkpoint-") and path.parent.name:  # of which run matters more
        name = f"{path.parent.name}-{name.removeprefix('checkpoint-')}"
    bits = "" if request.w_bits is None else f"-w{request.w_bits:g}"
    recipe = request.recipe
    if request.distill:
        recipe = "distill" if recipe == "baseline" else f"{recipe}+distill"
    return f"runs/{name}-{recipe}{bits}"


def train(request: TrainRequest, arguments: Any) -> TrainResult:
    """Train, or go on training, and write the run.

    Args:
        request: What to train.
        arguments: `transformers.TrainingArguments`; its `output_dir` is where the run goes.

    Raises:
        SpectraError: Whatever is wrong with the input, in one sentence; NumericalError if the
            gradient turned NaN, with the checkpoints so far kept.
    """
    writes = arguments.process_index == 0
    with without_chatter(), holding(Path(arguments.output_dir)) if writes else nullcontext():
        return _train(request, arguments)


def _train(request: TrainRequest, arguments: Any) -> TrainResult:
    output = Path(arguments.output_dir)
    check_free(output, resume=request.resume, overwrite=request.overwrite)
    check_links(output)
    assembly = build(request, arguments)
    last = _where_to_begin(assembly, request, output)
    trainer = assembly.trainer
    by_blocks = isinstance(assembly.recipe, BlockAP)
    arguments.eval_on_start = assembly.eval_data is not None and last is None
    _tell(assembly, arguments, last)
    if last is None and request.save_initial and arguments.save_total_limit is None:
        with _told(arguments):
            _save_initial(assembly, output)
    started = time.monotonic()
    with PeakMemory(arguments.device) as peak:
        with _told(arguments):
            if by_blocks:
                train_blocks(assembly, arguments)
            else:
                trainer.train(resume_from_checkpoint=None if last is None else str(last))
        seconds = time.monotonic() - started
        final = _final_evaluation(assembly)
        peak_bytes = peak.bytes
    history = trainer.state.log_history
    result = TrainResult(
        output=output,
        step=trainer.state.global_step,
        initial=_heldout(next((e for e in history if "eval_loss" in e and e["step"] == 0), {})),
        final=final,
        weights=weight_metrics(assembly.checkpoint.model),
        seconds=seconds,
        peak_bytes=peak_bytes,
        log_history=history,
    )
    done_before = last is not None and last.name == f"checkpoint-{result.step}"
    if not (done_before and (output / SUMMARY).exists()):
        with _told(arguments):
            _save_final(assembly, request, arguments, result)
    return result


def _where_to_begin(assembly: Assembly, request: TrainRequest, output: Path) -> Path | None:
    """Return the checkpoint to go on from; no process writes before all have looked."""
    recipe, saver, accelerator = assembly.recipe, assembly.saver, assembly.trainer.accelerator
    last = None
    if request.resume:
        last = last_of_same_run(output, saver.at(0))
        if last is not None:
            check_checkpoint(last)
            load_every_tensor(assembly.trainer, last)
            in_sentences(assembly.trainer, last)
    accelerator.wait_for_everyone()
    if request.overwrite and accelerator.is_main_process:
        delete_run(output)
    accelerator.wait_for_everyone()
    for part in recipe.parts:
        if last is not None and isinstance(part, WinQ) and part.reset_every is None:
            found = read_saved(last)
            part.reset_every = None if found is None else found.recipe.get("reset_every")
    return last


def _tell(assembly: Assembly, arguments: Any, last: Path | None) -> None:
    spec, model = assembly.saver.spec, assembly.checkpoint.model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.info(
        "%s, %s, w_bits=%g a_bits=%d: %s of %s parameters train on %s blocks of %s tokens%s",
        spec.quantizer,
        assembly.recipe.name,
        spec.w_bits,
        spec.a_bits,
        f"{trained:,}",
        f"{sum(p.numel() for p in model.parameters()):,}",
        f"{len(assembly.train_data):,}",
        assembly.train_data.ids.shape[1],
        " under bfloat16 autocast" if arguments.bf16 else "",
    )
    if last is not None:
        log.info("going on from %s", last)


def _save_initial(assembly: Assembly, output: Path) -> None:
    directory = output / "checkpoint-0"
    assembly.trainer.save_model(str(directory))
    if assembly.trainer.args.should_save:
        write_atomically(directory / STATE, b'{"global_step": 0}\n')
        seal(directory)


def _final_evaluation(assembly: Assembly) -> dict[str, float]:
    trainer = assembly.trainer
    if assembly.eval_data is None:
        return {}
    last = next((e for e in reversed(trainer.state.log_history) if "eval_loss" in e), None)
    if last is None or last["step"] != trainer.state.global_step:
        last = trainer.evaluate()
    return _heldout(last)


def _heldout(entry: dict[str, Any]) -> dict[str, float]:
    return {k: float(entry[f"eval_{k}"]) for k in ("loss", "perplexity") if f"eval_{k}" in entry}


def _save_final(
    assembly: Assembly, request: TrainRequest, arguments: Any, result: TrainResult
) -> None:
    trainer = assembly.trainer
    trainer.save_model()
    trainer.save_state()
    if not arguments.should_save:
        return
    saver = assembly.saver
    content = {
        "request": asdict(request),
        "arguments": json.loads(arguments.to_json_string()),
        "quantization": json.loads(saver.spec.to_json()),
        "recipe": {"name": assembly.recipe.name} | assembly.recipe.settings(),
        "checkpoint": assembly.checkpoint.meta.metadata(),
        "train_data": assembly.train_data.metadata(),
        "eval_data": None if assembly.eval_data is None else assembly.eval_data.metadata(),
        "step": result.step,
        "initial": result.initial,
        "final": result.final,
        "weights": result.weights,
        "seconds": result.seconds,
        "peak_bytes": result.peak_bytes,
        "environment": environment(arguments.device),
    }
    text = json.dumps(content, indent=2, default=str) + "\n"
    for path in result.output.glob("model*"):
        flush_file(path)
    write_atomically(result.output / SUMMARY, text.encode())  # last: a run with it is done


@contextmanager
def _told(arguments: Any) -> Iterator[None]:
    """Turn what a full memory or a full disk raises into one sentence."""
    try:
        yield
    except MemoryError:
        raise _too_large(arguments) from None
    except OSError as error:
        raise _unwritable(arguments, error.strerror or first_line(error)) from None
    except RuntimeError as error:
        words = str(error).lower()
        if "out of memory" in words:
            raise _too_large(arguments) from None
        if any(word in words for word in _TORN):
            raise _unwritable(arguments, "the disk is full or gone") from None
        raise
    except SafetensorError as error:
        raise _unwritable(arguments, first_line(error)) from None


def _unwritable(arguments: Any, why: str) -> SpectraError:
    return SpectraError(
        f"the run cannot be written to {arguments.output_dir!r}: {why}; whole checkpoints are "
        "kept, so make room and pass --resume."
    )


def _too_large(arguments: Any) -> OutOfMemoryError:
    size = arguments.per_device_train_batch_size
    newer = hasattr(arguments, "activation_checkpointing")  # transformers 5.21
    return OutOfMemoryError(
        f"a batch of {size} blocks does not fit into memory; lower "
        "--per_device_train_batch_size and raise --gradient_accumulation_steps by the same factor, "
        f"or pass --{'activation' if newer else 'gradient'}_checkpointing."
    )
