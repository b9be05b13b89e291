"""Any `transformers.Trainer` with a prepared model -> quantization-aware training.

    model = AutoModelForCausalLM.from_pretrained(..., dtype="float32")
    spectra.quant.prepare(model, spectra.quant.spec("paretoq", w_bits=2))
    trainer = transformers.Trainer(model, args, train_dataset=...)
    spectra.train.attach(trainer, spectra.train.WinQ(reset_every=1000))
    trainer.train()

Callbacks go before those of the Trainer, so that what they add to a log reaches every reporter.
"""

from __future__ import annotations

from typing import Any

import torch

from spectra.errors import UsageError
from spectra.quant import amax_histories, quant_layers
from spectra.train.checks import SHARDED, check_arguments
from spectra.train.guard import FiniteGuard
from spectra.train.metrics import QuantizationMetrics
from spectra.train.recipes import Baseline, Distill, Recipe
from spectra.train.saving import QuantizationWriter
from spectra.train.scaling import ScalingSteps
from spectra.train.seal import Seals


def attach(
    trainer: Any, recipe: Recipe | None = None, *, remember: dict[str, Any] | None = None
) -> QuantizationWriter:
    """Give a Trainer its recipe, the metrics, the guard against NaN, and complete checkpoints.

    Args:
        trainer: A `transformers.Trainer` whose model `spectra.quant.prepare` changed.
        recipe: What the loop does; None for plain quantization-aware training.
        remember: Further settings, JSON values, to be stored in each checkpoint.

    Returns:
        What writes the quantization file, now part of `trainer.save_model`.

    Raises:
        UsageError: If the model is not quantized, its weights are not float32 or wider, training
            has no optimizer to give weights to, or the way it is parallelized is not supported.
    """
    recipe = recipe or Baseline()
    layers = quant_layers(trainer.model)
    check_arguments(trainer.args)
    _check_precision(layers)
    _check_parallel(trainer)
    if trainer.optimizer is not None:
        raise UsageError(
            "the Trainer has an optimizer already, which would miss parameters of the recipe; "
            "attach the recipe first, and let the Trainer make its optimizer."
        )
    recipe.check(trainer.args)
    noisy = any(getattr(part, "noise", None) is not None for part in recipe.parts)
    if trainer.args.torch_compile and noisy:
        raise UsageError(
            "torch_compile cannot trace the weight noise, which has a generator of its own at "
            "each step; drop --torch_compile, or pass --noise_std 0."
        )
    spec = next(iter(layers.values())).spec
    saver = QuantizationWriter(spec, recipe, remember or {})
    saver.join(trainer)
    recipe.setup(trainer.model, trainer.args.seed)
    recipe.join(trainer)
    handler = trainer.callback_handler
    # Histories advance first: a recipe that moves weights sees the scales of the next forward.
    steps = [ScalingSteps(trainer.model, trainer.args)] if amax_histories(trainer.model) else []
    distills = any(isinstance(part, Distill) for part in recipe.parts)
    # Gradients are measured and checked before the recipe adds to them or moves weights.
    handler.callbacks[:0] = [
        *steps,
        QuantizationMetrics(perplexity=not distills),
        FiniteGuard(),
        recipe,
        Seals(),
    ]
    return saver


def _check_precision(layers: dict[str, Any]) -> None:
    for name, layer in layers.items():
        dtype = layer.weight.dtype
        if torch.promote_types(dtype, torch.float32) != dtype:
            kind = str(dtype).removeprefix("torch.")
            raise UsageError(
                f"the weights of {name} are {kind}, whose spacing swallows small updates (2e-5 is "
                "lost on any bfloat16 weight above 0.0078); load the model in float32 and train "
                "with bf16=True, which keeps float32 masters."
            )


def _check_parallel(trainer: Any) -> None:
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        what = "FSDP" if trainer.is_fsdp_enabled else "DeepSpeed"
        raise UsageError(SHARDED.format(what=what))
    if trainer.args.n_gpu > 1:
        raise UsageError(
            f"{trainer.args.n_gpu} GPUs in one process would share the state of the noise; launch "
            "one process a GPU: torchrun --nproc-per-node "
            f"{trainer.args.n_gpu} -m spectra train ..., or set CUDA_VISIBLE_DEVICES=0."
        )
