"""What a `--ckpt` names, and which files belong to it.

    tiny                  the built-in model (./tiny for a directory of that name)
    DIR                   a directory with config.json and weights; checkpoint-N gives the step
    DIR                   a directory with params.json and consolidated.00.pth, Meta's layout
    FILE.gguf             one GGUF file, or a directory that holds nothing but one
    ORG/NAME, NAME        a hub id, with an optional revision, when no such path exists

Of several formats in one directory the first of FORMATS is read, as transformers does. Nothing is
opened here beyond the files that tell the step, and the shard index.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from spectra.checkpoint import hub
from spectra.checkpoint.entries import CHECKPOINT, check_entries
from spectra.errors import CheckpointError, UsageError, nearest
from spectra.quant.saved import FILE as QUANTIZATION
from spectra.record.jsonfile import read_json

TINY = "tiny"
LARGEST_INDEX = 1 << 26  # bytes; of a model of 700 000 tensors
LARGEST_STATE = 1 << 28  # of the log of a run of a million steps
PARAMS, CONSOLIDATED = "params.json", "consolidated .pth"
_META = re.compile(r"consolidated(\.\d+)?\.pth")
FORMATS = {
    "model.safetensors": "safetensors",
    "model.safetensors.index.json": "sharded safetensors",
    "pytorch_model.bin": "pytorch_model.bin",
    "pytorch_model.bin.index.json": "sharded pytorch_model.bin",
}
TRAINER = "trainer_state.json"
REVISION_STEP = re.compile(r"step[-_]?(\d+)")


@dataclass(frozen=True)
class Location:
    """The files of one checkpoint on this machine.

    Attributes:
        name: What the caller gave.
        directory: Where the files are.
        format: One of the values of FORMATS, "gguf", "consolidated .pth", or "hub" for a hub
            checkpoint whose weights were not fetched.
        weights: The weight files, sorted by name.
        index: Tensor name -> file name for sharded formats, else None.
        revision: As asked of the hub.
        step: Training step, if known.
        notes: Sentences for the record.
    """

    name: str
    directory: Path
    format: str
    weights: tuple[Path, ...]
    index: dict[str, str] | None = None
    revision: str | None = None
    step: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def config(self) -> Path | None:
        """The config.json, or Meta's params.json; a GGUF file replaces both."""
        if self.format == "gguf":
            return None
        return self.directory / (PARAMS if self.format == CONSOLIDATED else "config.json")


def locate(path: str | Path, *, revision: str | None = None, weights: bool = True) -> Location:
    """Return the files of the checkpoint that `path` names.

    Args:
        path: "tiny", a directory, a .gguf file, or a hub id.
        revision: Branch, tag or commit, for a hub id only.
        weights: False fetches no weight file of a hub id that is not on this machine.

    Raises:
        UsageError: If a revision is given for local files, or the file is of no known kind.
        CheckpointError: If nothing is found, or files are missing.
    """
    name = str(path)
    if not name.strip():
        raise UsageError("ckpt='' names nothing; pass a directory, a .gguf file, a hub id or tiny.")
    local = _builtin() if name == TINY else Path(name).expanduser()
    try:
        exists = local.exists()
    except OSError as error:  # a name too long for the file system, a directory without access
        raise CheckpointError(f"ckpt={name!r} cannot be opened: {error.strerror}.") from None
    if exists and revision is not None:
        raise UsageError(f"revision={revision!r} is for hub ids; ckpt={name!r} is a local path.")
    if exists:
        return _file(name, local) if local.is_file() else _directory(name, local)
    if name == TINY:
        raise CheckpointError("The built-in model is missing from this installation; reinstall.")
    if not hub.looks_like_id(name):
        raise CheckpointError(_missing(name, local))
    snapshot = hub.snapshot(name, revision, weights=weights, near=_near(local))
    if not weights and not any((snapshot / file).exists() for file in FORMATS):
        found = Location(name, snapshot, "hub", ())
    else:
        found = _directory(name, snapshot)
    named = REVISION_STEP.fullmatch(revision or "")
    return replace(
        found,
        revision=revision or "main",
        step=int(named[1]) if named else found.step,
        notes=(*found.notes, f"read from the hub at commit {snapshot.name}"),
    )


def _builtin() -> Path:
    import spectra.tiny

    return Path(str(spectra.tiny.__file__)).parent / "model"


def _file(name: str, path: Path) -> Location:
    if path.suffix.lower() == ".gguf":
        return Location(name, path.parent, "gguf", (path,))
    if path.suffix.lower() in {".safetensors", ".bin", ".pt", ".pth", ".json"}:
        raise UsageError(
            f"ckpt={name!r} is a file; pass the directory that holds it with its config.json, or a "
            ".gguf file."
        )
    raise UsageError(
        f"ckpt={name!r} is a file of no known kind; pass a directory, a .gguf file, a hub id or "
        "tiny."
    )


