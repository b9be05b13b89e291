"""Figures of several panels: plain ones for files, ones that Jupyter shows for notebooks.

A figure that pyplot does not know is never shown at the end of a notebook's cell, and without
pyplot's formatters it is printed as text. A figure that pyplot does know is shown twice where a
cell ends with it: once as the cell's value, once by pyplot. So in a notebook a figure belongs to
pyplot, which shows it if the cell ends with a semicolon, and leaves pyplot once it is shown.
Everywhere else it is a plain figure that nothing has to close.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from matplotlib.figure import Figure

_for_files: ContextVar[bool] = ContextVar("for_files", default=False)


class NotebookFigure(Figure):
    """A figure that shows itself once, whichever way a notebook asks for it."""

    def _ipython_display_(self) -> None:
        from IPython.display import Image, display
        from matplotlib import pyplot

        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        pyplot.close(self)
        width = round(self.get_figwidth() * 100)
        display(Image(data=buffer.getvalue(), format="png", width=width))


def new_figure(size: tuple[float, float]) -> Figure:
    """Return an empty figure of `size` inches, one that Jupyter shows if this is a notebook."""
    if _for_files.get() or not in_notebook():
        return Figure(figsize=size, layout="constrained")
    from matplotlib import pyplot

    return pyplot.figure(FigureClass=NotebookFigure, figsize=size, layout="constrained")


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def for_files() -> Iterator[None]:
    """Make figures for files inside this context: a notebook does not show them."""
    token = _for_files.set(True)
    try:
        yield
    finally:
        _for_files.reset(token)
