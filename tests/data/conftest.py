"""A tokenizer of bytes: id = byte, 256 ends a document. No download, no training."""

from __future__ import annotations

from typing import Any

import pytest


class ByteTokenizer:
    """What token_batches needs of a tokenizer, and a count of the characters it was given."""

    eos_token_id: int | None = 256

    def __init__(self) -> None:
        self.seen = 0

    def __call__(
        self, text: str, *, add_special_tokens: bool = True, verbose: bool = True
    ) -> dict[str, Any]:
        assert not add_special_tokens
        assert not verbose
        self.seen += len(text)
        return {"input_ids": list(text.encode())}


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()