def _directory(name: str, path: Path) -> Location:
    files = check_entries(name, path)
    if not files:
        raise CheckpointError(f"ckpt={name!r} is an empty directory; point to a checkpoint.")
    if "adapter_config.json" in files:
        raise CheckpointError(
            f"ckpt={name!r} is an adapter, whose base model lies elsewhere; merge it into the base "
            "model and save that."
        )
    present = [file for file in FORMATS if file in files]
    ggufs = sorted(file for file in files if file.lower().endswith(".gguf"))
    if not present and len(ggufs) == 1:
        return Location(name, path, "gguf", (path / ggufs[0],))
    if not present and any(_META.fullmatch(file) for file in files):
        return _consolidated(name, path, files)
    if not present:
        raise CheckpointError(_no_weights(name, path, files, ggufs))
    if "config.json" not in files:
        raise CheckpointError(
            f"ckpt={name!r} holds {present[0]} but no config.json, which tells the architecture; "
            "add the one that was saved with it."
        )
    step, notes = _step(path)
    index = read_index(path / present[0]) if present[0].endswith(".index.json") else None
    shards = sorted(set(index.values())) if index is not None else [present[0]]
    missing = [shard for shard in shards if shard not in files]
    if missing:
        raise CheckpointError(
            f"ckpt={name!r} lacks {len(missing)} of its {len(shards)} shards: "
            f"{shorten(missing)}; copy or download them again."
        )
    weights = tuple(path / shard for shard in shards)
    return Location(name, path, FORMATS[present[0]], weights, index, step=step, notes=notes)


def _consolidated(name: str, path: Path, files: set[str]) -> Location:
    shards = sorted(file for file in files if _META.fullmatch(file))
    if len(shards) > 1:
        raise CheckpointError(
            f"ckpt={name!r} holds {len(shards)} consolidated files ({shorten(shards)}), each a "
            "slice of every matrix, which is not read; merge them into one."
        )
    if PARAMS not in files:
        raise CheckpointError(
            f"ckpt={name!r} holds {shards[0]} but no {PARAMS}, which tells the architecture; add "
            "the one that was saved with it."
        )
    step, notes = _step(path)
    return Location(name, path, CONSOLIDATED, (path / shards[0],), step=step, notes=notes)


def read_index(path: Path) -> dict[str, str]:
    """Return tensor name -> shard file name from a `*.index.json`.

    Raises:
        CheckpointError: If it is not such an index, or names a file outside its directory.
    """
    try:
        index = read_json(path, largest=LARGEST_INDEX)
        dict(index["metadata"])  # may be empty, but transformers wants it
        entries = {str(tensor): str(file) for tensor, file in index["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"{str(path)!r} is not a shard index (JSON with `metadata` and `weight_map`); copy it "
            "again."
        ) from None
    outside = sorted({file for file in entries.values() if Path(file).name != file})
    if outside or not entries:
        what = f"names {outside[0]!r}, outside its directory" if outside else "names no tensor"
        raise CheckpointError(f"{str(path)!r} {what}; a shard index lists files beside it.")
    return entries


def stated_step(path: Path) -> tuple[int | None, str]:
    """Return the training step that a file in the directory `path` states, and its name.

    The files are trainer_state.json (`global_step`), then the quantization file of this package,
    which final weights of a run have too.
    """
    for name, key in ((TRAINER, "global_step"), (QUANTIZATION, "step")):
        try:
            state = read_json(path / name, largest=LARGEST_STATE)
        except (OSError, ValueError):
            continue
        step = state.get(key) if isinstance(state, dict) else None
        if isinstance(step, int) and not isinstance(step, bool):
            return step, name
    return None, ""


def shorten(names: list[str], limit: int = 4) -> str:
    """Return `names` joined by commas, cut to `limit` of them and a count of the others."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _step(path: Path) -> tuple[int | None, tuple[str, ...]]:
    stated, file = stated_step(path)
    named = CHECKPOINT.fullmatch(path.resolve().name)
    if named is None:
        return stated, ()
    step = int(named[1])
    if stated in (None, step) or file == QUANTIZATION:  # which speaks for itself when it is read
        return step, ()
    return step, (f"step {step} is the directory's; its {file} says {stated}",)


def _no_weights(name: str, path: Path, files: set[str], ggufs: list[str]) -> str:
    steps = sorted(int(m[1]) for f in files if (m := CHECKPOINT.fullmatch(f)))
    if ggufs:
        return f"ckpt={name!r} holds {len(ggufs)} GGUF files; pass one of {shorten(ggufs)}."
    if steps:
        known = shorten([f"checkpoint-{step}" for step in steps])
        return (
            f"ckpt={name!r} is a run without weights of its own; pass one of its {known}, or "
            "--steps all."
        )
    other = sorted(f for f in files if f.endswith((".safetensors", ".bin", ".pt", ".pth")))
    if other:
        return (
            f"ckpt={name!r} holds {shorten(other)}, but weights are read only from "
            f"{', '.join(FORMATS)} or a .gguf file; save the model with save_pretrained."
        )
    what = "config.json but no weights" if "config.json" in files else "no checkpoint"
    held = shorten(sorted(str(path / f) for f in files))
    return f"ckpt={name!r} holds {what} ({held}); expected {', '.join(FORMATS)} or a .gguf file."


def _near(path: Path) -> str:
    try:
        siblings = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    return nearest(path.name, siblings).rstrip("?")


def _missing(name: str, path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"ckpt={name!r} does not exist, and neither does {str(parent)!r}; check the path."
    return f"ckpt={name!r} does not exist in {str(parent)!r}{_near(path) or '; check the path'}."
