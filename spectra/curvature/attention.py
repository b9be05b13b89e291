"""Evaluation mode and an attention with a second derivative, for the time of one forward.

Flash and memory-efficient attention have no double backward. torch's own
`scaled_dot_product_attention` decomposes into differentiable steps under its MATH kernel, in the
type of its inputs; transformers' "eager" attention does too, but casts to float32. So "sdpa" with
MATH is asked for, "eager" where a model does not offer it. Every switch touched (each submodule's
`training`, each configuration's attention) is put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_KEY = "_attn_implementation_internal"


def choose_attention(model: nn.Module) -> tuple[str | None, str | None]:
    """Return the attention to set ("sdpa", "eager", or None to leave it) and a note about it."""
    config = getattr(model, "config", None)
    if not hasattr(config, _KEY):
        return None, None
    chosen = "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"
    found = getattr(config, _KEY)
    kernel = "sdpa restricted to its math kernel" if chosen == "sdpa" else "eager"
    if found == chosen == "eager":
        return chosen, None
    return chosen, (
        f"attention {found!r} evaluated as {kernel}: fused kernels have no second derivative"
    )


@contextlib.contextmanager
def evaluation(model: nn.Module, attention: str | None) -> Iterator[None]:
    """Set evaluation mode, `attention` and the math kernel; restore all of it on the way out."""
    training = [(module, module.training) for module in model.modules()]
    configs: dict[int, tuple[Any, Any]] = {}
    if attention is not None:
        for module in model.modules():
            config = getattr(module, "config", None)
            if hasattr(config, _KEY):
                configs.setdefault(id(config), (config, getattr(config, _KEY)))
    try:
        for module, _ in training:
            module.training = False
        for config, _ in configs.values():
            setattr(config, _KEY, attention)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module, mode in training:
            module.training = mode
        for config, value in configs.values():
            setattr(config, _KEY, value)
