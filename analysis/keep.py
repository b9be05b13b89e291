"""What of a study is kept: records and logs, no weights (`python -m analysis.keep RESULTS KEPT`).

A results directory holds checkpoints; what tables, figures and the report are made from is a small
part of it: of each record `spectrum.npz` (its metadata is in it), of each run the Trainer's log and
the summary, of a study what was asked. They are copied to the same places below KEPT, so that
`spectra report KEPT` says what `spectra report RESULTS` says. Unfinished records are not kept. Of
absolute paths in studies and logs the last part is kept, or as many as tell two of them apart: the
rest is of one machine.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from analysis.training import LARGEST, STATE, SUMMARY
from spectra.errors import RecordError, SpectraError
from spectra.record import load, write_atomically
from spectra.record.digest import KEY, json_sha256
from spectra.record.files import ARRAYS
from spectra.record.jsonfile import read_json

STUDY = "study.json"
LOGGED = ("best_metric", "epoch", "global_step", "max_steps", "log_history")


def keep(results: str | os.PathLike[str], directory: str | os.PathLike[str]) -> list[Path]:
    """Copy what reports are made from, and return the files written.

    Args:
        results: Directory with records and training runs at any depth.
        directory: Where they are kept; files of the same name are replaced.

    Raises:
        RecordError: If there is nothing to keep, or a file cannot be read or written.
    """
    root, target = Path(results).resolve(), Path(directory).resolve()
    if target.is_relative_to(root):
        raise RecordError(f"{str(target)!r} lies in {str(root)!r}; keep results elsewhere.")
    written, names_of = [], _short_paths(root)
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("checkpoint-"))
        place = target / Path(folder).relative_to(root)
        for name in sorted(set(names) & {ARRAYS, STATE, SUMMARY, STUDY}):
            content = _content(Path(folder, name), names_of)
            if content is not None:
                try:
                    place.mkdir(parents=True, exist_ok=True)
                    write_atomically(place / name, content)
                except OSError as error:
                    raise RecordError(
                        f"{str(place / name)!r} cannot be written: {error.strerror}."
                    ) from None
                written.append(place / name)
    if not written:
        raise RecordError(f"{str(root)!r} holds neither records nor training runs.")
    return written


def stale(directory: str | os.PathLike[str], written: list[Path]) -> list[Path]:
    """Return what was kept in `directory` before and is not among the files now written."""
    now = set(written)
    return sorted(
        Path(folder, name)
        for folder, _, names in os.walk(Path(directory).resolve())
        for name in set(names) & {ARRAYS, STATE, SUMMARY, STUDY}
        if Path(folder, name) not in now
    )


def _content(path: Path, names_of: dict[str, str]) -> bytes | None:
    """Return what is kept of a file, None of a record that is not complete."""
    if path.name == ARRAYS:
        return path.read_bytes() if load(path.parent).complete else None
    found = _json(path)
    if path.name == STATE:
        found = {key: found[key] for key in LOGGED if key in found}
    found = _portable(found, names_of)
    if path.name == STUDY:
        if KEY in found:
            found[KEY] = json_sha256(found)
        return json.dumps(found, indent=2).encode() + b"\n"
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"


def _json(path: Path) -> Any:
    try:
        return read_json(path, largest=LARGEST)
    except (OSError, ValueError) as error:
        raise RecordError(f"{str(path)!r} cannot be read: {error}.") from None


def _short_paths(root: Path) -> dict[str, str]:
    """Return, for each absolute path that studies and logs below `root` name, its shortest end."""
    found: set[str] = set()
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith("checkpoint-")]
        for name in set(names) & {STATE, SUMMARY, STUDY}:
            _collect(_json(Path(folder, name)), found)
    parts = {path: Path(path).parts for path in found}
    count = Counter(one[-n:] for one in set(parts.values()) for n in range(1, len(one)))
    short = {}
    for path, one in parts.items():
        alone = (n for n in range(1, len(one)) if count[one[-n:]] == 1)
        short[path] = str(Path(*one[-next(alone, len(one)) :]))
    return short


def _collect(value: Any, found: set[str]) -> None:
    entries = value.values() if isinstance(value, dict) else value
    if isinstance(value, str) and os.path.isabs(value):
        found.add(value)
    elif isinstance(value, (dict, list)):
        for entry in entries:
            _collect(entry, found)


def _portable(value: Any, names_of: dict[str, str]) -> Any:
    """Return a JSON value with absolute paths cut to their ends."""
    if isinstance(value, dict):
        return {key: _portable(entry, names_of) for key, entry in value.items()}
    if isinstance(value, list):
        return [_portable(entry, names_of) for entry in value]
    return names_of.get(value, value) if isinstance(value, str) else value


def main() -> int:
    """Keep what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", help="Directory of a study.")
    parser.add_argument("directory", help="Where its records and logs are kept.")
    asked = parser.parse_args()
    try:
        written = keep(asked.results, asked.directory)
    except SpectraError as error:
        parser.exit(1, f"keep: {error}\n")
    size = sum(path.stat().st_size for path in written)
    old = stale(asked.directory, written)
    if old:
        print(
            f"note: {len(old)} files there are not of these results (the first: {old[0]}); "
            "reports count them in: remove them if they are of an earlier keep"
        )
    print(f"{len(written)} files, {size / 1e6:.1f} MB, in {asked.directory}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
