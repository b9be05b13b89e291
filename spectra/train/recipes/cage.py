"""CAGE (arXiv 2510.18784): a pull toward the grid that grows in the last part of a run.

Training settles where no further step helps both the loss and the distance to the grid, a λ-Pareto
point:  ∇f(x) + λ (x − Q(x)) = 0.  With e_t = x_t − Q(x_t), held constant, step t = 0, 1, …, T−1 is

    decoupled   x ← x − lr (Δ_t + λ_t e_t),   Δ_t the optimizer's move, whose moments see g alone
    coupled     the optimizer sees g + λ_t e_t: Adam's second moment preconditions the pull, about
                lr λ e / (√v̂ + ε), and e enters both moments
    schedule    r = (t+1)/T;  λ_t = 0 while r ≤ s,  then λ (r − s)/(1 − s) (linear) or λ (constant)

g is the straight-through gradient. For plain SGD the two forms are one.

Decoupled. The pull is done just before the optimizer's move, in place: x ← x − lr λ_t e_t is the
interpolation x ← (1 − lr λ_t) x + lr λ_t Q(x) of a reset with that fraction, so it needs no memory,
touches no moment, and with scales that do not follow the weights never leaves the rounding cell of
x for lr λ_t ≤ 1; Q and learning rate are those of the step, as in the paper. (AdamW's decay then
shrinks the pulled weight: a relative difference of lr · weight decay in the pull, none without
decay.) A public fork pulls after the move and after the schedule, with Q(x_{t+1}) and the next
step's learning rate: `cage_order="after"`.

Coupled. λ_t e is added after clipping, which bounds the noise of g: so λ means the same in both
forms, the logged gradient norm is the loss's own, and a step whose g is clipped to c g heads for
the Pareto point of λ/c. Added before, the sum would be clipped, and the pull with it.

Where λ_t = 0 nothing is touched: such steps are the plain optimizer's, bit for bit. All of it is a
function of the step, the weights and the gradients averaged over ranks, so a resumed run goes on as
if uninterrupted and every rank takes the same step.

`pareto_residual`, logged, is ‖∇f + λ e‖ over the quantized weights, with the full λ, before the
step, for the gradient of that step's batch before clipping.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from spectra.errors import UsageError, nearest
from spectra.quant import QuantLinear, quant_layers
from spectra.train.recipes.recipe import Recipe

FORMS = ("decoupled", "coupled")
RAMPS = ("linear", "constant")
ORDERS = ("before", "after")


class Cage(Recipe):
    """A pull of strength λ toward the quantized weights, silent at first.

    Args:
        cage_lambda: λ; 0 switches the pull off.
        cage_form: "decoupled" or "coupled".
        cage_silent: s, the share of the run without a pull, from 0 and below 1.
        cage_ramp: "linear" from 0 at s to λ at the end, or "constant".
        cage_order: "before" the optimizer's move (the paper) or "after" it (the public fork).

    Raises:
        UsageError: If a value is out of range or not known.
    """

    name = "cage"

    def __init__(
        self,
        cage_lambda: float = 10.0,
        *,
        cage_form: str = "decoupled",
        cage_silent: float = 0.8,
        cage_ramp: str = "linear",
        cage_order: str = "before",
    ) -> None:
        if not (math.isfinite(cage_lambda) and cage_lambda >= 0):
            raise UsageError(
                f"cage_lambda={cage_lambda!r} is no strength of a pull; pass a number from 0, as "
                "10."
            )
        if not 0 <= cage_silent < 1:
            raise UsageError(
                f"cage_silent={cage_silent!r} is outside [0, 1); pass the share of the run without "
                "a pull, as 0.8, or cage_lambda=0 for none at all."
            )
        for name, value, known in (
            ("cage_form", cage_form, FORMS),
            ("cage_ramp", cage_ramp, RAMPS),
            ("cage_order", cage_order, ORDERS),
        ):
            if value not in known:
                raise UsageError(
                    f"{name}={value!r} is not one of {', '.join(known)}{nearest(value, known)}"
                )
        if cage_form == "coupled" and cage_order == "after":
            raise UsageError(
                "cage_order='after' pulls after the optimizer's move, and cage_form='coupled' puts "
                "the pull into its gradient; leave one of them out."
            )
        self.cage_lambda, self.cage_form = float(cage_lambda), cage_form
        self.cage_silent, self.cage_ramp, self.cage_order = cage_silent, cage_ramp, cage_order
        self.total_steps: int | None = None
        self._products: tuple[float, float, float, float] | None = None

    @property
    def moves_weights(self) -> bool:
        """Whether there is a pull."""
        return self.cage_lambda > 0

    def check(self, arguments: Any) -> None:
        """Refuse loss scaling, and a pull that would go beyond the grid."""
        if not self.moves_weights:
            return
        if arguments.fp16:
            raise UsageError(
                "fp16 scales gradients and skips steps, which the pull of recipe='cage' does not "
                "follow; train with bf16."
            )
        rate = arguments.learning_rate
        plain = "sgd" in str(getattr(arguments.optim, "value", arguments.optim)).lower()
        if (self.cage_form == "decoupled" or plain) and rate * self.cage_lambda >= 1:
            raise UsageError(
                f"cage_lambda={self.cage_lambda:g} times learning_rate={rate:g} is "
                f"{rate * self.cage_lambda:g}, and from 1 on a step pulls weights onto their "
                f"quantized values or beyond; pass cage_lambda below {1 / rate:g}."
            )

    def plan(self, total_steps: int) -> None:
        """Learn T."""
        self.total_steps = total_steps

    def settings(self) -> dict[str, Any]:
        """Return the settings of the recipe."""
        names = ("cage_lambda", "cage_form", "cage_silent", "cage_ramp", "cage_order")
        return {name: getattr(self, name) for name in names}

    def strength(self, step: int) -> float:
        """Return λ_t of step t = `step`, counted from 0.

        Raises:
            UsageError: If the length of the run is not known yet.
        """
        if self.total_steps is None:
            raise UsageError(
                "this CAGE recipe does not know the length of the run; use "
                "spectra.train.attach(trainer, recipe), or call plan(total_steps)."
            )
        r = (step + 1) / self.total_steps
        if r <= self.cage_silent:
            return 0.0
        ramp = (r - self.cage_silent) / (1 - self.cage_silent)
        return self.cage_lambda * (ramp if self.cage_ramp == "linear" else 1.0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pull the weights, or put the pull into their gradients."""
        del control
        model, strength = kwargs["model"], self.strength(state.global_step)
        if self.moves_weights and _logs_next(args, state):
            self._products = _products(model)
        if strength == 0:
            return
        if self.cage_form == "coupled":
            _add_pull(model, strength)
        elif self.cage_order == "before":
            pull_(model, kwargs["optimizer"], strength)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pull the weights, where that comes after the move."""
        del args, control
        if self.cage_order == "after":  # the step is counted already
            strength = self.strength(state.global_step - 1)
            if strength > 0:
                pull_(kwargs["model"], kwargs["optimizer"], strength)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add λ_t and the Pareto residual of the last step to a log of training."""
        del args, control
        logs = kwargs.get("logs") or {}
        if "loss" not in logs:
            return
        extra = {"cage_strength": self.strength(state.global_step - 1)}
        if self._products is not None:
            gg, ge, ee, norm = self._products
            whole = logs.get("grad_norm")
            c = whole / norm if whole is not None and norm > 0 else 1.0  # undoes the clipping
            lam = self.cage_lambda
            square = c * c * gg + 2 * c * lam * ge + lam * lam * ee
            extra["pareto_residual"] = math.sqrt(max(square, 0.0))
        self._products = None
        logs.update(extra)
        if state.log_history:
            state.log_history[-1].update(extra)


