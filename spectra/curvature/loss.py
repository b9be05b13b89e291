"""The loss whose curvature is asked for, as a mean and the number of terms it is a mean of.

A causal language model: L = (1/N) Σ −log p(y_t | y_<t) over all N labels ≠ −100 of all the
operator's batches. A batch gives its own mean and its count; several are weighted by count, so the
result is never a mean of means. Labels are unshifted: position t−1 predicts `labels[:, t]`.

The model is split at its last hidden states, and the head with its loss runs in
`cross_entropy`, on the rows that count only. That is this model's loss only if its logits are
exactly its head applied to these states; soft-capped, scaled or otherwise treated logits are not.
So the split is compared with the model's own logits on a few tokens, and where they differ the
logits are taken from the model and differentiated by autograd.

Any other module: `loss(model, batch)` returns a scalar mean (every batch then weighs the same) or
`(sum, count)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from spectra.curvature import cross_entropy
from spectra.curvature.batches import IGNORED, unpack
from spectra.curvature.params import is_language_model
from spectra.curvature.point import Point
from spectra.errors import DataError, UsageError

_VERIFY_TOKENS = 8

LossFunction = Callable[[nn.Module, Any], Any]


class Loss(Protocol):
    """A differentiable mean over the terms of a batch."""

    @property
    def description(self) -> str:
        """One line for the record."""

    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, float]:
        """Return the batch's mean loss and the number of terms in it."""


@dataclass(frozen=True)
class CallableLoss:
    """The caller's own `loss(model, batch)`."""

    function: LossFunction

    @property
    def description(self) -> str:
        """One line for the record."""
        return f"callable {_name(self.function)}"

    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, float]:
        """Return (mean, count); a bare scalar counts as one term."""
        return mean_and_count(self.function(model, batch))


@dataclass(frozen=True)
class SplitLoss:
    """The caller's own loss in two parts: `output(model, batch)`, then `loss(output, batch)`."""

    output: Callable[[nn.Module, Any], torch.Tensor]
    loss: Callable[[torch.Tensor, Any], Any]

    @property
    def description(self) -> str:
        """One line for the record."""
        return f"callable {_name(self.loss)} of callable {_name(self.output)}"

    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, float]:
        """Return (mean, count)."""
        return mean_and_count(self.loss(self.output(model, batch), batch))


def mean_and_count(result: Any) -> tuple[torch.Tensor, float]:
    """Read what a loss callable returned: a scalar mean, or (sum, count).

    Raises:
        UsageError: If it is neither.
        DataError: If the count is not positive.
    """
    pair = isinstance(result, tuple) and len(result) == 2
    total, number = result if pair else (result, 1.0)
    if not isinstance(total, torch.Tensor) or total.numel() != 1:
        raise UsageError(
            f"the loss callable returned {_shape(total)}; return a scalar tensor (the mean), or "
            "(sum, count)."
        )
    count = float(number.detach() if isinstance(number, torch.Tensor) else number)
    if not count > 0:
        raise DataError(f"a batch's loss has a count of {count:g}; every batch needs terms.")
    return total.reshape(()) / count if pair else total.reshape(()), count


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _shape(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)


@dataclass(frozen=True)
class Rows:
    """The positions of a batch that count: inputs of the head (or logits), and their targets.

    Attributes:
        values: Hidden states (N, d), or logits (N, V) where `weight` is None.
        weight: Head weight (V, d), or None.
        bias: Head bias (V,), or None.
        targets: (N,) int64.
    """

    values: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    targets: torch.Tensor


