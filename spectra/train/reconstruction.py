"""Block by block: train a quantized transformer block to give what its float original gave.

Two streams of hidden states go through the model, x of the float blocks B and x̂ of the quantized
ones B̂, both beginning at the embedding. For block i, over its weights, steps and zero points θ,

    min_θ  mean (B̂_i(x̂; θ) − B_i(x))²,     then W ← Q(W),  z ← ⌊z⌉,  x ← B_i(x),  x̂ ← B̂_i(x̂)

(EfficientQAT, arXiv 2407.11062, §3.2, Block-AP.) A block sees the errors of those before it and
corrects them. Norms and biases stay as they are. What is random, the order of the text, is drawn
for each block from the seed and its number: a run that goes on after block i is the uninterrupted
one bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from spectra.errors import CheckpointError, NumericalError, UsageError
from spectra.quant import bypassed
from spectra.record.atomic import make_directory, write_atomically
from spectra.record.digest import KEY, content_sha256
from spectra.record.jsonfile import parse_json
from spectra.train.streams import Runner, first_inputs, layers_of, transformer_blocks

FOLDER = "blocks"
END = 1 / 20  # of the learning rate, at the end of the cosine


@dataclass(frozen=True)
class Settings:
    """How a block is trained.

    Attributes:
        weight_rate: Learning rate of the weights.
        quant_rate: That of steps and zero points.
        epochs: Passes over the text.
        max_steps: Steps of each block; not positive: as many as the epochs have.
        batch_size: Blocks of text in a step.
        seed: Of their order.
        bf16: Whether blocks run under bfloat16 autocast.
    """

    weight_rate: float
    quant_rate: float
    epochs: float
    max_steps: int
    batch_size: int
    seed: int
    bf16: bool = False


@dataclass(frozen=True)
class BlockResult:
    """What the training of a block came to.

    Attributes:
        block: Its number.
        steps: Optimizer steps.
        before: Mean square error to the float block at the start.
        after: At the end, on the grid.
    """

    block: int
    steps: int
    before: float
    after: float


def reconstruct(
    model: nn.Module,
    ids: torch.Tensor,
    settings: Settings,
    *,
    place: Path | None = None,
    remember: dict[str, Any] | None = None,
    tell: Callable[[BlockResult], None] | None = None,
) -> list[BlockResult]:
    """Train every transformer block of `model` in place.

    Args:
        model: A prepared causal language model, its weights those of the float model.
        ids: Token ids, (blocks of text, tokens).
        settings: How.
        place: Directory that finished blocks are kept in, and taken from; None keeps none.
        remember: What must be the same in a run that goes on, JSON values.
        tell: Called after each block.

    Raises:
        UsageError: If there is less text than a batch, or `place` holds blocks trained otherwise.
        NumericalError: If the error of a block turns NaN.
        CheckpointError: If a kept block is damaged.
    """
    size = settings.batch_size
    ids = ids[: len(ids) // size * size]
    if len(ids) == 0:
        raise UsageError(
            f"per_device_train_batch_size={size} is more than the blocks of text there are; pass a "
            "smaller one, or more text."
        )
    blocks = transformer_blocks(model)
    gradients = {name: p.requires_grad for name, p in model.named_parameters()}
    training = model.training
    model.eval().requires_grad_(False)
    results = []
    try:
        x, keywords = first_inputs(model, blocks, ids, size)
        quantized = x.clone()
        for index, block in enumerate(blocks):
            run = Runner(block, keywords[index], size, settings.bf16)
            with bypassed(block, "all"):
                target = run.all(x)
            kept = None if place is None else _kept(place, index, remember or {})
            if kept is None:
                result = _train(run, index, quantized, target, settings)
                if place is not None:
                    _keep(place, block, result, remember or {})
            else:
                block.load_state_dict(kept[1])
                result = kept[0]
            x, quantized = target, run.all(quantized)
            results.append(result)
            if tell is not None:
                tell(result)
    finally:
        model.train(training)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(gradients[name])
    return results


def _train(
    run: Runner, index: int, hidden: torch.Tensor, target: torch.Tensor, settings: Settings
) -> BlockResult:
    layers = list(layers_of(run.block))
    weights = [layer.weight for layer in layers]
    steps = [p for layer in layers for p in (layer.scale, layer.zero) if p is not None]
    before = run.error(hidden, target)
    for parameter in (*weights, *steps):
        parameter.requires_grad_(True)
    groups = [{"params": weights, "lr": settings.weight_rate}]
    groups += [{"params": steps, "lr": settings.quant_rate}] if steps else []
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    batches = len(hidden) // settings.batch_size
    total = settings.max_steps if settings.max_steps > 0 else math.ceil(settings.epochs * batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, total))
    for chosen in _order(len(hidden), settings, index, total):
        loss = nn.functional.mse_loss(run(hidden[chosen]).float(), target[chosen].to(run.device))
        if not bool(torch.isfinite(loss)):
            raise NumericalError(
                f"the error of block {index} is {float(loss)}; lower --learning_rate or "
                "--quant_learning_rate: finished blocks are kept, and --resume goes on from them."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    for parameter in (*weights, *steps):
        parameter.requires_grad_(False)
        parameter.grad = None
    for layer in layers:
        layer.reset_(1.0)
        if layer.zero is not None:
            layer.zero.copy_(layer.zero.round().clamp(0, 2 ** round(layer.spec.w_bits) - 1))
    return BlockResult(index, total, before, run.error(hidden, target))


def cosine(step: int, total: int) -> float:
    """Return the share of the learning rate at `step`: 1 at first, 1/20 after the last."""
    return END + (1 - END) * 0.5 * (1 + math.cos(math.pi * min(step, total) / max(1, total)))


def _order(count: int, settings: Settings, index: int, total: int) -> Iterator[torch.Tensor]:
    """Yield the rows of each step: permutations of all, cut into batches."""
    seed = np.random.SeedSequence([settings.seed, index]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(seed) % 2**63)
    done = 0
    while done < total:
        for chosen in torch.randperm(count, generator=generator).split(settings.batch_size):
            if done == total:
                return
            done += 1
            yield chosen


def _file(place: Path, index: int) -> Path:
    return place / f"block-{index:03d}.safetensors"


def _keep(place: Path, block: nn.Module, result: BlockResult, remember: dict[str, Any]) -> None:
    make_directory(place)
    state = {name: t.detach().cpu().contiguous() for name, t in block.state_dict().items()}
    about = {"result": json.dumps(vars(result)), "settings": json.dumps(remember, sort_keys=True)}
    about[KEY] = _digest(about, state)
    write_atomically(_file(place, result.block), save(state, metadata=about))


def _digest(about: dict[str, str], state: dict[str, torch.Tensor]) -> str:
    plain = {name: t.contiguous().view(-1).view(torch.uint8).numpy() for name, t in state.items()}
    return content_sha256(about, plain)


def _kept(
    place: Path, index: int, remember: dict[str, Any]
) -> tuple[BlockResult, dict[str, torch.Tensor]] | None:
    path = _file(place, index)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
        then, result = (
            dict(parse_json(about["settings"])),
            BlockResult(**parse_json(about["result"])),
        )
        state = load_file(path)
        if about.get(KEY) not in (None, _digest(about, state)):
            raise ValueError
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{str(path)!r} is damaged; delete it, and --resume trains that block again."
        ) from None
    now = json.loads(json.dumps(remember))
    for key in now:
        if then.get(key) != now[key]:
            raise UsageError(
                f"{str(path)!r} was trained with {key}={then.get(key)}, and {key}={now[key]} is "
                "asked for now; resume with the same settings, or choose another --output."
            )
    return result, state
