"""A matrix in pinned host memory, brought to a GPU piece by piece while the last piece is used.

Copies run at the rate of the bus only from pinned memory that is contiguous, and beside the
arithmetic only on a stream of their own. So pieces are whole rows, or a part of one row where rows
are long; two buffers take turns: while the caller's stream works on one, the next piece is copied
into the other. Events keep a buffer from being overwritten while it is read.

Each pass over a basis of m vectors moves it twice, for the inner products and for the subtraction.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

PIECE = 1 << 26  # elements of one buffer: 256 MB in float32

Piece = tuple[slice, slice, torch.Tensor]  # rows, columns, and what is there


def pieces(
    rows: torch.Tensor, device: torch.device, dtype: torch.dtype, size: int = PIECE
) -> Iterator[Piece]:
    """Yield all of `rows`, (k, n) contiguous, as pieces on `device` in `dtype`.

    A piece is valid until the next one is asked for, for work on the current stream.

    Args:
        rows: On the host; pinned, if it is to go to a GPU.
        device: Where the pieces are wanted.
        dtype: In which type.
        size: Elements of a piece at most.
    """
    count, length = rows.shape
    places = list(_places(count, length, size))
    if device.type != "cuda":
        for across, along in places:
            yield across, along, rows[across, along].to(device, dtype)
        return
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    most = max((_count(across) * _count(along) for across, along in places), default=0)
    buffers = [torch.empty(most, dtype=rows.dtype, device=device) for _ in range(2)]
    filled, used = ([torch.cuda.Event() for _ in range(2)] for _ in range(2))
    side.wait_stream(current)  # the buffers' memory may still be in use there

    def fetch(number: int) -> torch.Tensor:
        across, along = places[number]
        shape = _count(across), _count(along)
        buffer = buffers[number % 2][: shape[0] * shape[1]].view(shape)
        with torch.cuda.stream(side):
            if number >= 2:
                side.wait_event(used[number % 2])
            buffer.copy_(rows[across, along], non_blocking=True)
            filled[number % 2].record(side)
        return buffer

    following = fetch(0) if places else None
    for number, (across, along) in enumerate(places):
        here = following
        assert here is not None
        if number + 1 < len(places):
            following = fetch(number + 1)
        current.wait_event(filled[number % 2])
        yield across, along, here.to(dtype)
        used[number % 2].record(current)


def _places(count: int, length: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Cut (count, length) into contiguous parts of at most `size` elements."""
    if count == 0 or length == 0:
        return
    if length > size:
        for row in range(count):
            for start in range(0, length, size):
                yield slice(row, row + 1), slice(start, min(start + size, length))
        return
    step = size // length
    for first in range(0, count, step):
        yield slice(first, min(first + step, count)), slice(0, length)


def _count(part: slice) -> int:
    return int(part.stop - part.start)
