r"""Standard streams that can say everything: no control characters, and letters they do not have.

Tables say λ, ρ, ± and −. A terminal, a pipe or a file may be of an encoding without them (LC_ALL=C
without UTF-8 mode, a Windows code page): there they are spelled out, lambda, rho, +- and -, and any
other character is escaped as \xe9, which is exact. What can be encoded is written as it is. A
spelling is longer than its letter, so in a row of a table the spaces after it make up for it.

What goes to files is UTF-8 whatever the locale; this concerns stdout and stderr alone.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

from spectra.errors import printable

ERRORS = "spectra.spelled"  # name of the codec error handler
GAP = 2  # spaces that stay between two columns
SPELLED = {
    "−": "-", "–": "-", "—": "-", "±": "+-", "×": "x", "·": "*", "≤": "<=", "≥": ">=", "≠": "!=",
    "≈": "~", "…": "...", "√": "sqrt", "‖": "||", "∇": "grad", "∂": "d", "∞": "inf", "→": "->",
    "←": "<-", "²": "^2",
    "⁴": "^4", "³": "^3", "ᵀ": "^T", "½": "1/2", "⌈": "ceil(", "⌉": ")", "⌊": "floor(",
    "⌋": ")", "∈": "in", "∫": "integral", "“": '"', "”": '"', "‘": "'", "’": "'", "Ŵ": "W^",
    "▏": "|", "█": "#", "ᵏ": "^k",
}  # fmt: skip


@contextlib.contextmanager
def saying_everything() -> Iterator[None]:
    """Let stdout and stderr spell out what their encoding lacks, for the time of the block."""
    before = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not _has_all(stream.encoding):
            before.append((stream, stream.errors))
            stream.reconfigure(errors=ERRORS)
    try:
        yield
    finally:
        for stream, errors in before:
            stream.reconfigure(errors=errors)


class Escaped(io.TextIOBase):
    """Standard output without the control characters that names in a file may carry."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write text, escaped and spelled; return its length."""
        self.stream.write(spelled(printable(text, lines=True), self.stream.encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream, unless its owner has closed it: the end of this object comes here."""
        if not getattr(self.stream, "closed", False):
            self.stream.flush()

    def fileno(self) -> int:
        """Return the stream's file descriptor."""
        return int(self.stream.fileno())

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return bool(self.stream.isatty())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding."""
        return str(self.stream.encoding)


def spelled(text: str, encoding: str | None) -> str:
    """Return `text` with what `encoding` lacks spelled out, and its columns where they were.

    Args:
        text: Lines.
        encoding: Of a stream; None where it takes any text.
    """
    if encoding is None or _has_all(encoding):
        return text
    return "\n".join(_row(line, encoding) for line in text.split("\n"))


def _row(line: str, encoding: str) -> str:
    """Spell a line; what grows takes the spaces before it, and those after it if they are few."""
    pieces, owed = [""], 0
    for piece in re.split(f"( {{{GAP},}})", line):
        if piece.isspace():
            paid = min(owed, len(piece) - GAP)
            owed -= paid
            pieces.append(piece[paid:])
            continue
        word = piece.encode(encoding, ERRORS).decode(encoding)
        owed += len(word) - len(piece)
        if any(pieces[:-1]):  # what comes before is no indentation
            paid = min(owed, len(pieces[-1]) - GAP)
            owed -= paid
            pieces[-1] = pieces[-1][paid:]
        pieces.append(word)
    return "".join(pieces)


def _has_all(encoding: str) -> bool:
    return codecs.lookup(encoding).name.startswith("utf")


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(map(_spelling, lacking)), error.end


def _spelling(letter: str) -> str:
    """Return what stands for a letter: the name of a Greek one, an escape where there is none."""
    name = unicodedata.name(letter, "")
    kind, _, word = name.rpartition(" LETTER ")
    if kind in ("GREEK SMALL", "GREEK CAPITAL") and word.isalpha():
        word = word.replace("LAMDA", "LAMBDA")  # as Unicode has it
        return word.lower() if kind.endswith("SMALL") else word.capitalize()
    return SPELLED.get(letter) or letter.encode("ascii", "backslashreplace").decode()


codecs.register_error(ERRORS, _spell)
