"""Flops and live bytes of a piece of work, counted operation by operation.

torch's own FlopCounterMode follows modules through autograd and fails where a module's forward
differentiates, as block-by-block products do; its formulas are used here without that.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class _Flops(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


class _LiveBytes(TorchDispatchMode):
    """Follows every storage from the operation that returns it to its end."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: dict[int, int] = {}
        self.live, self.peak = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        before = {_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and _key(tensor) not in before:
                self._enter(tensor.untyped_storage())
        return out

    def _enter(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.known:
            return
        self.known[key] = storage.nbytes()
        self.live += self.known[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, key)

    def _leave(self, key: int) -> None:
        self.live -= self.known.pop(key, 0)


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def flops(work: Callable[[], object]) -> int:
    """Return the flops of the matrix products, convolutions and attentions in `work`."""
    counter = _Flops()
    with counter:
        work()
    return counter.total


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that storages made in `work` took at one time."""
    counter = _LiveBytes()
    with counter:
        work()
    return counter.peak
