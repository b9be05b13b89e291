"""What a training run is asked to do, beside the arguments of `transformers.TrainingArguments`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _option(default: Any, text: str, *aliases: str) -> Any:
    metadata: dict[str, Any] = {"help": text}
    if aliases:
        metadata["aliases"] = list(aliases)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainRequest:
    """A training run; None leaves the choice to the preset, the recipe or the model.

    The text beside each field is its description, here and on the command line.
    """

    model: str = _option("tiny", "Where to start: 'tiny', a hub id, a directory, or a GGUF file.")
    data: str = _option(
        "stdlib",
        "Training text, as for `spectra estimate --data`; stdlib stands for stdlib:train.",
    )
    eval_data: str | None = _option(
        None,
        "Held-out text (the held-out part of stdlib; for other data, the blocks after those "
        "trained on).",
    )
    output: str | None = _option(
        None, "Directory of the run, as --output_dir (runs/MODEL-RECIPE-wBITS)."
    )
    seq_len: int | None = _option(None, "Tokens in a block (512, or what the model was built for).")
    eval_blocks: int | None = _option(
        None, "Held-out blocks to evaluate on, 0 for none (64; all with --do_train false)."
    )
    tasks: str | None = _option(
        None,
        "With --do_eval: zero-shot tasks of lm-evaluation-harness, comma-separated: names, "
        "winq (the paper's eight), .yaml files or directories of them.",
    )
    task_limit: int | None = _option(None, "Questions asked of each task, the first ones (all).")
    preset: str | None = _option(
        None, "Published setting, as llama-1b-w2a16, or llama-1b-w2a16-baseline; flags override."
    )
    quantizer: str | None = _option(
        None,
        "Quantizer: paretoq (default), lsq, rtn, quest, bitnet, llm-qat, efficientqat; hif8, "
        "fp8_e4m3, fp8_e5m2 (8-bit floats). Options behind a colon: efficientqat:group_size=64.",
    )
    w_bits: float | None = _option(
        None, "Bits of a weight, as the quantizer has them: 1, 1.58, 2 to 8 (16: none)."
    )
    a_bits: int | None = _option(None, "Bits of an activation: 2 to 8, or 16 for none (default).")
    kv_bits: int | None = _option(None, "Bits of keys and values: 8, or 16 for none (default).")
    initialize_scales: bool = _option(
        False, "Derive the scales of a quantized checkpoint that lacks them from its weights."
    )
    recipe: str = _option(
        "baseline",
        "What the loop does: baseline, winq, cage, dts, several as winq+cage; block-ap, e2e-qp.",
        "--method",
    )
    reset_every: int | None = _option(None, "WinQ: steps between resets (a third of the run).")
    reset_fraction: float | None = _option(
        None, "WinQ: how far a reset moves weights toward the grid, 0 to 1 (0.4)."
    )
    winq_alpha: float | None = _option(
        None, "WinQ: the public callback's alpha in place of --reset_fraction, which is 1 - alpha."
    )
    noise_std: float | None = _option(
        None, "WinQ: standard deviation of the weight noise, absolute (0.001; 0 for none)."
    )
    scale_noise_std: float | None = _option(
        None, "WinQ: standard deviation of the noise on the scales (that of the weights)."
    )
    noise_place: str = _option("before", "WinQ: noise before quantization, after it, or both.")
    noise_frozen: bool = _option(False, "WinQ: one draw until the next reset.")
    noise_trainable: bool = _option(False, "WinQ: learn the standard deviations.")
    save_before_reset: bool = _option(
        False, "WinQ: checkpoints of a reset step hold the weights before the reset."
    )
    reset_from: int | None = _option(None, "WinQ: first step that may have a reset (any).")
    reset_until: int | None = _option(None, "WinQ: last step that may have a reset (any).")
    plain_steps: int | None = _option(
        None, "DTS: steps in plain precision before quantization (a twentieth of the run)."
    )
    kept_data: str | None = _option(
        None, "Text of a task from before: its held-out loss is logged as kept_loss (forgetting)."
    )
    cage_lambda: float | None = _option(
        None, "CAGE: strength of the pull toward the grid at the end of the run (10)."
    )
    cage_form: str = _option(
        "decoupled", "CAGE: decoupled (beside the optimizer) or coupled (in its gradient)."
    )
    cage_silent: float | None = _option(
        None, "CAGE: share of the run before the pull sets in, from 0 and below 1 (0.8)."
    )
    cage_ramp: str = _option("linear", "CAGE: linear from 0 to its full strength, or constant.")
    cage_order: str = _option(
        "before", "CAGE, decoupled: pull before the optimizer's move, or after, as a public fork."
    )
    distill: bool = _option(
        False, "Learn the teacher's distributions in the place of the text (recipe distill)."
    )
    teacher: str | None = _option(
        None, "Distillation: a float model with the same tokens (--model before quantization)."
    )
    distill_reduction: str = _option(
        "batchmean", "Distillation: sum over positions (batchmean, LLM-QAT's), or mean (token)."
    )
    quant_learning_rate: float | None = _option(
        None, "Block-AP: learning rate of scales and zero points (1e-4)."
    )
    calibration_blocks: int | None = _option(
        None, "Block-AP: blocks of text that each transformer block is trained on (4096)."
    )
    trainable: str = _option(
        "all", "What trains: all, or scales (quantizer scales and norms alone: the control)."
    )
    save_initial: bool = _option(True, "Save checkpoint-0, the model before training.")
    revision: str | None = _option(None, "Branch, tag or commit of a hub id.")
    tokenizer: str | None = _option(None, "Tokenizer, if the model has none of its own.")
    trust_remote_code: bool = _option(False, "Run code that a checkpoint brings along.")
    resume: bool = _option(False, "Go on with the run in --output.")
    overwrite: bool = _option(False, "Delete the checkpoints in --output and begin.")
