"""A study's directory: whose it is, and the file that says so.

The study goes to disk before its first job. The same command goes on with it, and one that asks for
more widths, methods, seeds or records adds them, since a job depends on its own settings alone. Any
other study in the same directory is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

from spectra.errors import RecordError, UsageError
from spectra.record.atomic import is_remnant, make_directory, write_atomically
from spectra.record.digest import KEY, json_sha256
from spectra.record.jsonfile import read_json
from spectra.record.lock import FILE as LOCK
from spectra.study.plan import Study

FILE = "study.json"
VERSION = 1
GROWS = {
    *("bits", "methods", "seeds"),
    *("spectra_methods", "series_surfaces", "fractions", "surfaces"),
}


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
    """Raise a `UsageError` unless `asked` has every run and record of `found`, as it has them."""
    for key in (f.name for f in fields(Study)):
        old, new = getattr(found, key), getattr(asked, key)
        if old == new:
            continue
        if key not in GROWS:
            cure = "choose another --output, or repeat the first command to go on."
        elif gone := [value for value in old if value not in new]:
            cure = f"a study may only grow: add {gone[0]}, or choose another --output."
        else:
            continue
        raise UsageError(
            f"{str(directory)!r} holds a study with {key}={old}, and {key}={new} is asked for; "
            + cure
        )


def _counts(path: Path) -> bool:
    """Whether a file is not what keeping order in the directory takes, or a killed write leaves."""
    return not is_remnant(path) and path.name != LOCK


def open_study(directory: Path, asked: Study) -> None:
    """Write the study into `directory`, where nothing is or what it goes on with.

    Raises:
        UsageError: If another study is there, or other files, or it cannot be written.
    """
    if check_place(directory, asked) and load_study(directory) == asked:
        return
    path = directory / FILE
    content = {"version": VERSION} | asdict(asked)
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
        return Study(**content)
    except OSError as error:
        raise RecordError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError, KeyError, AttributeError, UsageError):
        raise RecordError(
            f"{str(path)!r} is not a study of this release; choose another --output."
        ) from None
