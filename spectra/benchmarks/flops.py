"""Flops of a piece of work, counted operation by operation.

torch's own FlopCounterMode follows modules through autograd and fails where a module's forward
differentiates, as block-by-block products do; its formulas are used here without that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
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


def flops(work: Callable[[], object]) -> int:
    """Return the flops of the matrix products, convolutions and attentions in `work`."""
    counter = _Flops()
    with counter:
        work()
    return counter.total
