"""What an estimate that stopped halfway leaves, and the command that goes on with it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from spectra.errors import RecordError, SpectraError, UsageError, WriteError
from spectra.estimation.halfway import found_states
from spectra.estimation.output import load_all
from spectra.parallel import world
from spectra.record import Spectrum


def telling(
    work: Callable[[], Spectrum], output: Path, arguments: Sequence[str], *, several: bool
) -> Spectrum:
    """Do the work; if it stops halfway, say what is kept and how to go on.

    Args:
        work: Makes one record.
        output: Its directory.
        arguments: Of the command.
        several: Whether the command makes further records.
    """
    from spectra.cli.arguments import say

    try:
        return work()
    except KeyboardInterrupt:
        say(how_to_resume(output, arguments, several=several))
        raise
    except SpectraError as error:
        began = isinstance(error, WriteError) or not isinstance(error, (UsageError, RecordError))
        if began and _kept(output):
            raise type(error)(f"{error} {how_to_resume(output, arguments)}") from None
        raise


def nothing_new(before: Spectrum, now: Spectrum) -> bool:
    """Whether a record was finished before, so that nothing was run."""
    spent = [one.metadata.get("cost", {}).get("hvps") for one in (before, now)]
    return before.complete and before.steps.shape == now.steps.shape and spent[0] == spent[1]


def loaded(output: Path) -> Spectrum | None:
    """Return the record in `output`, None if there is none that can be read."""
    try:
        return load_all(output)
    except (SpectraError, OSError):
        return None


def how_to_resume(output: Path, arguments: Sequence[str], *, several: bool = False) -> str:
    """Return what is kept and the command that goes on."""
    kept = _kept(output)
    if not (kept or several):
        return "No probe had finished; nothing was lost."
    if not kept:
        kept = "finished records are kept"
    told = _without(arguments, ("--resume", "--overwrite"))
    command = shlex.join([*_launcher(), "estimate", *told, "--resume"])
    return f"{kept}; go on with: {command}"


def _without(arguments: Sequence[str], flags: tuple[str, ...]) -> list[str]:
    """Return the arguments without some switches and the values written behind them."""
    kept: list[str] = []
    dropped = False
    for argument in arguments:
        value = dropped and argument.lower() in ("true", "false")
        dropped = argument in flags
        if not (dropped or value or argument.startswith(tuple(f"{flag}=" for flag in flags))):
            kept.append(argument)
    return kept


def _kept(output: Path) -> str:
    found = loaded(output)
    finished = 0 if found is None else found.finished
    states = len(found_states(output))
    parts = [f"{finished} finished probes"] if finished else []
    parts += [f"the states of {states} unfinished ones"] if states else []
    return f"{' and '.join(parts)} are kept in {output}" if parts else ""


def _launcher() -> list[str]:
    """Return how this program was started; any number of processes may go on."""
    ranks = world()
    if ranks.size == 1:
        return ["spectra"]
    return ["torchrun", "--nproc-per-node", str(ranks.local_size), "-m", "spectra"]
