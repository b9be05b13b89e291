"""Weights of transformer blocks, and vectors like them, in equal parts over processes.

Block l has n_l selected coordinates, contiguous in the flat vector of the selection. Padded with
zeros to R c_l, c_l = ⌈n_l/R⌉, process r holds its entries [r c_l, (r + 1) c_l), of the weights as
of every vector: one after another for all blocks, Σ c_l in all. Coordinates of the padding are zero
in every vector and stay so.

A model that hands over its weights keeps parameters of the same shapes without memory of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from spectra.curvature.params import Selection, block_lists
from spectra.curvature.point import Point
from spectra.errors import UsageError
from spectra.linalg.sliced import SlicedSpace
from spectra.parallel import Group

Tensor = torch.Tensor


@dataclass(frozen=True)
class ShardedBlock:
    """One block's sharded weights.

    Attributes:
        module: The block.
        names: Their names in the model.
        local_names: Their names in the block.
        shapes: Their shapes.
        start: Place of the first in the flat vector of the selection.
        size: Coordinates of all together, n_l.
        width: Entries that a process holds, c_l.
    """

    module: nn.Module
    names: tuple[str, ...]
    local_names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    start: int
    size: int
    width: int


class Shards:
    """The blocks, and how parts are gathered and scattered.

    Attributes:
        group: The processes.
        blocks: The blocks that have selected weights, in order.
        names: The names of all sharded weights.
    """

    def __init__(self, model: nn.Module, selection: Selection, group: Group) -> None:
        self.group = group
        self.blocks = tuple(_blocks(model, selection, group.size))
        self.names = {name for block in self.blocks for name in block.names}
        self.space = ShardedSpace(self, selection.dim)

    def parts_of(self, point: Point, device: torch.device) -> list[Tensor]:
        """Return this process's part, on `device`, of the values of every block's weights."""
        parameters = dict(point.model.named_parameters(remove_duplicate=False))
        found = []
        for block in self.blocks:
            flat = torch.cat([point.value(parameters[name]).reshape(-1) for name in block.names])
            found.append(self.space.part(flat, block).to(device, copy=True))
        return found

    def hand_over(self, model: nn.Module, device: torch.device) -> None:
        """Free the weights of `model` that are sharded, and move the rest to `device`."""
        for name, whole in model.named_parameters(remove_duplicate=False):
            if name in self.names:
                whole.data = torch.zeros((), dtype=whole.dtype, device=device).expand(whole.shape)
            else:
                whole.data = whole.data.to(device)
        for buffer in model.buffers():
            buffer.data = buffer.data.to(device)

    def gather(self, index: int, part: Tensor) -> list[Tensor]:
        """Return the whole weights of block `index`, of which `part` is held here."""
        block = self.blocks[index]
        whole = self.space.gathered(part.detach()[None])[:, 0].reshape(-1)[: block.size]
        sizes = [math.prod(shape) for shape in block.shapes]
        pieces = whole.split(sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, block.shapes, strict=True)]

    def scatter(self, index: int, whole: Sequence[Tensor]) -> Tensor:
        """Return this process's part of the sum over processes of `whole`, one a weight."""
        block = self.blocks[index]
        missing = whole[0].new_zeros(block.width * self.group.size - block.size)
        rows = torch.cat([*(piece.detach().reshape(-1) for piece in whole), missing])
        return self.space.scattered(rows[None], block.width)[0]


class ShardedSpace(SlicedSpace):
    """Vectors in the parts of `Shards`."""

    def __init__(self, shards: Shards, dim: int) -> None:
        super().__init__(shards.group, dim)
        self.blocks = shards.blocks
        self.widths = [block.width for block in self.blocks]

    def length(self, dim: int) -> int:
        """Return the number of entries held here, padding included."""
        assert dim == self.dim
        return sum(self.widths)

    def part(self, flat: Tensor, block: ShardedBlock) -> Tensor:
        """Return this process's part of a block's coordinates, (..., n_l) to (..., c_l)."""
        first = self.group.rank * block.width
        mine = flat[..., first : first + block.width]
        missing = block.width - mine.shape[-1]
        return torch.nn.functional.pad(mine, (0, missing)) if missing else mine

    def take(self, whole: Tensor) -> Tensor:
        """Return the parts of whole vectors, (..., n)."""
        pieces = [self.part(whole[..., b.start : b.start + b.size], b) for b in self.blocks]
        return torch.cat(pieces, dim=-1)

    def whole(self, part: Tensor) -> Tensor:
        """Return the vectors, (P, n), of which each process holds the parts (P, length)."""
        result = part.new_empty(len(part), self.dim)
        for block, mine in zip(self.blocks, part.split(self.widths, dim=1), strict=True):
            rows = self.gathered(mine).transpose(0, 1).reshape(len(part), -1)
            result[:, block.start : block.start + block.size] = rows[:, : block.size]
        return result


def _blocks(model: nn.Module, selection: Selection, size: int) -> list[ShardedBlock]:
    modules = [
        (f"{prefix}.{name}", block)
        for prefix, found in block_lists(model)
        if isinstance(found, nn.ModuleList)
        for name, block in found.named_children()
    ]
    result, start, taken = [], 0, 0
    entries = list(zip(selection.names, selection.shapes, selection.sizes, strict=True))
    for path, module in modules:
        own = [entry for entry in entries if entry[0].startswith(f"{path}.")]
        if not own:
            continue
        names, shapes, sizes = zip(*own, strict=True)
        local = tuple(name.removeprefix(f"{path}.") for name in names)
        total = sum(sizes)
        result.append(
            ShardedBlock(module, names, local, shapes, start, total, math.ceil(total / size))
        )
        start, taken = start + total, taken + len(own)
    tied = any(len(names) > 1 for names in selection.aliases)
    if taken != len(entries) or tied or not result:
        raise UsageError(
            f"share='parameters' shards weights of transformer blocks, and params="
            f"{selection.params!r} selects others too (or tied ones); pass --params linear, or "
            "--share vectors."
        )
    return result
