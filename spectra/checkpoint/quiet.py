"""Keep what transformers has to say off the terminal: this package says it in its own words.

Log level, progress bars, Python warnings and the random state are put back on exit, so a caller
that uses transformers beside this package sees no difference. Weights that transformers initializes
before it overwrites them draw from torch's global generator, hence the fork of its state.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Silence transformers inside the `with` block.

    Args:
        bars: Also drop everything written to stderr. The GGUF reader draws a bar that no switch
            of transformers turns off.
    """
    with contextlib.ExitStack() as stack:
        # First: its log handler keeps the stream it finds, and stderr is redirected below.
        stack.enter_context(without_chatter())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if bars:
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Turn the log below errors and the progress bars of transformers off."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class where it has none, without a stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
