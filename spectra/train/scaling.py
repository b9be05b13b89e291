"""Delayed scaling in the loop: steps of the histories, and the detector of amax saturation.

After each optimizer step the largest entries of its tensors, over micro-batches and ranks, become
the newest entries of their histories. That happens before a recipe acts, so that a reset toward the
grid and the next forward have the same scale.

A scale from an old window may be too large for the tensor it meets: r = max|x| / limit exceeds 1,
and entries land beyond the target. For each tensor the log keeps, since the last one, the largest
r, the share of calls with r > 1, the share of entries beyond the limit, and for how many entries
the window's maximum has been in it. A tensor is *saturated* where

    r ≥ 4 in some call (two binades: more than a maximum moves from step to step), or
    r > 1 in more than nine of ten calls, of eight at least (the window lags behind for good).

One call in H + 1 exceeds the maximum of H like ones by chance, every other one the most recent or
the mean: that alone is no saturation. What is logged: `amax_ratio` (largest r), `amax_exceeded`
(share of calls), `amax_clipped` (share of entries), `amax_age` (mean over tensors),
`amax_saturated` (number of tensors); each tensor on a line of OUTPUT/spectra_scaling.jsonl.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from transformers import TrainerCallback

from spectra.errors import UsageError
from spectra.quant import advance_histories, amax_histories, quant_layers
from spectra.quant.delayed import Moment
from spectra.quant.scaling import AmaxHistory
from spectra.record import write_atomically
from spectra.record.jsonfile import parse_json

FILE = "spectra_scaling.jsonl"
RATIO = 4.0
SHARE, CALLS = 0.9, 8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saturation:
    """What became of one tensor since the last log.

    Attributes:
        name: Of the layer and the tensor.
        calls: Calls.
        ratio: Largest r; None without a call.
        exceeded: Share of calls with r > 1.
        clipped: Share of entries beyond the limit.
        age: Entries since the maximum of the window entered it, from 1; None if it is empty.
    """

    name: str
    calls: int
    ratio: float | None
    exceeded: float
    clipped: float
    age: int | None

    @property
    def saturated(self) -> bool:
        """Whether the scale was too large, by the rule above."""
        if self.ratio is None:
            return False
        lags = self.calls >= CALLS and self.exceeded > SHARE
        return not self.ratio < RATIO or lags  # a ratio that is NaN is no good sign


class ScalingSteps(TrainerCallback):  # type: ignore[misc]
    """Advances the amax histories of a model and reports on them.

    Args:
        model: A prepared model.
        arguments: `transformers.TrainingArguments`.

    Raises:
        UsageError: If the arguments do not go with histories.
    """

    def __init__(self, model: nn.Module, arguments: Any) -> None:
        self.model, self.histories = model, amax_histories(model)
        self.moment = Moment(seed=arguments.seed)
        for layer in quant_layers(model).values():
            if layer.scaling is not None:
                layer.scaling.moment = self.moment
        _check(self.histories, arguments)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what an interrupted run logged beyond the step that this one goes on from."""
        del control, kwargs
        if state.is_world_process_zero:
            _keep_until(Path(args.output_dir) / FILE, state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the layers where training stands."""
        del control, kwargs
        self.moment.step, self.moment.micro_batch = state.global_step, args.process_index

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on to the next micro-batch."""
        del state, control, kwargs
        self.moment.micro_batch += args.world_size

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give every history its newest entry, the same on all ranks."""
        del state, control, kwargs
        advance_histories(self.model, _maximum if args.world_size > 1 else None)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add what became of the tensors to the log of the training loss."""
        del control
        logs = kwargs.get("logs") or {}
        if "loss" not in logs:
            return
        found = saturations(self.histories, several=args.world_size > 1)
        for history in self.histories.values():
            history.forget_counts()
        extra = summary(found)
        logs.update(extra)
        if state.log_history:
            state.log_history[-1].update(extra)
        if state.is_world_process_zero:
            _append(Path(args.output_dir) / FILE, state.global_step, found)
            _tell(state.global_step, found)


@torch.no_grad()
def saturations(histories: dict[str, AmaxHistory], *, several: bool = False) -> list[Saturation]:
    """Return what became of each tensor since its counts began.

    Args:
        histories: By name.
        several: Whether counts are to be added up over ranks, which must then all call this.
    """
    if not histories:
        return []
    device = next(iter(histories.values())).amax.device
    none = torch.zeros(4, dtype=torch.int64, device=device)
    never = torch.full((), -1.0, dtype=torch.float64, device=device)
    counts = torch.stack([none if h.counts is None else h.counts for h in histories.values()])
    ratios = torch.stack([never if h.ratio is None else h.ratio for h in histories.values()])
    if several:
        distributed.all_reduce(counts)
        _maximum(ratios)
    found = []
    for (name, history), row, ratio in zip(
        histories.items(), counts.tolist(), ratios.tolist(), strict=True
    ):
        calls, over, entries, beyond = row
        found.append(
            Saturation(
                name=name,
                calls=calls,
                ratio=ratio if calls else None,
                exceeded=over / calls if calls else 0.0,
                clipped=beyond / entries if entries else 0.0,
                age=history.age(),
            )
        )
    return found


def summary(found: Iterable[Saturation]) -> dict[str, float]:
    """Return the metrics of a log; empty where no tensor was scaled."""
    seen = [one for one in found if one.calls]
    if not seen:
        return {}
    ages = [one.age for one in seen if one.age is not None]
    metrics = {
        "amax_ratio": max(one.ratio or 0.0 for one in seen),
        "amax_exceeded": sum(one.exceeded for one in seen) / len(seen),
        "amax_clipped": sum(one.clipped for one in seen) / len(seen),
        "amax_saturated": float(sum(one.saturated for one in seen)),
    }
    return metrics | ({"amax_age": sum(ages) / len(ages)} if ages else {})


def _check(histories: dict[str, AmaxHistory], arguments: Any) -> None:
    if not histories:
        return
    if arguments.torch_compile:
        raise UsageError(
            "torch_compile cannot trace the amax histories, which forwards and backwards write; "
            "drop --torch_compile."
        )
    again = ("gradient_checkpointing", "activation_checkpointing")
    twice = next((name for name in again if getattr(arguments, name, False)), None)
    if twice and next(iter(histories.values())).scaling.window == "calls":
        raise UsageError(
            f"{twice} runs forwards twice, which window=calls would count as two calls with two "
            "scales; pass window=steps, or leave it out."
        )


def _maximum(flat: torch.Tensor) -> None:
    distributed.all_reduce(flat, op=distributed.ReduceOp.MAX)


def _tell(step: int, found: list[Saturation]) -> None:
    hit = sorted((one for one in found if one.saturated), key=lambda one: -(one.ratio or 0.0))
    if hit:
        log.warning(
            "step %d: the amax windows of %d of %d tensors are stale; the largest ratio is %.3g, "
            "in %s",
            *(step, len(hit), len(found), hit[0].ratio, hit[0].name),
        )


def _append(path: Path, step: int, found: list[Saturation]) -> None:
    tensors = {
        one.name: [_number(one.ratio), one.exceeded, one.clipped, one.age, one.saturated]
        for one in found
        if one.calls
    }
    if not tensors:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps({"step": step, "tensors": tensors}) + "\n")


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _keep_until(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            known = parse_json(line)["step"] <= step
        except (ValueError, KeyError, TypeError):  # the last line of a killed run
            known = False
        kept += [line] if known else []
    write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
