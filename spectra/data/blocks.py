"""Documents -> one stream of token ids -> blocks of `seq_len` -> batches.

Documents are tokenized without special tokens and joined, with the tokenizer's end-of-text token
between them where it has one; empty ones are passed over. A long document comes in pieces that are
tokenized one by one, so that no more of it is read than is used. The stream is cut into consecutive
blocks of exactly `seq_len` tokens; the rest is dropped. Labels equal the inputs (the loss shifts
them), so a block of T tokens carries T − 1 predictions. `sha256` is over the token ids actually
used: equal hashes mean equal data, whatever files or tokenizer they came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from spectra.data.sources import Source, open_source
from spectra.errors import DataError, UsageError

IGNORED = -100  # a label that does not count, as everywhere in transformers


@dataclass(frozen=True)
class Batch:
    """Token ids and labels, both (B, T) int64 on the CPU; label −100 does not count.

    `labels[b, t]` is the token at position t (not shifted); the loss predicts it from position
    t − 1, so `labels[:, 0]` is never used.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor

    @property
    def count(self) -> int:
        """Number of predictions that count."""
        return int((self.labels[:, 1:] != IGNORED).sum())


@dataclass(frozen=True)
class TokenBatches(Sequence[Batch]):
    """A fixed list of batches with what a record says about them."""

    batches: tuple[Batch, ...]
    source: str
    seq_len: int
    batch_size: int

    def __len__(self) -> int:
        return len(self.batches)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> TokenBatches: ...
    def __getitem__(self, index: int | slice) -> Batch | TokenBatches:
        if isinstance(index, slice):
            return TokenBatches(self.batches[index], self.source, self.seq_len, self.batch_size)
        return self.batches[index]

    @property
    def sha256(self) -> str:
        """Hash of the token ids and labels of every batch, in order."""
        digest = hashlib.sha256()
        for batch in self.batches:
            for tensor in (batch.input_ids, batch.labels):
                digest.update(str(tuple(tensor.shape)).encode())
                digest.update(tensor.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def metadata(self) -> dict[str, Any]:
        """Return the `data` section of a record."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "seq_len": self.seq_len,
            "batch_size": self.batch_size,
            "batches": len(self.batches),
        }


def token_batches(
    source: str | Path,
    tokenizer: Any = None,
    *,
    seq_len: int = 512,
    batch_size: int = 1,
    num_batches: int = 10,
    vocab_size: int | None = None,
) -> TokenBatches:
    """Return the first `num_batches` batches of `batch_size` blocks of `seq_len` tokens.

    Args:
        source: See `spectra.data.sources`: a file, a directory, "stdlib", "datasets:...".
        tokenizer: A transformers tokenizer; may be None where the source holds token ids.
        seq_len: Tokens in a block, at least 2.
        batch_size: Blocks in a batch.
        num_batches: Batches.
        vocab_size: Rows of the model's embedding; ids beyond it are refused.

    Raises:
        UsageError: If a size is out of range.
        DataError: If the source is unreadable, too short, needs a tokenizer, or holds token ids
            outside the vocabulary.
    """
    for name, value, least in (
        ("seq_len", seq_len, 2),
        ("batch_size", batch_size, 1),
        ("num_batches", num_batches, 1),
    ):
        _check_size(name, value, least)
    opened = open_source(source)
    need = num_batches * batch_size * seq_len
    ids = _take(_token_stream(opened, tokenizer), need)
    _check_enough(len(ids), need, opened.name, seq_len, batch_size, num_batches)
    _check_vocabulary(ids, vocab_size, opened.name)
    blocks = torch.from_numpy(ids).view(num_batches, batch_size, seq_len)
    batches = tuple(Batch(block.clone(), block.clone()) for block in blocks)
    return TokenBatches(batches, opened.name, seq_len, batch_size)


@dataclass(frozen=True)
class TokenBlocks:
    """Consecutive blocks of a stream, what a training run goes through.

    Attributes:
        ids: (N, T) int64 on the CPU.
        source: Where they came from.
    """

    ids: torch.Tensor
    source: str

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        block = self.ids[index]
        return {"input_ids": block, "labels": block}

    @property
    def sha256(self) -> str:
        """Hash of the shape and the token ids."""
        digest = hashlib.sha256(str(tuple(self.ids.shape)).encode())
        digest.update(self.ids.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def split(self, count: int) -> tuple[TokenBlocks, TokenBlocks]:
        """Return the first `count` blocks and the rest."""
        return (
            TokenBlocks(self.ids[:count], self.source),
            TokenBlocks(self.ids[count:], self.source),
        )

    def metadata(self) -> dict[str, Any]:
        """Return what a run's file says about its data."""
        blocks, seq_len = self.ids.shape
        return {
            "source": self.source,
            "sha256": self.sha256,
            "seq_len": seq_len,
            "blocks": blocks,
        }


def token_blocks(
    source: str | Path,
    tokenizer: Any = None,
    *,
    seq_len: int = 512,
    max_blocks: int | None = None,
    vocab_size: int | None = None,
) -> TokenBlocks:
    """Return the first `max_blocks` blocks of `seq_len` tokens, or as many as there are.

    Args:
        source: See `spectra.data.sources`.
        tokenizer: A transformers tokenizer; may be None where the source holds token ids.
        seq_len: Tokens in a block, at least 2.
        max_blocks: No more text than for so many blocks is read; None for all of it.
        vocab_size: Rows of the model's embedding; ids beyond it are refused.

    Raises:
        UsageError: If a size is out of range.
        DataError: If the source is unreadable, shorter than one block, or holds token ids outside
            the vocabulary.
    """
    _check_size("seq_len", seq_len, 2)
    if max_blocks is not None:
        _check_size("max_blocks", max_blocks, 1)
    opened = open_source(source)
    need = None if max_blocks is None else max_blocks * seq_len
    ids = _take(_token_stream(opened, tokenizer), need)
    count = len(ids) // seq_len
    if count == 0:
        _check_enough(len(ids), seq_len, opened.name, seq_len, 1, 1)
    ids = ids[: count * seq_len]
    _check_vocabulary(ids, vocab_size, opened.name)
    return TokenBlocks(torch.from_numpy(ids).view(count, seq_len), opened.name)


def _check_size(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UsageError(f"{name}={value!r} is not a whole number; pass at least {least}.")
    if value < least:
        raise UsageError(f"{name}={value} is too small; pass at least {least}.")


def _token_stream(source: Source, tokenizer: Any) -> Iterator[NDArray[np.int64]]:
    separator = getattr(tokenizer, "eos_token_id", None)
    begun = False
    for document in source.documents:
        fresh = True
        for piece in document:
            if len(piece) == 0:
                continue
            if fresh and begun and separator is not None:
                yield np.array([separator], dtype=np.int64)
            fresh, begun = False, True
            yield piece if not isinstance(piece, str) else _tokenize(piece, tokenizer, source.name)


def _tokenize(text: str, tokenizer: Any, name: str) -> NDArray[np.int64]:
    if tokenizer is None:
        raise DataError(
            f"data={name!r} is text and the checkpoint has no tokenizer; pass --tokenizer, or "
            "token ids as .npy or .jsonl with `input_ids`."
        )
    try:
        encoded = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.asarray(encoded, dtype=np.int64)
    except Exception as error:  # each tokenizer has its own way to fail
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise DataError(
            f"data={name!r}: the tokenizer cannot read it ({reason[0]}); pass another with "
            "--tokenizer."
        ) from None


def _take(stream: Iterator[NDArray[np.int64]], need: int | None) -> NDArray[np.int64]:
    pieces, have = [np.empty(0, dtype=np.int64)], 0
    for piece in stream:
        pieces.append(piece)
        have += len(piece)
        if need is not None and have >= need:
            break
    return np.concatenate(pieces)[:need]


def _check_enough(
    have: int, need: int, name: str, seq_len: int, batch_size: int, num_batches: int
) -> None:
    if have >= need:
        return
    if have < seq_len:
        raise DataError(
            f"{name} holds {have:,} tokens, fewer than one block of seq_len={seq_len}; pass longer "
            "text or a smaller seq_len."
        )
    fit = have // (seq_len * batch_size)
    cure = f"num_batches={fit}" if fit else f"batch_size={have // seq_len} and num_batches=1"
    raise DataError(
        f"{name} holds {have:,} tokens, but num_batches={num_batches} × batch_size={batch_size} × "
        f"seq_len={seq_len} needs {need:,}; pass longer text, or at most {cure}."
    )


def _check_vocabulary(ids: NDArray[np.int64], vocab_size: int | None, name: str) -> None:
    low, high = int(ids.min()), int(ids.max())
    if low < 0:
        raise DataError(f"{name} holds the token id {low}; ids are not negative.")
    if vocab_size is not None and high >= vocab_size:
        raise DataError(
            f"{name} holds the token id {high}, outside the model's vocabulary (0 to "
            f"{vocab_size - 1:,}); use the checkpoint's own tokenizer."
        )
