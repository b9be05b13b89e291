"""The cells of a study: a method's name says everything in which it differs from the study.

A name is one cell of the factorial design, and any number of changes to it:

    baseline    neither resets nor noise
    reset       resets alone
    noise       weight noise alone
    winq        both
    cage        the pull of CAGE alone; winq+cage: with resets and noise

    -f0.8       another reset fraction           -lr0.0003    another peak learning rate
    -s0.004     another noise                    -constant    another schedule (linear, cosine)
    -k40        another interval of the resets   -from120     no reset before that step
                                                 -until120    no reset after it

So winq-k40-until120-constant resets early, at a constant rate, and baseline-constant is what it is
to be held against.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from spectra.errors import UsageError, nearest

METHODS = ("baseline", "winq", "reset", "noise")
CAGE = "cage"
SCHEDULES = ("constant", "linear", "cosine")
RESETS = ("winq", "reset", "winq+cage")
_NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
_PART = re.compile(rf"(?P<key>f|s|k|lr|from|until)(?P<value>{_NUMBER})|(?P<schedule>[a-z]+)")
# What a change sets, how its number is read, and which cells have it.
_CHANGES: dict[str, tuple[str, Callable[[str], Any], tuple[str, ...]]] = {
    "f": ("reset_fraction", float, RESETS),
    "s": ("noise_std", float, ("winq", "noise", "winq+cage")),
    "k": ("reset_every", int, RESETS),
    "from": ("reset_from", int, RESETS),
    "until": ("reset_until", int, RESETS),
}


@dataclass(frozen=True)
class Cell:
    """A method as what it changes.

    Attributes:
        kind: The cell of the factorial design.
        recipe: Fields of `TrainRequest`, beyond those of the kind, that are set.
        learning_rate: Peak learning rate, if not the study's.
        schedule: Schedule, if not the study's.
    """

    kind: str
    recipe: dict[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    schedule: str | None = None


def cell(name: str) -> Cell:
    """Return what a method's name says.

    Raises:
        UsageError: If it is no such name.
    """
    # A minus sign may belong to a number: 3e-4.
    kind, *changes = re.split(r"(?<!\de)-", name)
    if kind not in (*METHODS, CAGE, f"winq+{CAGE}"):
        raise UsageError(
            f"method={name!r} is not known{nearest(name, METHODS)} (methods: "
            f"{', '.join(METHODS)}, cage, winq+cage, winq-fFRACTION, winq-sSTD, winq-kSTEPS, "
            "-fromSTEP, -untilSTEP, -lrRATE, -constant)."
        )
    recipe: dict[str, Any] = {}
    rate, schedule = None, None
    for change in changes:
        found = _PART.fullmatch(change)
        key = found["key"] if found else None
        if found and key == "lr" and rate is None and float(found["value"]) > 0:
            rate = float(found["value"])
        elif found and found["schedule"] in SCHEDULES and schedule is None:
            schedule = found["schedule"]
        elif found and key in _CHANGES and kind in _CHANGES[key][2]:
            target, read, _ = _CHANGES[key]
            if target in recipe:
                raise UsageError(f"method={name!r} sets {target} twice; name it once.")
            try:
                recipe[target] = read(found["value"])
            except ValueError:
                raise UsageError(
                    f"method={name!r}: {change!r} is no whole number of steps."
                ) from None
        else:
            raise UsageError(
                f"method={name!r}: {change!r} is no change of {kind!r}; those of resets are "
                "fFRACTION, kSTEPS, fromSTEP, untilSTEP, that of noise is sSTD, of all lrRATE and "
                f"{', '.join(SCHEDULES)}."
            )
    return Cell(kind, recipe, rate, schedule)
