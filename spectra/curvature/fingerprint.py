"""Is a model still the one it was? A checksum of every parameter and buffer.

A kept graph does not see a parameter that was swapped, and a graph that is rebuilt in each product
would go on with another matrix. The checksum reads the bits as integers x_i and sums (2i + 1) x_i
modulo 2⁶⁴, which changes with every single entry and with their order; it costs one pass over the
weights, far less than a product.
"""

from __future__ import annotations

import torch
from torch import nn

CHUNK = 1 << 22
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(model: nn.Module) -> dict[str, int]:
    """Return the checksum of each parameter and buffer, by its name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: checksum(tensor.detach()) for name, tensor in named}


def checksum(tensor: torch.Tensor) -> int:
    """Return the checksum of a tensor's bits."""
    if tensor.is_meta or tensor.numel() == 0:
        return 0
    bits = tensor.contiguous().view(-1).view(_INTEGERS[min(8, tensor.element_size())])
    odd = torch.arange(1, 2 * min(CHUNK, bits.numel()), 2, device=bits.device)
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for part in bits.split(CHUNK):
        total = total * 1_000_003 + (part.long() * odd[: part.numel()]).sum()
    return int(total)


def changed(before: dict[str, int], now: dict[str, int]) -> list[str]:
    """Return the names of what is other than it was, has come or has gone."""
    names = [*before, *(name for name in now if name not in before)]
    return [name for name in names if before.get(name) != now.get(name)]
