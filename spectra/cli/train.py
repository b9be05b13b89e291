"""`spectra train`: a model and text in, checkpoints of quantization-aware training out."""

from __future__ import annotations

import gc
import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from spectra.cli.arguments import parse_values, say
from spectra.cli.evaluation import print_evaluation
from spectra.errors import UsageError
from spectra.parallel.launched import place
from spectra.record.names import check_name
from spectra.train.evaluation import FILE, check_request, evaluate, output_file
from spectra.train.presets import DEFAULTS, preset
from spectra.train.request import TrainRequest
from spectra.train.saving import finished_blocks, last_complete
from spectra.train.tasks import LoadedTasks, load_tasks

DESCRIPTION = """\
Quantization-aware training of a causal language model by transformers.Trainer, float32 weights
under bfloat16 autocast where the device has it, with or without WinQ (arXiv 2605.17471). Every flag
of transformers.TrainingArguments is accepted beside those below.

The run is evaluated on held-out text before, during and after training, and each checkpoint can be
given to `spectra estimate`, which finds its quantization by itself.

With `--do_train false --do_eval` any checkpoint, quantized or float, is only evaluated, on all of
--eval_data; nothing is written unless --output names a directory or a .json file. With --do_eval
and --tasks, zero-shot accuracy is measured too, on the trained model or on --model as it is."""

EPILOG = """\
examples:
  spectra train --model tiny --w_bits 2 --max_steps 300 --learning_rate 1e-3
  spectra train --model tiny --w_bits 2 --recipe winq --max_steps 300 --learning_rate 1e-3
  spectra train --model ID --data wiki.txt --preset llama-1b-w2a16 --output runs/w2
  torchrun --nproc-per-node 8 -m spectra train --model ID --data corpus.jsonl --w_bits 1
  spectra train --model tiny --quantizer efficientqat --w_bits 2 --recipe block-ap --output runs/b
  spectra train --model runs/b --recipe e2e-qp --max_grad_norm 0.3 --output runs/e
  spectra train --model runs/w2 --do_train false --do_eval --eval_data wiki.txt --tasks winq
  spectra estimate --ckpt runs/tiny-winq-w2 --steps all --output results/tiny-winq-w2"""


def run(arguments: Sequence[str]) -> int:
    """Run the verb."""
    from transformers import TrainingArguments

    values = parse_values(
        [TrainRequest, TrainingArguments],
        arguments,
        prog="spectra train",
        description=DESCRIPTION,
        epilog=EPILOG,
        defaults=DEFAULTS | _device_defaults(),
        preset=preset,
    )
    own = {field.name: values.pop(field.name) for field in fields(TrainRequest)}
    request = TrainRequest(**own)
    do_train = values["do_train"]
    check_request(request, do_train=do_train, do_eval=values["do_eval"])
    output = request.output or values["output_dir"]
    made = _training_arguments(request, values)
    if not do_train:
        return _evaluate(request, made, output)
    try:
        return _train(request, made)
    except KeyboardInterrupt:
        if made.should_save:
            say(_how_to_go_on(made, arguments))
        raise


def _training_arguments(request: TrainRequest, values: dict[str, Any]) -> Any:
    from transformers import TrainingArguments

    from spectra.train.run import default_output

    directory = values["output_dir"]
    if request.output is not None and directory not in (None, request.output):
        raise UsageError(
            f"output={request.output!r} and output_dir={directory!r} name two directories; pass "
            "one of them."
        )
    values["output_dir"] = request.output or directory or default_output(request)
    check_name("output", values["output_dir"])
    if values["resume_from_checkpoint"] is not None:
        raise UsageError(
            "--resume_from_checkpoint is replaced by --resume, which goes on from the last whole "
            "checkpoint in --output."
        )
    try:
        arguments = TrainingArguments(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"the training arguments do not fit: {error}") from None
    if arguments.world_size == 1 < place().size:
        raise UsageError(
            f"{place().size} processes were launched and transformers has not joined them: each "
            "would train alone and write the same files; start one, or pass --use_cpu."
        )
    return arguments


