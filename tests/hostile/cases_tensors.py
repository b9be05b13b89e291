"""Safetensors files that lie about what they hold, and indexes that point elsewhere."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = "model.safetensors"
Header = dict[str, Any]
Build = Callable[[Path, Path], Any]
UNREADABLE = "is not a safetensors file"


def _parts(place: Path) -> tuple[Header, bytes]:
    raw = (place / FILE).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def _write(place: Path, header: Header | bytes, data: bytes, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    start = struct.pack("<Q", len(text) if length is None else length)
    (place / FILE).write_bytes(start + text + data)


def _changed(change: Callable[[Header], Any]) -> Build:
    def build(place: Path, canary: Path) -> None:
        header, data = _parts(place)
        change(header)
        _write(place, header, data)

    return build


def _raw(text: bytes, data: bytes = b"", length: int | None = None) -> Build:
    return lambda place, _: _write(place, text, data, length)


def _overlap(header: Header) -> None:
    """Two tensors at one place."""
    names = [n for n in header if n.endswith("q_proj.weight")]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]


def _many(place: Path, canary: Path) -> None:
    """A megabyte that a thousand tensors share."""
    size = 1 << 20
    entry = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    _write(place, {f"t{i}": entry for i in range(1000)}, bytes(size))


def _entry(**changes: Any) -> Build:
    return _changed(lambda header: header["model.norm.weight"].update(changes))


def _doubled(place: Path, canary: Path) -> None:
    header, data = _parts(place)
    text = json.dumps(header).encode()
    first = json.dumps({"model.norm.weight": header["model.norm.weight"]}).encode()
    _write(place, b"{" + first[1:-1] + b"," + text[1:], data)


def _index(content: Any) -> Build:
    def build(place: Path, canary: Path) -> None:
        (place / FILE).rename(place.parent / "outside.safetensors")
        text = content if isinstance(content, str) else json.dumps(content)
        (place / f"{FILE}.index.json").write_text(text)

    return build


def _map(file: Any) -> Build:
    return _index({"metadata": {}, "weight_map": {"model.norm.weight": file}})


CASES: dict[str, tuple[Build, str | None]] = {
    "overlapping tensors": (_changed(_overlap), "its tensors overlap"),
    "a thousand tensors in one megabyte": (_many, "its tensors overlap"),
    "offsets beyond the file": (
        _entry(data_offsets=[0, 10**15], shape=[10**15 // 4]),
        "overlap|truncated",
    ),
    "offsets that go backward": (_entry(data_offsets=[64, 0]), UNREADABLE),
    "negative offsets": (_entry(data_offsets=[-64, 0]), UNREADABLE),
    "offsets of fractions": (_entry(data_offsets=[0.0, 64.0]), UNREADABLE),
    "offsets beyond 64 bits": (_entry(data_offsets=[0, 2**70]), UNREADABLE),
    "a shape of terabytes": (_entry(shape=[10**6, 10**6]), UNREADABLE),
    "a shape that overflows": (_entry(shape=[2**62, 4, 4]), UNREADABLE),
    "a negative shape": (_entry(shape=[-4, -4]), UNREADABLE),
    "a rank of ten thousand": (_entry(shape=[1] * 10_000), UNREADABLE),
    "another type than the bytes": (_entry(dtype="F64"), UNREADABLE),
    "a type that is none": (_entry(dtype="F31"), "could not be loaded|lacks|stores"),
    "a type that is a list": (_entry(dtype=["F32"]), UNREADABLE),
    "bytes after the last tensor": (
        lambda place, _: _write(place, *(lambda h, d: (h, d + b"x" * 99))(*_parts(place))),
        "99 bytes follow its last tensor",
    ),
    "a header longer than the file": (_raw(b"{}", b"", 10**6), "is truncated"),
    "a header of 2^63 bytes": (_raw(b"{}", b"", 2**63), UNREADABLE),
    "a header that is no JSON": (_raw(b"\x00\x01\x02" * 9), UNREADABLE),
    "a header of nested lists": (_raw(b"[" * 10**5 + b"]" * 10**5), UNREADABLE),
    "a header of empty lists": (_raw(b'{"a":[' + b"[]," * 10**6 + b"[]]}"), UNREADABLE),
    "a name listed twice": (_doubled, None),
    "an index that points up": (_map("../outside.safetensors"), "outside its directory"),
    "an index that points to the root": (_map("/etc/passwd"), "outside its directory"),
    "an index with a backslash and dots": (
        _map("..\\outside.safetensors"),
        "lacks 1 of its 1 shards",
    ),
    "an index to a missing shard": (_map("model-1.safetensors"), "lacks 1 of its 1 shards"),
    "an index to the directory itself": (_map("."), "outside its directory|lacks"),
    "an index of numbers": (_map(7), "lacks 1 of its 1 shards"),
    "an index nested without end": (_index("[" * 10**6), "is not a shard index"),
}
