"""A floating-point format as scaling sees it: its rounding, its range, and the target of amax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from spectra.errors import UsageError, nearest
from spectra.quant.floats import fp8, hif8

Rounding = Callable[[torch.Tensor, bool, "torch.Generator | None"], torch.Tensor]


@dataclass(frozen=True)
class Format:
    """An 8-bit floating-point format.

    Attributes:
        name: What messages call it.
        largest: Largest finite value.
        target: Where scaling puts the largest entry of a tensor, unless told otherwise.
        epsilon: What scaling adds to that entry.
        levels: All finite values, ascending.
        rounding: x, whether to saturate, generator of stochastic rounding or None -> values.
        stochastic: Whether it defines stochastic rounding.
        infinite: Whether overflow may become infinity.
    """

    name: str
    largest: float
    target: float
    epsilon: float
    levels: Callable[[], tuple[float, ...]]
    rounding: Rounding
    stochastic: bool = False
    infinite: bool = False


def _hif8(x: torch.Tensor, saturate: bool, generator: torch.Generator | None) -> torch.Tensor:
    return hif8.round_hif8(x, saturate=saturate, hybrid=generator)


def _e4m3(x: torch.Tensor, saturate: bool, generator: torch.Generator | None) -> torch.Tensor:
    del saturate, generator
    return fp8.round_e4m3(x)


def _e5m2(x: torch.Tensor, saturate: bool, generator: torch.Generator | None) -> torch.Tensor:
    del saturate, generator
    return fp8.round_e5m2(x)


HIF8 = Format(
    "HiF8",
    largest=hif8.MAX,
    target=hif8.TOP_OF_3_BITS,
    epsilon=1e-12,
    levels=hif8.finite_values,
    rounding=_hif8,
    stochastic=True,
    infinite=True,
)
E4M3 = Format(
    "FP8 E4M3",
    largest=fp8.E4M3_MAX,
    target=fp8.E4M3_MAX,
    epsilon=0.0,
    levels=lambda: fp8.finite_values(torch.float8_e4m3fn),
    rounding=_e4m3,
)
E5M2 = Format(
    "FP8 E5M2",
    largest=fp8.E5M2_MAX,
    target=fp8.E5M2_MAX,
    epsilon=0.0,
    levels=lambda: fp8.finite_values(torch.float8_e5m2),
    rounding=_e5m2,
)
FORMATS = {"hif8": HIF8, "fp8_e4m3": E4M3, "fp8_e5m2": E5M2}


def get_format(name: str) -> Format:
    """Return the format `name`.

    Raises:
        UsageError: If there is none of that name.
    """
    if name not in FORMATS:
        raise UsageError(
            f"format {name!r} is not known{nearest(name, FORMATS)}; pass one of "
            f"{', '.join(FORMATS)}."
        )
    return FORMATS[name]