def _evaluate(request: TrainRequest, arguments: Any, output: str | None) -> int:
    if arguments.world_size > 1:
        raise UsageError(
            f"do_train=False runs in one process, and {arguments.world_size} were launched; start "
            "it without torchrun."
        )
    path = output_file(output, overwrite=request.overwrite)
    tasks = None if request.tasks is None else load_tasks(request.tasks)
    show = not arguments.disable_tqdm
    evaluation = evaluate(request, arguments, tasks, show=show)
    print_evaluation(evaluation)
    if path is not None:
        evaluation.save(path, request)
        print(f"summary              {path}")
    return 0


def _evaluate_tasks(request: TrainRequest, arguments: Any, tasks: LoadedTasks, run: Path) -> None:
    """Run tasks on a finished run, as it stands on disk."""
    gc.collect()  # the trained model goes before it is loaded anew
    saved = replace(
        request,
        model=str(run),
        eval_blocks=0,
        quantizer=None,
        w_bits=None,
        a_bits=None,
        kv_bits=None,
        initialize_scales=False,
        revision=None,
    )
    evaluation = evaluate(saved, arguments, tasks, show=not arguments.disable_tqdm)
    evaluation.save(run / FILE, saved)
    print_evaluation(evaluation)
    print(f"accuracies           {run / FILE}")


def _train(request: TrainRequest, arguments: Any) -> int:
    from spectra.train.run import train
    from spectra.train.saving import SUMMARY

    # Tasks are looked up before training, which may take days.
    speaks = arguments.should_save
    tasks = load_tasks(request.tasks) if request.tasks is not None and speaks else None
    result = train(request, arguments)
    if not speaks:  # another rank does
        return 0
    if result.initial and result.final:
        print(
            f"held-out perplexity  {result.initial['perplexity']:.4g} before, "
            f"{result.final['perplexity']:.4g} after {result.step} steps "
            f"(loss {result.initial['loss']:.4f}, {result.final['loss']:.4f} nats a token)"
        )
    elif result.final:
        print(
            f"held-out perplexity  {result.final['perplexity']:.4g} after {result.step} steps "
            f"(loss {result.final['loss']:.4f} nats a token)"
        )
    print(
        f"quantized weights    ‖W−Q(W)‖/‖W‖ {result.weights['quant_error_ratio']:.4f}, "
        f"masked {result.weights['masked_fraction']:.3%}"
    )
    print(f"cost                 {result.seconds:.0f} s, peak {result.peak_bytes / 1e9:.2f} GB")
    print(f"run                  {result.output}")
    print(f"summary              {Path(result.output) / SUMMARY}")
    if tasks is not None:
        _evaluate_tasks(request, arguments, tasks, result.output)
    print(f"next                 spectra estimate --ckpt {result.output} --steps all")
    return 0


def _how_to_go_on(arguments: Any, typed: Sequence[str]) -> str:
    last = last_complete(arguments.output_dir)
    blocks = len(finished_blocks(Path(arguments.output_dir)))
    if last is None and not blocks:
        return "no checkpoint had been saved; nothing to go on from."
    kept = [a for a in typed if a not in ("--resume", "--overwrite")]
    processes = arguments.world_size
    launcher = ["spectra"]
    if processes > 1:
        launcher = ["torchrun", "--nproc-per-node", str(processes), "-m", "spectra"]
    command = shlex.join([*launcher, "train", *kept, "--resume"])
    what = f"{blocks} trained blocks are" if last is None else f"{last} is"
    return f"{what} kept; go on with: {command}"


def _device_defaults() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    # On processors alone transformers joins processes only if told; else each trains by itself.
    joined = {"use_cpu": True} if place().size > 1 and not torch.accelerator.is_available() else {}
    return joined | {"bf16": cuda and torch.cuda.is_bf16_supported(), "dataloader_pin_memory": cuda}
