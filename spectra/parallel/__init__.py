"""Several processes of one command: who they are, what they tell each other.

Names load on first use, so that `spectra.parallel.launched` stays free of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectra.parallel.group import Group, world

__all__ = ["Group", "world"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'spectra.parallel' has no attribute {name!r}")
    return getattr(importlib.import_module("spectra.parallel.group"), name)
