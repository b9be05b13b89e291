"""A study's directory: whose it is, and the file that says so.

The study goes to disk before its first job. The same command goes on with it, and one that asks for
other widths, methods, seeds or records adds them, if it asks for all that was begun as well, with
the same settings. Any other study in the same directory is refused. The file tells what was asked
for before: whether seeds were added after looking is for a reader to know.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from spectra.errors import RecordError, UsageError
from spectra.record.atomic import is_remnant, make_directory, write_atomically
from spectra.record.digest import KEY, json_sha256
from spectra.record.jsonfile import read_json
from spectra.record.lock import FILE as LOCK
from spectra.study.jobs import jobs
from spectra.study.plan import LISTS, Study

FILE = "study.json"
VERSION = 1
EARLIER = "earlier"  # what the study has been asked for before, in the file


def check_place(directory: Path, asked: Study) -> bool:
    """Return whether the study, or one that `asked` adds runs or records to, is in `directory`.

    Raises:
        UsageError: If another study is there, or other files.
    """
    path = directory / FILE
    if path.exists():
        _check_same_or_grown(directory, load_study(directory), asked)
        return True
    if directory.exists() and (not directory.is_dir() or any(map(_counts, directory.iterdir()))):
        raise UsageError(
            f"output={str(directory)!r} holds other files; pass a new or an empty directory."
        )
    return False


def _check_same_or_grown(directory: Path, found: Study, asked: Study) -> None:
    """Raise a `UsageError` unless `asked` has all that is begun of `found`, with its settings."""
    other = _differing(found, asked)
    told = [
        f"{str(directory)!r} holds a study with {key}={getattr(found, key)}, and "
        f"{key}={getattr(asked, key)} is asked for; "
        for key in sorted(other, key=lambda key: key in LISTS)
    ]
    if any(key not in LISTS for key in other):
        raise UsageError(told[0] + "choose another --output, or repeat the first command to go on.")
    wanted = {job.name: job for job in jobs(asked, directory)}
    for job in jobs(found, directory):
        if wanted.get(job.name) != job and Path(str(job.request.output)).exists():
            raise UsageError(
                told[0] + f"that leaves out {job.name!r}, which is begun: ask for it as well (what "
                "is new behind what was there), or choose another --output."
            )


def _differing(a: Study, b: Study) -> list[str]:
    return [f.name for f in fields(Study) if getattr(a, f.name) != getattr(b, f.name)]


def _counts(path: Path) -> bool:
    """Whether a file is not what keeping order in the directory takes, or a killed write leaves."""
    return not is_remnant(path) and path.name != LOCK


def open_study(directory: Path, asked: Study) -> None:
    """Write the study into `directory`, where nothing is or what it goes on with.

    Raises:
        UsageError: If another study is there, or other files, or it cannot be written.
    """
    earlier: list[str] = []
    if check_place(directory, asked):
        found, earlier = _load(directory)
        if found == asked:
            return
        changed = [
            f.name for f in fields(Study) if getattr(found, f.name) != getattr(asked, f.name)
        ]
        earlier = [*earlier, "; ".join(f"{key}={getattr(found, key)}" for key in changed)]
    path = directory / FILE
    content: dict[str, Any] = {"version": VERSION} | asdict(asked)
    if earlier:
        content[EARLIER] = earlier
    content[KEY] = json_sha256(content)
    try:
        make_directory(directory)
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        raise UsageError(
            f"output={str(directory)!r} cannot be written: {error.strerror}; choose another."
        ) from None


def load_study(directory: Path) -> Study:
    """Return the study in `directory`.

    Raises:
        RecordError: If there is none, or it cannot be read.
    """
    return _load(directory)[0]


def _load(directory: Path) -> tuple[Study, list[str]]:
    """Return the study in `directory` and what it was before."""
    path = directory / FILE
    try:
        content = read_json(path)
        if content.pop(KEY, None) not in (None, json_sha256(content)):
            raise RecordError(
                f"{str(path)!r} was changed after it was written (its content is not that of its "
                f"{KEY}); restore it, or choose another --output."
            )
        if content.pop("version") != VERSION:
            raise ValueError
        earlier = [str(line) for line in content.pop(EARLIER, [])]
        return Study(**content), earlier
    except OSError as error:
        raise RecordError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError, KeyError, AttributeError, UsageError):
        raise RecordError(
            f"{str(path)!r} is not a study of this release; choose another --output."
        ) from None
