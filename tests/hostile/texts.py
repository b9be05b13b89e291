"""Data as the fuzzer gives them: plain text, JSON lines, arrays of token ids."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from spectra.checkpoint.locate import locate
from spectra.checkpoint.tokenizer import load_tokenizer
from spectra.data import token_batches, token_blocks


@cache
def words() -> Any:
    """The tokenizer of the built-in model."""
    return load_tokenizer(locate("tiny"), None, trust_remote_code=False)[0]


def text_seeds(place: Path) -> list[bytes]:
    del place
    return [b"hello world\n" * 30, "naïve λ → ∞\n".encode() * 30, b"\xef\xbb\xbfwith a mark " * 20]


def jsonl_seeds(place: Path) -> list[bytes]:
    del place
    return [
        b'{"text": "hello there, you"}\n{"text": "and \\u00e9 again"}\n' * 10,
        b'{"input_ids": [1, 2, 3, 4, 5, 6, 7, 8, 9]}\n' * 5,
    ]


def npy_seeds(place: Path) -> list[bytes]:
    del place
    found = []
    for dtype in ("int64", "uint16", "int32", ">i4"):
        buffer = io.BytesIO()
        np.save(buffer, np.arange(100).reshape(4, 25).astype(dtype))
        found.append(buffer.getvalue())
    return found


def read_text(place: Path, data: bytes) -> None:
    _read(place / "a.txt", data)


def read_jsonl(place: Path, data: bytes) -> None:
    _read(place / "a.jsonl", data)


def read_npy(place: Path, data: bytes) -> None:
    _read(place / "a.npy", data)


def _read(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    token_batches(path, words(), seq_len=8, batch_size=1, num_batches=2, vocab_size=1024)
    token_blocks(path, words(), seq_len=8, max_blocks=3)
