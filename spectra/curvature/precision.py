"""A float64 forward that is float64 throughout.

Language-model code casts on purpose: RMSNorm and the eager softmax to float32, rotary angles
through `.float()`. A "float64" Llama therefore carries float32 rounding and agrees with its own
dense Hessian only to 7.6e-8. In a float64 evaluation no narrower floating type has any business
anywhere, so the mode below rewrites every request for one: a dtype among the arguments of any torch
function becomes float64, and `.float()`, `.half()`, `.bfloat16()` become `.double()`. The default
dtype is float64 meanwhile, which covers factories (`torch.tensor(0.1)`, `torch.arange`) that name
none. Constants that were rounded before (a rotary buffer made at construction) keep their values:
they belong to the function, not to its evaluation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from spectra.errors import UsageError

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)


class _Float64Mode(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        if func in _CASTS:
            return torch.Tensor.double(args[0])
        wide = {key: _widen(value) for key, value in (kwargs or {}).items()}
        return func(*map(_widen, args), **wide)


def _widen(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


@contextlib.contextmanager
def working_precision(dtype: torch.dtype) -> Iterator[None]:
    """Evaluate in `dtype`: for float64 with every cast to a narrower type undone."""
    if dtype != torch.float64:
        yield
        return
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with contextlib.ExitStack() as stack:
            for kind in ("cpu", "cuda"):
                stack.enter_context(torch.autocast(kind, enabled=False))
            stack.enter_context(_Float64Mode())
            yield
    finally:
        torch.set_default_dtype(default)


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the floating torch dtype that `dtype` names.

    Raises:
        UsageError: If there is none of that name.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(
            f"dtype={dtype!r} is no floating-point type; pass float32, float64 or bfloat16."
        )
    return found


MATMUL_PRECISIONS = ("highest", "high", "medium")


def check_matmul_precision(name: str) -> str:
    """Return `name` if torch knows it as a precision of float32 matrix products.

    Raises:
        UsageError: If it does not.
    """
    if name not in MATMUL_PRECISIONS:
        raise UsageError(
            f"matmul_precision={name!r} is not one of {', '.join(MATMUL_PRECISIONS)}: highest is "
            "float32, high TF32 or two bfloat16 parts, medium one bfloat16 part."
        )
    return name


@contextlib.contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Let float32 matrix products round their operands as `name` says; put back what was set.

    Products in other types are as they are: the float64 reference of a product error too.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
