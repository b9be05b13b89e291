"""Which checkpoints one command estimates, and where each record goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from spectra import checkpoint, record
from spectra.errors import SpectraError, UsageError

RESULTS = "results"


@dataclass(frozen=True)
class Job:
    """One checkpoint.

    Attributes:
        ckpt: What is loaded.
        output: Directory of its record; with `--per`, the directory that holds those of its parts.
    """

    ckpt: str
    output: Path


def jobs(
    ckpts: Sequence[str], steps: str | None, output: str | None
) -> tuple[list[Job], dict[str, SpectraError]]:
    """Return the jobs of a command, and the runs whose steps cannot be listed, with the reason.

    One checkpoint goes to `output` itself; several to directories of their names below it, the
    steps of a run to `NAME/step-N`.

    Raises:
        UsageError: If `steps` is malformed, or a checkpoint is given twice.
        SpectraError: If the only run's steps cannot be listed.
    """
    names = unique_names(ckpts)
    wanted = None if steps is None else step_list(steps)
    if wanted is None and len(ckpts) == 1:
        return [Job(ckpts[0], Path(output or f"{RESULTS}/{names[0]}"))], {}
    root = Path(output or RESULTS)
    found: list[Job] = []
    failed: dict[str, SpectraError] = {}
    for ckpt, name in zip(ckpts, names, strict=True):
        if wanted is None:
            found.append(Job(ckpt, root / name))
            continue
        try:
            series = checkpoint.series(ckpt, wanted)
        except SpectraError as error:
            if len(ckpts) == 1:
                raise
            failed[ckpt] = error
            continue
        found += [Job(path, root / name / f"step-{step}") for step, path in series]
    return found, failed


def refuse_occupied(found: Sequence[Job], *, parts: bool) -> None:
    """Refuse, before anything is loaded, to begin where records are already.

    Raises:
        UsageError: If an output holds a record.
    """
    held = [job.output for job in found if record.exists(job.output)]
    if parts:
        held = [job.output for job in found if any(map(record.exists, job.output.glob("*")))]
    if held and (parts or len(found) > 1):
        more = f" (and {len(held) - 1} more)" if len(held) > 1 else ""
        raise UsageError(
            f"output={str(held[0])!r}{more} holds a record already; pass --resume to go on "
            "(finished records of the same request are skipped), --overwrite to replace them, or "
            "another --output."
        )


def unique_names(ckpts: Sequence[str]) -> list[str]:
    """Return a directory name for each checkpoint: its last part, more parts where those agree.

    Raises:
        UsageError: If a checkpoint is given twice.
    """
    if len(set(ckpts)) < len(ckpts):
        twice = next(ckpt for ckpt in ckpts if list(ckpts).count(ckpt) > 1)
        raise UsageError(f"ckpt={twice!r} is given twice; name each checkpoint once.")
    parts = [PurePath(ckpt).parts for ckpt in ckpts]
    for depth in range(1, max(map(len, parts)) + 1):
        names = [_safe("-".join(one[-depth:])) for one in parts]
        if len(set(names)) == len(names):
            # Those that are told apart by their last part keep it.
            short = [_safe("".join(one[-1:])) for one in parts]
            return [s if short.count(s) == 1 else n for s, n in zip(short, names, strict=True)]
    return [f"{_safe(ckpt)}-{place}" for place, ckpt in enumerate(ckpts)]


def _safe(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-._" else "-" for c in name)
    return kept.strip(".-") or "checkpoint"


def step_list(text: str) -> str | list[int]:
    """Return "all", or the steps that "200,400,800" lists."""
    if text == "all":
        return "all"
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"steps={text!r} must be 'all' or a list as 200,400,800.") from None
