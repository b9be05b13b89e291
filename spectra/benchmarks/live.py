"""Bytes of tensors alive at a time, counted operation by operation."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Follows every storage made inside from the operation that returns it to its end.

    Attributes:
        peak: Most bytes that were alive together.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, int] = {}
        self._now = 0
        self.peak: int = 0

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
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self._now += self._known[key]
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._leave, key)

    def _leave(self, key: int) -> None:
        self._now -= self._known.pop(key, 0)

    def now(self) -> int:
        """Return the bytes alive."""
        return self._now


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that storages made in `work` took at one time."""
    counter = Live()
    with counter:
        work()
    return counter.peak
