"""Cutting: the blocks are the stream, in order, and nothing else; the hash is of the tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spectra.data import Batch, token_batches, token_blocks
from spectra.errors import DataError, UsageError


def ids_file(path: Path, ids: Any) -> Path:
    np.save(path, np.asarray(ids))
    return path


@pytest.mark.parametrize(
    ("seq_len", "batch_size", "num_batches"), [(2, 1, 5), (7, 3, 2), (5, 2, 1)]
)
def test_blocks_concatenate_to_the_head_of_the_stream(
    tmp_path: Path, seq_len: int, batch_size: int, num_batches: int
) -> None:
    stream = np.arange(100) * 3
    data = token_batches(
        ids_file(tmp_path / "ids.npy", stream),
        seq_len=seq_len,
        batch_size=batch_size,
        num_batches=num_batches,
    )
    assert len(data) == num_batches
    assert all(batch.input_ids.shape == (batch_size, seq_len) for batch in data)
    joined = torch.cat([batch.input_ids.reshape(-1) for batch in data]).numpy()
    np.testing.assert_array_equal(joined, stream[: len(joined)])
    for batch in data:
        assert batch.input_ids.dtype == torch.int64
        assert torch.equal(batch.input_ids, batch.labels)
        assert batch.input_ids.data_ptr() != batch.labels.data_ptr()
        assert batch.count == batch_size * (seq_len - 1)


def test_count_leaves_out_the_first_position_and_ignored_labels() -> None:
    labels = torch.tensor([[1, 2, -100, 4], [-100, -100, -100, 7]])
    assert Batch(torch.zeros_like(labels), labels).count == 3


def test_documents_are_joined_by_the_end_token_and_empty_ones_passed_over(
    tmp_path: Path, tokenizer: Any
) -> None:
    file = tmp_path / "docs.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in ["", "ab", "", "c", "de"]))
    data = token_batches(file, tokenizer, seq_len=7, num_batches=1)
    assert data[0].input_ids.tolist() == [[97, 98, 256, 99, 256, 100, 101]]


def test_without_an_end_token_documents_touch(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.eos_token_id = None
    file = tmp_path / "docs.jsonl"
    file.write_text('{"text": "ab"}\n{"text": "cd"}\n')
    data = token_batches(file, tokenizer, seq_len=4, num_batches=1)
    assert data[0].input_ids.tolist() == [[97, 98, 99, 100]]


def test_equal_tokens_have_equal_hashes_wherever_they_came_from(
    tmp_path: Path, tokenizer: Any
) -> None:
    (tmp_path / "a.txt").write_text("hello, world")
    (tmp_path / "b.jsonl").write_text(json.dumps({"input_ids": list(b"hello, world")}))
    kwargs: dict[str, Any] = {"seq_len": 6, "num_batches": 2}
    text = token_batches(tmp_path / "a.txt", tokenizer, **kwargs)
    ids = token_batches(tmp_path / "b.jsonl", **kwargs)
    assert text.sha256 == ids.sha256
    (tmp_path / "c.txt").write_text("hello, World")
    assert token_batches(tmp_path / "c.txt", tokenizer, **kwargs).sha256 != text.sha256


def test_hash_depends_on_the_cut_and_on_the_labels(tmp_path: Path) -> None:
    file = ids_file(tmp_path / "ids.npy", np.arange(12))
    one = token_batches(file, seq_len=6, num_batches=2)
    two = token_batches(file, seq_len=4, num_batches=3)
    assert one.sha256 != two.sha256
    before = one.sha256
    one[0].labels[0, 1] = -100
    assert one.sha256 != before


def test_slices_and_metadata(tmp_path: Path) -> None:
    file = ids_file(tmp_path / "ids.npy", np.arange(12))
    data = token_batches(file, seq_len=4, num_batches=3)
    part = data[1:]
    assert len(part) == 2
    assert torch.equal(part[0].input_ids, data[1].input_ids)
    assert json.loads(json.dumps(data.metadata())) == {
        "source": str(file),
        "sha256": data.sha256,
        "seq_len": 4,
        "batch_size": 1,
        "batches": 3,
    }


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("seq_len", 1, "seq_len=1 is too small; pass at least 2"),
        ("batch_size", 0, "batch_size=0 is too small"),
        ("num_batches", -1, "num_batches=-1 is too small"),
        ("seq_len", 2.5, "seq_len=2.5 is not a whole number"),
        ("num_batches", True, "num_batches=True is not a whole number"),
    ],
)
def test_sizes_out_of_range(tmp_path: Path, name: str, value: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        token_batches(ids_file(tmp_path / "i.npy", [1, 2]), **{name: value})


def test_too_short_for_one_block(tmp_path: Path) -> None:
    file = ids_file(tmp_path / "i.npy", np.arange(10))
    with pytest.raises(DataError, match=r"holds 10 tokens, fewer than one block of seq_len=11"):
        token_batches(file, seq_len=11)


@pytest.mark.parametrize(
    ("seq_len", "batch_size", "num_batches"), [(4, 1, 99), (4, 3, 99), (4, 50, 2), (33, 4, 1)]
)
def test_too_short_names_what_would_fit(
    tmp_path: Path, seq_len: int, batch_size: int, num_batches: int
) -> None:
    file = ids_file(tmp_path / "i.npy", np.arange(100))
    with pytest.raises(DataError, match="holds 100 tokens") as caught:
        token_batches(file, seq_len=seq_len, batch_size=batch_size, num_batches=num_batches)
    cure = str(caught.value).rstrip(".").split("at most ")[1].replace(" and ", ",")
    fits = {key: int(n) for key, n in (item.split("=") for item in cure.split(","))}
    sizes = {"seq_len": seq_len, "batch_size": batch_size, "num_batches": num_batches} | fits
    token_batches(file, **sizes)
    largest = "num_batches" if "batch_size" not in fits else "batch_size"
    sizes[largest] += 1
    with pytest.raises(DataError):
        token_batches(file, **sizes)


def test_ids_beyond_the_vocabulary(tmp_path: Path) -> None:
    file = ids_file(tmp_path / "i.npy", [0, 63, 64, 5000])
    with pytest.raises(DataError, match=r"token id 64, outside .* \(0 to 63\)"):
        token_batches(file, seq_len=3, num_batches=1, vocab_size=64)
    # Only what is used counts: the 5000 is beyond the block.
    token_batches(file, seq_len=3, num_batches=1, vocab_size=65)
    with pytest.raises(DataError, match="token id -1; ids are not negative"):
        token_batches(ids_file(tmp_path / "n.npy", [3, -1]), seq_len=2, num_batches=1)


def test_text_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="has no tokenizer; pass --tokenizer"):
        token_batches(tmp_path / "a.txt", None, seq_len=2, num_batches=1)


def test_training_blocks_are_the_same_stream(tmp_path: Path) -> None:
    file = ids_file(tmp_path / "ids.npy", np.arange(50))
    whole = token_blocks(file, seq_len=7)
    assert whole.ids.shape == (7, 7)  # the 50th token fills no block
    np.testing.assert_array_equal(whole.ids.reshape(-1).numpy(), np.arange(49))
    some = token_blocks(file, seq_len=7, max_blocks=3)
    assert torch.equal(some.ids, whole.ids[:3])
    assert some.sha256 != whole.sha256
    item = some[2]
    assert torch.equal(item["input_ids"], whole.ids[2])
    assert torch.equal(item["labels"], whole.ids[2])
    first, rest = whole.split(5)
    assert torch.equal(torch.cat([first.ids, rest.ids]), whole.ids)
    assert whole.metadata()["blocks"] == 7


def test_fewer_training_blocks_than_asked_are_taken_as_they_are(tmp_path: Path) -> None:
    file = ids_file(tmp_path / "ids.npy", np.arange(20))
    assert len(token_blocks(file, seq_len=6, max_blocks=100)) == 3


@pytest.mark.parametrize(
    ("options", "kind", "named"),
    [
        ({"seq_len": 1}, UsageError, "seq_len=1"),
        ({"seq_len": 4, "max_blocks": 0}, UsageError, "max_blocks=0"),
        ({"seq_len": 30}, DataError, "20 tokens, fewer than one block of seq_len=30"),
        ({"seq_len": 4, "vocab_size": 15}, DataError, "token id 19"),
    ],
)
def test_training_blocks_that_cannot_be(
    tmp_path: Path, options: dict[str, Any], kind: type[Exception], named: str
) -> None:
    file = ids_file(tmp_path / "ids.npy", np.arange(20))
    with pytest.raises(kind, match=named):
        token_blocks(file, **options)