@torch.no_grad()
def pull_(model: nn.Module, optimizer: Any, strength: float) -> None:
    """Pull every quantized weight by lr · `strength` of the way to its quantized value, in place.

    Args:
        model: A prepared model.
        optimizer: Its optimizer, for the learning rate of each weight.
        strength: λ_t.
    """
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for layer in _trained(model):
        fraction = float(rates[id(layer.weight)]) * strength
        layer.reset_(min(fraction, 1.0))


@torch.no_grad()
def _add_pull(model: nn.Module, strength: float) -> None:
    for layer in _trained(model):
        assert layer.weight.grad is not None
        layer.weight.grad.add_(_error(layer), alpha=strength)


@torch.no_grad()
def _products(model: nn.Module) -> tuple[float, float, float, float]:
    """Return ⟨g, g⟩, ⟨g, e⟩, ⟨e, e⟩ over quantized weights, and ‖g‖ over all that trains."""
    totals = torch.zeros(3, dtype=torch.float64)
    for layer in _trained(model):
        assert layer.weight.grad is not None
        g, e = layer.weight.grad.double(), _error(layer).double()
        totals += torch.stack(((g * g).sum(), (g * e).sum(), (e * e).sum())).cpu()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    gg, ge, ee = totals.tolist()
    return gg, ge, ee, float(torch.nn.utils.get_total_norm(grads))


def _error(layer: QuantLinear) -> torch.Tensor:
    """Return e = W − Q(W), detached, in the dtype of the weights."""
    return layer.weight.detach() - layer.quantized_weight().detach().to(layer.weight.dtype)


def _trained(model: nn.Module) -> Iterator[QuantLinear]:
    layers = quant_layers(model).values()
    return (layer for layer in layers if layer.weight.grad is not None)


def _logs_next(args: Any, state: Any) -> bool:
    """Whether the step about to be taken is logged; unless steps are logged, it may be."""
    if str(getattr(args.logging_strategy, "value", args.logging_strategy)) != "steps":
        return True
    step = state.global_step + 1
    every = int(state.logging_steps or 0)
    return (step == 1 and args.logging_first_step) or (every > 0 and step % every == 0)
