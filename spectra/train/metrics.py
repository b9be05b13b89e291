"""What is logged about quantized weights, through the Trainer's own log.

quant_error_ratio    ‖W − Q(W)‖ / ‖W‖ over all quantized weights
masked_fraction      share of them that the straight-through estimator blocks
scale_norm           norm of all their scales, where the quantizer has any
code_change          share whose code differs from that at the last log: oscillation and drift
grad_weight_ratio    ‖∇L‖ / ‖W‖ over them, before clipping (the WinQ paper's gradient norm)
perplexity           exp of the logged loss; eval_perplexity likewise
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from spectra.quant import quant_layers

OVERFLOW = 700.0  # the largest loss whose exponential is a float64


class QuantizationMetrics(TrainerCallback):  # type: ignore[misc]
    """Adds the metrics to every log of the Trainer.

    Args:
        perplexity: Whether the training loss is a log-likelihood, whose exponential is one.
    """

    def __init__(self, *, perplexity: bool = True) -> None:
        self._losses = {"eval_loss": "eval_perplexity"}
        if perplexity:
            self._losses["loss"] = "perplexity"
        self._codes: dict[str, torch.Tensor] = {}
        self._norms: tuple[torch.Tensor, torch.Tensor] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember the codes that the run starts, or goes on, from."""
        del args, state, control
        self._codes = {n: layer.codes() for n, layer in quant_layers(kwargs["model"]).items()}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the gradient norms of the step."""
        del args, state, control
        model = kwargs["model"]
        quantized = {id(layer.weight) for layer in quant_layers(model).values()}
        grads = [(id(p) in quantized, p.grad) for p in model.parameters() if p.grad is not None]
        self._norms = (_norm(g for own, g in grads if own), _norm(g for _, g in grads))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the metrics to the log."""
        del args, control
        logs = kwargs.get("logs") or {}
        extra: dict[str, float] = {}
        for key, name in self._losses.items():
            if key in logs:
                extra[name] = math.exp(min(logs[key], OVERFLOW))
        if "loss" in logs:
            extra |= self._weights(kwargs["model"], logs.get("grad_norm"))
        logs.update(extra)
        if state.log_history:
            state.log_history[-1].update(extra)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the perplexity to the metrics that `evaluate` returns."""
        del args, state, control
        metrics = kwargs.get("metrics") or {}
        if "eval_loss" in metrics:
            metrics["eval_perplexity"] = math.exp(min(metrics["eval_loss"], OVERFLOW))

    @torch.no_grad()
    def _weights(self, model: nn.Module, grad_norm: float | None) -> dict[str, float]:
        found = weight_metrics(model)
        layers = quant_layers(model)
        codes = {name: layer.codes() for name, layer in layers.items()}
        total = sum(code.numel() for code in codes.values())
        changed = sum(
            int((code != self._codes[name]).sum())
            for name, code in codes.items()
            if name in self._codes
        )
        self._codes = codes
        metrics = {
            "quant_error_ratio": found["quant_error_ratio"],
            "masked_fraction": found["masked_fraction"],
            "code_change": changed / total,
        }
        scales = [layer.scale.detach() for layer in layers.values() if layer.scale is not None]
        if scales:
            metrics["scale_norm"] = float(_norm(scales))
        if self._norms is not None and grad_norm is not None and found["weight_norm"] > 0:
            # Clipping scales all gradients alike, so the share of the logged norm is theirs.
            own, whole = (float(norm) for norm in self._norms)
            share = own / whole if whole > 0 else 0.0
            metrics["grad_weight_ratio"] = share * grad_norm / found["weight_norm"]
        return metrics


@torch.no_grad()
def weight_metrics(model: nn.Module) -> dict[str, float]:
    """Return `quant_error_ratio`, `masked_fraction` and `weight_norm` of the quantized weights."""
    error = size = torch.zeros((), dtype=torch.float64)
    masked = total = 0
    for layer in quant_layers(model).values():
        weight = layer.weight.detach()
        gap = layer.quantized_weight().detach() - weight
        error = error + gap.double().square().sum().cpu()
        size = size + weight.double().square().sum().cpu()
        masked += int((~layer.mask()).sum())
        total += weight.numel()
    norm = math.sqrt(float(size))
    return {
        "quant_error_ratio": math.sqrt(float(error)) / norm if norm > 0 else 0.0,
        "masked_fraction": masked / total,
        "weight_norm": norm,
    }


def _norm(grads: Any) -> torch.Tensor:
    found = list(grads)
    return torch.nn.utils.get_total_norm(found) if found else torch.zeros(())
