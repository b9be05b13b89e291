"""One progress bar over products, with the time left and the extreme Ritz values so far."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import scipy.linalg
from tqdm import tqdm

from spectra.quadrature.gauss import Floats

REFRESH = 0.5  # seconds between two looks at the Ritz values


class ProductBar:
    """A bar on stderr; silent where stderr is no terminal, or with TQDM_DISABLE set."""

    def __init__(self, total: int, description: str, *, show: bool) -> None:
        self._bar: Any = tqdm(
            total=total, desc=description, unit="product", disable=None if show else True
        )
        self._last = 0.0

    def advance(self, count: int, alphas: Floats, betas: Floats) -> None:
        """Count `count` more products of the run with these coefficients so far."""
        self._bar.update(count)
        if self._bar.disable or time.monotonic() - self._last < REFRESH or alphas.size == 0:
            return
        self._last = time.monotonic()
        ritz = scipy.linalg.eigvalsh_tridiagonal(alphas, betas[: alphas.size - 1])
        self._bar.set_postfix_str(f"λ {ritz[0]:.3g} … {ritz[-1]:.3g}")

    def __enter__(self) -> ProductBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
