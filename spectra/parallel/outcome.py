"""How a block of common work ended on one rank, and which error that makes on all of them."""

from __future__ import annotations

from dataclasses import dataclass

from spectra import errors
from spectra.errors import SpectraError


class ElsewhereError(SpectraError):
    """Another rank has failed; raised to leave the block, replaced by that rank's error."""


@dataclass(frozen=True)
class Outcome:
    """How it ended on one rank.

    Attributes:
        kind: Name of the error's type, "" where there was none.
        message: What it said.
        echoed: Whether the rank only left because another one had failed.
        lost: Whether the rank is gone, as far as those who speak of it know.
    """

    kind: str = ""
    message: str = ""
    echoed: bool = False
    lost: bool = False

    @property
    def failed(self) -> bool:
        """Whether the block did not end well there."""
        return bool(self.kind)

    @staticmethod
    def of(error: BaseException) -> Outcome:
        """Return the outcome of a rank that raised `error`."""
        return Outcome(type(error).__name__, str(error))

    @staticmethod
    def echo(error: ElsewhereError) -> Outcome:
        """Return the outcome of a rank that left because of another."""
        return Outcome(type(error).__name__, str(error), echoed=True)

    @staticmethod
    def gone() -> Outcome:
        """Return the outcome of a rank that is no more."""
        return Outcome("SpectraError", "this process has ended, or its machine is gone", lost=True)


def agreed(everyone: list[Outcome], raised: BaseException | None, rank: int) -> BaseException:
    """Return the error that this rank is to raise.

    Args:
        everyone: The outcomes by rank, at least one of them failed.
        raised: What this rank itself raised.
        rank: Its number.
    """
    if raised is not None and not isinstance(raised, Exception):
        return raised  # an interrupt is each rank's own
    causes = [k for k, outcome in enumerate(everyone) if outcome.failed and not outcome.echoed]
    first = causes[0] if causes else next(k for k, o in enumerate(everyone) if o.failed)
    if first == rank and raised is not None and not isinstance(raised, SpectraError):
        return raised
    cause = everyone[first]
    alike = len(causes) == len(everyone) and len({everyone[k].message for k in causes}) == 1
    kind = getattr(errors, cause.kind, None)
    known = isinstance(kind, type) and issubclass(kind, SpectraError)
    said = cause.message if known else f"{cause.kind}: {cause.message}"
    made = kind if known and isinstance(kind, type) else SpectraError
    error: BaseException = made(said if alike else f"rank {first}: {said}")
    error.__cause__ = raised
    return error
