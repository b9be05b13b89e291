"""Mutations of valid files: bits, bytes, lengths, splices, and the leaves of JSON inside them."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence
from typing import Any

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 255, 2**31, 2**32 - 1, 2**63, 2**64, 10**12, 10**25, -(2**63), 0.5, 1e308, 1e-320,
    float("nan"), float("inf"), -float("inf"), True, False, None,
)  # fmt: skip
WORDS: tuple[Any, ...] = (
    "", "x", "\x1b[31m", "\n", "\0", "<script>", "../../x", "/etc/passwd", "\ud800", "\u202e",
    "nan",
    "$\\frac{", "1e999", "a" * 5000, "é" * 10, "${jndi}", "%s%n", "-1", "true", "null",
)  # fmt: skip
NESTS: tuple[Any, ...] = ([], {}, [[]], [None], {"": None}, [0] * 300, {"a": {"b": {"c": []}}})
BYTES = (b"\0", b"\xff", b"{", b"[", b'"', b"\n", b"\x80", b"PK", b"0", b"-", b"e", b",", b":")
LENGTHS = (0, 1, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def mutate(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Return `data` with one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        change = rng.choice(CHANGES)
        data = change(data, rng, others)
    return data


def _flip(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    if not data:
        return b"\0"
    at = _place(data, rng)
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _put(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at, piece = _place(data, rng), rng.choice(BYTES) * rng.choice((1, 1, 1, 4, 300))
    return data[:at] + piece + data[at + rng.choice((0, len(piece))) :]


def _cut(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at = _place(data, rng)
    return data[:at] if rng.random() < 0.3 else data[:at] + data[at + rng.randrange(1, 64) :]


def _repeat(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at = _place(data, rng)
    piece = data[at : at + rng.randrange(1, 200)]
    return data[:at] + piece * rng.choice((2, 3, 50)) + data[at:]


def _length(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at, kind = _place(data, rng), rng.choice(("<I", "<Q", "<H", ">I"))
    width = struct.calcsize(kind)
    value = rng.choice(LENGTHS) % 2 ** (8 * width)
    return data[:at] + struct.pack(kind, value) + data[at + width :]


def _splice(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    if not others:
        return data
    other = rng.choice(others)
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _json(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Change a leaf or a key of the whole, of a line, or of the largest object inside."""
    lines = data.splitlines(keepends=True)
    if len(lines) > 1 and lines[0].startswith(b"{") and rng.random() < 0.5:
        at = rng.randrange(len(lines))
        lines[at] = _object(lines[at], rng) + b"\n"
        return b"".join(lines)
    return _object(data, rng)


def _object(data: bytes, rng: random.Random) -> bytes:
    begin, end = data.find(b"{"), data.rfind(b"}") + 1
    try:
        value = json.loads(data[begin:end])
    except (ValueError, RecursionError):
        return data
    text = json.dumps(_changed(value, rng)).encode()
    head = data[:begin]
    if begin == 8 and len(data) > 8:  # a header of safetensors tells its length
        head = struct.pack("<Q", len(text))
    return head + text + data[end:]


def _changed(value: Any, rng: random.Random) -> Any:
    """Return `value` with one entry, anywhere in it, of another value, kind, or gone."""
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(list(value))
        chance = rng.random()
        copy = dict(value)
        if chance < 0.06:
            del copy[key]
        elif chance < 0.12:
            copy[str(rng.choice(WORDS))] = copy.pop(key)
        else:
            copy[key] = _changed(value[key], rng)
        return copy
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    return rng.choice(rng.choice((NUMBERS, NUMBERS, WORDS, NESTS)))


def _place(data: bytes, rng: random.Random) -> int:
    if not data:
        return 0
    top = len(data) if rng.random() < 0.4 else min(len(data), 400)  # headers come first
    return rng.randrange(top)


CHANGES = (_flip, _flip, _put, _cut, _repeat, _length, _length, _splice, *(_json,) * 6)
