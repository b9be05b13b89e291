"""Evaluation mode and an attention with a second derivative, for the time of one forward.

Flash and memory-efficient attention have no double backward. So models are asked for "sdpa", and
every call of torch's `scaled_dot_product_attention` goes to our own (`softmax_attention`); what
that does not cover (dropout, a mask with a gradient) to torch's MATH kernel, which decomposes into
differentiable steps. A model that does not offer "sdpa" runs with transformers' "eager" attention.
Every switch touched (each submodule's `training`, each configuration's attention) is put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from spectra.curvature.softmax_attention import softmax_attention

_KEY = "_attn_implementation_internal"


def choose_attention(model: nn.Module) -> tuple[str | None, str | None]:
    """Return the attention to set ("sdpa", "eager", or None to leave it) and a note about it."""
    config = getattr(model, "config", None)
    if not hasattr(config, _KEY):
        return None, None
    chosen = "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"
    found = getattr(config, _KEY)
    kernel = "softmax in closed form" if chosen == "sdpa" else "eager"
    if found == chosen == "eager":
        return chosen, None
    return chosen, (
        f"attention {found!r} evaluated as {kernel}: fused kernels have no second derivative"
    )


class _Attention(TorchFunctionMode):
    """Sends `scaled_dot_product_attention` to `softmax_attention`, all else where it goes."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            return _attend(*args, **kwargs)
        return func(*args, **kwargs)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Do what `torch.nn.functional.scaled_dot_product_attention` does, arguments as there."""
    if dropout_p > 0 or (attn_mask is not None and attn_mask.requires_grad):
        out: torch.Tensor = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return out
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(times, -3) for x in (key, value))
    lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    query, key, value = (x.expand(*lead, *x.shape[-2:]) for x in (query, key, value))
    return softmax_attention(query, key, value, attn_mask, causal=is_causal, scale=scale)


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
        with sdpa_kernel(SDPBackend.MATH), _Attention():
            yield
    finally:
        for module, mode in training:
            module.training = mode
        for config, value in configs.values():
            setattr(config, _KEY, value)
