"""The tokenizer of a checkpoint, from its files, its run, its GGUF file, or `--tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spectra.checkpoint import hub
from spectra.checkpoint.entries import CHECKPOINT, check_entries
from spectra.checkpoint.locate import Location
from spectra.checkpoint.quiet import first_line
from spectra.errors import CheckpointError
from spectra.record.jsonfile import read_json
from spectra.record.names import check_name

# Any one of these is a vocabulary; tokenizer_config.json alone is none.
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
LARGEST, LARGEST_SETTINGS = 1 << 28, 1 << 24  # bytes of tokenizer.json; of the files beside it
MOST_GROWTH = 64  # that normalizers may make of a character; a chain of them makes any number
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "tiktoken.model",
)

NAMED = {  # keys of tokenizer_config.json -> files that they may mean
    "tokenizer_file": ("tokenizer.json",),
    "merges_file": ("merges.txt",),
    "vocab_file": VOCABULARIES[1:],
}


def tokenizer_directory(location: Location) -> Path | None:
    """Return where the tokenizer's files are: beside the weights, or in the run above them."""
    places = [location.directory]
    if CHECKPOINT.fullmatch(location.directory.resolve().name):
        places.append(location.directory.resolve().parent)
    for place in places:
        if any((place / name).is_file() for name in VOCABULARIES):
            return place
    return None


def load_tokenizer(
    location: Location, tokenizer: Any | None, *, trust_remote_code: bool
) -> tuple[Any | None, tuple[str, ...]]:
    """Return a tokenizer, or None where there is none, and notes for the record.

    Args:
        location: The checkpoint.
        tokenizer: None for the checkpoint's own; else a directory, a hub id, or a tokenizer.
        trust_remote_code: Whether code that comes with the tokenizer may run.

    Raises:
        CheckpointError: If it is asked for and missing, or its files cannot be read.
        UsageError: If no library can open its directory in this locale.
    """
    if tokenizer is not None and not isinstance(tokenizer, str | Path):
        return tokenizer, ("the tokenizer was passed in",)
    if tokenizer is not None:
        place = Path(tokenizer).expanduser()
        if place.is_file():
            place = place.parent
        if not place.is_dir():
            if not hub.looks_like_id(str(tokenizer)):
                raise CheckpointError(
                    f"tokenizer={str(tokenizer)!r} does not exist; pass a directory or hub id."
                )
            place = hub.snapshot(str(tokenizer), None, weights=False)
        words = _load(str(tokenizer), place, {}, trust_remote_code)
        return words, (f"the tokenizer is that of {tokenizer}",)
    own = tokenizer_directory(location)
    if own is not None:
        above = own != location.directory and own != location.directory.resolve()
        words = _load(location.name, own, {}, trust_remote_code)
        return words, ("the tokenizer is that of the run directory",) if above else ()
    if location.format == "gguf":
        arguments = {"gguf_file": location.weights[0].name}
        return _load(location.name, location.directory, arguments, trust_remote_code), ()
    return None, ()


def _load(name: str, place: Path, arguments: dict[str, str], trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    check_entries(name, place)
    check_name("tokenizer", place)
    _check_growth(name, place)
    arguments = _own_files(place) | arguments
    try:
        return AutoTokenizer.from_pretrained(
            place, trust_remote_code=trust_remote_code, local_files_only=True, **arguments
        )
    except BaseException as error:  # each tokenizer class raises its own, or panics
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise CheckpointError(
            f"The tokenizer of {name!r} cannot be read: {first_line(error)}; pass another with "
            "--tokenizer."
        ) from None


def _own_files(place: Path) -> dict[str, str]:
    """Return the files that a tokenizer's settings name, as those beside the settings.

    Older versions of transformers open what the settings name, wherever that is.
    """
    path = place / "tokenizer_config.json"
    settings = read_json(path, largest=LARGEST_SETTINGS) if path.exists() else None
    named = settings if isinstance(settings, dict) else {}
    found = {}
    for key, files in NAMED.items():
        there = [place / file for file in files if (place / file).is_file()]
        if named.get(key) and there:
            found[key] = str(there[0])
    return found


def _check_growth(name: str, place: Path) -> None:
    """Refuse a tokenizer whose files are no JSON, or which makes gigabytes of a page of text.

    Raises:
        CheckpointError: If it does.
    """
    for file in (*SETTINGS, "tokenizer.json"):
        largest = LARGEST if file == "tokenizer.json" else LARGEST_SETTINGS
        if not (place / file).exists():
            continue
        try:
            content = read_json(place / file, largest=largest)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"The tokenizer of {name!r} cannot be read: {file} is not JSON "
                f"({first_line(error)}); pass another with --tokenizer."
            ) from None
    if (place / "tokenizer.json").exists() and isinstance(content, dict):
        growth = _growth(content.get("normalizer")) * _growth(content.get("pre_tokenizer"))
        if growth > MOST_GROWTH:
            raise CheckpointError(
                f"The tokenizer of {name!r} cannot be read: it makes {growth:,} characters of one; "
                "pass another with --tokenizer."
            )


def _growth(step: Any) -> int:
    """Return how many characters a step of a tokenizer, and those inside it, make of one."""
    if isinstance(step, list):
        grown = 1
        for one in step:
            grown = min(grown * _growth(one), 1 << 40)
        return grown
    if not isinstance(step, dict):
        return 1
    inner = _growth([value for value in step.values() if isinstance(value, list | dict)])
    content = step.get("content")
    return inner * max(len(content), 1) if isinstance(content, str) else inner