@dataclass(frozen=True)
class LanguageModelLoss:
    """Token-mean cross-entropy of a causal language model.

    Attributes:
        split: Whether the model is split at its head.
        memory: What the head may hold.
        shorten: Whether positions behind the last one that counts are left out of the forward; a
            causal model's loss is the same without them.
    """

    split: bool
    memory: cross_entropy.Memory
    shorten: bool = False

    @property
    def description(self) -> str:
        """One line for the record."""
        how = "chunked head" if self.split else "the model's own logits"
        return f"next-token cross-entropy, mean over labels that count ({how})"

    def rows(self, model: nn.Module, batch: Any) -> Rows:
        """Run the model and return the positions of `batch` that count."""
        inputs, labels = unpack(batch, model)
        labels = labels[:, 1:]
        if self.shorten and all(value.ndim == 2 for value in inputs.values()):
            last = int((labels != IGNORED).any(0).nonzero().max()) + 1
            inputs, labels = {k: v[:, :last] for k, v in inputs.items()}, labels[:, :last]
        device = next(iter(model.parameters())).device
        inputs = {key: value.to(device) for key, value in inputs.items()}
        flat = (labels != IGNORED).reshape(-1)
        targets = labels.reshape(-1)[flat].to(device)
        output = _run(model, inputs, split=self.split)[:, : labels.shape[1]].flatten(0, 1)
        if not bool(flat.all()):
            output = output.index_select(0, flat.nonzero().squeeze(1).to(device))
        if not self.split:
            return Rows(output, None, None, targets)
        head: Any = model.get_output_embeddings()  # type: ignore[operator]
        return Rows(output, head.weight, head.bias, targets)

    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, float]:
        """Return the mean over the labels of `batch` that count, and their number."""
        rows = self.rows(model, batch)
        return self.of_rows(rows), float(len(rows.targets))

    def of_rows(self, rows: Rows) -> torch.Tensor:
        """Return the mean cross-entropy of `rows`, a float64 scalar."""
        if rows.weight is not None:
            return cross_entropy.head_cross_entropy(
                rows.values, rows.weight, rows.bias, rows.targets, self.memory
            )
        logits = rows.values
        logits = logits if logits.dtype == torch.float64 else logits.to(torch.float32)
        losses = nn.functional.cross_entropy(logits, rows.targets, reduction="none")
        return losses.to(torch.float64).mean()


def _run(model: nn.Module, inputs: dict[str, torch.Tensor], *, split: bool) -> torch.Tensor:
    try:
        if split:
            base: Any = model.base_model
            hidden: torch.Tensor = base(**inputs, use_cache=False)[0]
            return hidden
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
        return logits
    except IndexError as error:
        length = inputs["input_ids"].shape[1]
        raise DataError(
            f"the model cannot look up a batch of {length} positions ({error}); shorten seq_len to "
            "what its position table holds."
        ) from error


def resolve_loss(
    point: Point,
    batch: Any,
    loss: LossFunction | Loss | None,
    memory: cross_entropy.Memory | None = None,
) -> Loss:
    """Return the loss to differentiate: the caller's, or a causal language model's own.

    Args:
        point: Where the model is evaluated; its attention may fall back to "eager" here.
        batch: A batch on which the split at the head is verified.
        loss: The caller's loss, a ready `Loss`, or None.
        memory: What the head may hold.

    Raises:
        UsageError: If `loss` is None and the model is no causal language model.
    """
    if loss is not None:
        return loss if isinstance(loss, SplitLoss) else CallableLoss(loss)
    model, memory = point.model, memory or cross_entropy.Memory()
    head: Any = None
    if is_language_model(model) and hasattr(model, "get_output_embeddings"):
        head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None:
        raise UsageError(
            f"{type(model).__name__} is no causal language model; pass loss=callable(model, batch) "
            "that returns the mean, or (sum, count)."
        )
    inputs, _ = unpack(batch, model)
    few = {"input_ids": inputs["input_ids"][:1, :_VERIFY_TOKENS].to(point.device)}
    try:
        split = point.call(_splits_at_head, point.leaves(), few, grad=False)
    except ValueError:
        if point.attention != "sdpa":
            raise
        point.attention = "eager"
        point.notes.append("attention evaluated as eager: the model does not run with sdpa")
        split = point.call(_splits_at_head, point.leaves(), few, grad=False)
    if not split:
        point.notes.append(
            "the logits are not the head applied to the last hidden states (soft cap, scale, ...): "
            "they are differentiated whole, at a higher memory peak"
        )
    return LanguageModelLoss(split, memory)


def _splits_at_head(model: nn.Module, few: dict[str, torch.Tensor]) -> bool:
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        return False
    logits = _run(model, few, split=False)
    hidden = _run(model, few, split=True)
    return hidden.shape[:-1] == logits.shape[:-1] and torch.equal(
        nn.functional.linear(hidden, head.weight, head.bias), logits
    )
