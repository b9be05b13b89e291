"""Directories with links, pipes and devices; the hub's cache, which is made of links."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.cases_configs import change

Build = Callable[[Path, Path], Any]
OUT = "a link out of its directory"


def _linked(file: str, target: str) -> Build:
    def build(place: Path, canary: Path) -> None:
        (place / file).unlink(missing_ok=True)
        (place / file).symlink_to(target)

    return build


def _moved(place: Path, canary: Path) -> None:
    shutil.move(place / "model.safetensors", place.parent / "weights")
    (place / "model.safetensors").symlink_to("../weights")


def _loop(place: Path, canary: Path) -> None:
    (place / "config.json").unlink()
    (place / "config.json").symlink_to("config.json")


def _pipe(file: str) -> Build:
    def build(place: Path, canary: Path) -> None:
        (place / file).unlink(missing_ok=True)
        os.mkfifo(place / file)

    return build


def _within(place: Path, canary: Path) -> None:
    (place / "model.safetensors").rename(place / "stored")
    (place / "model.safetensors").symlink_to("stored")


def _tokenizer(**changes: Any) -> Build:
    return lambda place, _: change(place, "tokenizer_config.json", **changes)


def _text(file: str, text: str) -> Build:
    return lambda place, _: (place / file).write_text(text)


def _tokens(alter: Callable[[dict[str, Any]], Any]) -> Build:
    def build(place: Path, canary: Path) -> None:
        content = json.loads((place / "tokenizer.json").read_text())
        alter(content)
        (place / "tokenizer.json").write_text(json.dumps(content))

    return build


def _growing(content: dict[str, Any]) -> None:
    """Thirty steps, each of which doubles every letter: a gigabyte of one."""
    step = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
    content["normalizer"] = {"type": "Sequence", "normalizers": [step] * 30}


READ = "The tokenizer of .* cannot be read"
CASES: dict[str, tuple[Build, str | None]] = {
    "weights that are a link to a secret": (_linked("model.safetensors", "/etc/passwd"), OUT),
    "a configuration that is a link out": (_linked("config.json", "../../x.json"), OUT),
    "a tokenizer that is a link out": (_linked("tokenizer.json", "/etc/passwd"), OUT),
    "weights that were moved and linked": (_moved, OUT),
    "a link to a device": (_linked("config.json", "/dev/zero"), OUT),
    "a link to itself": (_loop, "a link leads to itself|does not exist|symbolic links"),
    "a link inside the directory": (_within, None),
    "a configuration that is a pipe": (_pipe("config.json"), "neither a file nor a directory"),
    "weights that are a pipe": (_pipe("model.safetensors"), "neither a file nor a directory"),
    "a state that is a pipe": (_pipe("trainer_state.json"), "neither a file nor a directory"),
    "a tokenizer that is a pipe": (_pipe("added_tokens.json"), "neither a file nor a directory"),
    "a vocabulary elsewhere": (
        _tokenizer(vocab_file="/dev/zero", tokenizer_file="/etc/passwd"),
        None,
    ),
    "a tokenizer class that is a path": (_tokenizer(tokenizer_class="os.system"), None),
    "a tokenizer nested without end": (_text("tokenizer.json", '{"a":' * 10**5), READ),
    "a tokenizer of the wrong kind": (_text("tokenizer.json", "[1, 2]"), READ),
    "settings of a tokenizer nested without end": (
        _text("tokenizer_config.json", "[" * 10**5),
        READ,
    ),
    "a tokenizer that grows what it reads": (
        _tokens(_growing),
        r"it makes [\d,]+ characters of one",
    ),
    "a tokenizer without a vocabulary": (_tokens(lambda c: c.update(model={"type": "BPE"})), READ),
    "token ids beyond 64 bits": (_tokens(lambda c: c["model"]["vocab"].update(a=2**70)), READ),
}
