r"""Every error and warning that Spectra raises on purpose.

A message is one sentence in three parts: what was given (the value), the rule, the cure, as in
"lanczos_steps=200 exceeds the operator's dimension 96; pass at most 96." The command line prints
the sentence alone and exits with `exit_code`.

Names of tensors, files and models come from strangers, and a terminal obeys what is written to it.
So no message carries a control character: `printable` writes them out, as \x1b.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 4000  # characters of a message; what a file says in a name has no end of its own
# Control characters, marks that reverse the direction of writing, line and paragraph separators,
# and halves of surrogate pairs, which no encoding can write.
_BARRED = (
    *range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F),
    *range(0x2066, 0x206A), *range(0xD800, 0xE000),
)  # fmt: skip
_ESCAPES = {code: ascii(chr(code))[1:-1] for code in _BARRED}
_IN_LINES = {code: escape for code, escape in _ESCAPES.items() if chr(code) not in "\n\t"}


def printable(text: str, *, longest: int | None = None, lines: bool = False) -> str:
    r"""Return `text` with every control character written out, as \x1b or \n.

    Args:
        text: What a file, a path or a person says.
        longest: Characters beyond which its middle is left out.
        lines: Whether line ends and tabs stay what they are.
    """
    if longest is not None and len(text) > longest:
        text = f"{text[: longest * 3 // 4]} … {text[-(longest // 4) :]}"
    return text.translate(_IN_LINES if lines else _ESCAPES)


class SpectraError(Exception):
    """Something outside the caller's arguments failed: a file, a model, the machine."""

    exit_code = 1

    def __init__(self, *words: object) -> None:
        super().__init__(
            *(printable(w, longest=LONGEST) if isinstance(w, str) else w for w in words)
        )


class UsageError(SpectraError, ValueError):
    """An argument, or a combination of arguments, is wrong."""

    exit_code = 2


class CheckpointError(SpectraError):
    """A checkpoint is missing, damaged, or not what it claims to be."""


class DataError(SpectraError):
    """Text or token ids are missing, too short, or do not fit the model."""


class RecordError(SpectraError):
    """A record on disk is missing, damaged, of an unknown schema, or another run's."""


class WriteError(RecordError):
    """A file could not be written: the disk is full, read-only, or gone."""


class NumericalError(SpectraError):
    """A loss, a product or a recurrence is not finite, or an operator is not symmetric."""


class OutOfMemoryError(SpectraError):
    """The device or the host ran out of memory; the message says what would fit."""


class SpectraWarning(UserWarning):
    """Base of every warning of this package."""

    def __init__(self, *words: object) -> None:
        super().__init__(
            *(printable(w, longest=LONGEST) if isinstance(w, str) else w for w in words)
        )


class NumericalWarning(SpectraWarning):
    """A number is less certain than its reader may think: breakdown, asymmetry, low resolution."""


class InputWarning(SpectraWarning):
    """An input was accepted, but not quite as it was given."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return "; did you mean a, b?" for the `known` names closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""
