"""What an estimate will cost, counted before anything runs.

Products. A matrix product of a linear weight with T tokens is 2·N·T flops forward, 6·N·T in a
gradient and 12·N·T in a Hessian product on the kept graph (2.0 gradients; 3.0 if recomputed). The
head's weight is not differentiated: 4·V·d·T in a gradient, 6·V·d·T in a product. Attention adds
4·s·T·d_a forward a block (scores and values; s the columns that a block of rows may see, half of
the sequence and half a block), 12 in a gradient, 26 in a product
(`spectra.curvature.softmax_attention`).

Memory. The kept graph holds what forward and first backward save: per block and token 20 widths,
12 intermediate widths and s probabilities for each head (counted with saved-tensor hooks on seven
Llama shapes, to 0.5 %; other architectures differ). The head keeps one
probability for each token and vocabulary entry. Beside it stand the gradient and its flat copy, and
while the product error is measured the weights and a graph in float64 instead. Where weights are
fake-quantized, Q(W) is held at least in float32, its mask in a byte, and in half precision Q(W)
once more in that type.

Time is the flops over the rate of a matrix product measured on the spot, at the share of it that
models reach.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from spectra.curvature.softmax_attention import columns_seen

WIDTHS, INTERMEDIATES = 20, 12
EFFICIENCY = 0.5  # of a plain matrix product's rate, reached by whole products on the CPU
MEASURE_SECONDS = 0.2


@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide cost."""

    linear: int
    head: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocab: int
    parameters: int


@dataclass(frozen=True)
class Cost:
    """Flops of one product, bytes while it runs."""

    flops: float
    weight_bytes: int
    graph_bytes: int
    reference_bytes: int


def count(
    shape: ModelShape, *, tokens: int, seq_len: int, itemsize: int, kept: bool, quantized: int = 0
) -> Cost:
    """Return the cost of one product over `tokens` tokens in blocks of `seq_len`.

    Args:
        shape: The model.
        tokens: Tokens in the operator.
        seq_len: Tokens in a block.
        itemsize: Bytes of a number.
        kept: Whether the first-order graph is kept.
        quantized: Number of fake-quantized weights.
    """
    held = max(itemsize, 4) + 1 + (itemsize if itemsize < 4 else 0)
    seen = columns_seen(seq_len)
    gradient = 6.0 * shape.linear * tokens + 4.0 * shape.head * tokens
    attention = 2.0 * seen * tokens * shape.hidden * shape.layers
    flops = gradient * (2 if kept else 3) + attention * (13 if kept else 19)
    per_token = WIDTHS * shape.hidden + INTERMEDIATES * shape.intermediate + shape.heads * seen
    graph = tokens * (shape.layers * per_token + shape.vocab) + 2 * shape.linear
    return Cost(
        flops=flops,
        weight_bytes=shape.parameters * itemsize + quantized * held,
        graph_bytes=graph * itemsize,
        reference_bytes=(graph + shape.parameters + 4 * shape.linear) * 8,
    )


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the flops a second of a square matrix product on `device`, measured briefly."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device).to(dtype)
    a @ a
    done, started = 0, time.monotonic()
    while time.monotonic() - started < MEASURE_SECONDS:
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        done += 1
    return done * 2.0 * size**3 / (time.monotonic() - started)
