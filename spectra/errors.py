"""Every error and warning that Spectra raises on purpose.

A message is one sentence in three parts: what was given (the value), the rule, the cure, as in
"lanczos_steps=200 exceeds the operator's dimension 96; pass at most 96." The command line prints
the sentence alone and exits with `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpectraError(Exception):
    """Something outside the caller's arguments failed: a file, a model, the machine."""

    exit_code = 1


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


class NumericalWarning(SpectraWarning):
    """A number is less certain than its reader may think: breakdown, asymmetry, low resolution."""


class InputWarning(SpectraWarning):
    """An input was accepted, but not quite as it was given."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return "; did you mean a, b?" for the `known` names closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""
