"""Sequences drawn from a float model: what they are, and that a file goes on where it ended."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spectra.checkpoint import Checkpoint, load_checkpoint
from spectra.data import token_blocks
from spectra.errors import UsageError
from spectra.train.sampling import SampleRequest, sample, sequences, settings_path
from tests.train.conftest import VOCAB


@pytest.fixture(scope="module")
def checkpoint(model_dir: Path) -> Checkpoint:
    return load_checkpoint(model_dir, device="cpu")


@pytest.fixture
def request_(model_dir: Path, tmp_path: Path) -> SampleRequest:
    output = str(tmp_path / "new" / "samples.jsonl")
    return SampleRequest(
        model=str(model_dir), output=output, seq_len=9, batch_size=10, num_sequences=25
    )


def lines(request: SampleRequest) -> list[list[int]]:
    text = Path(request.output).read_text()
    return [json.loads(line)["input_ids"] for line in text.splitlines()]


def next_logits(checkpoint: Checkpoint, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = checkpoint.model(input_ids=torch.tensor([ids])).logits[0, -1]
    return found.double()


def test_sequences_start_with_every_token_and_the_likeliest_follow(
    checkpoint: Checkpoint, request_: SampleRequest
) -> None:
    request = replace(request_, num_sequences=2 * VOCAB + 3, batch_size=32)
    count, tokens = sample(request, checkpoint, show=False)
    found = lines(request)
    assert (len(found), count) == (2 * VOCAB + 3, len(found))
    assert tokens == sum(map(len, found))
    assert [ids[0] for ids in found] == [k % VOCAB for k in range(len(found))]
    for k, ids in enumerate(found):
        for t in range(1, min(3 + k // VOCAB, len(ids))):
            assert ids[t] == int(next_logits(checkpoint, ids[:t]).argmax())


def test_the_rest_is_drawn_from_the_model_by_inversion(checkpoint: Checkpoint) -> None:
    u = np.random.default_rng(0).random((4, 6))
    first, greedy = torch.tensor([3, 7, 11, 5]), torch.tensor([3, 3, 4, 5])
    for row, ids in enumerate(sequences(checkpoint.model, first, greedy, u)):
        assert len(ids) == 6
        for t in range(int(greedy[row]), 6):
            cumulative = next_logits(checkpoint, ids[:t]).softmax(-1).cumsum(-1)
            low = float(cumulative[ids[t] - 1]) if ids[t] else 0.0
            assert low - 1e-6 <= u[row, t] <= float(cumulative[ids[t]]) + 1e-6


def test_draws_have_the_model_s_frequencies(checkpoint: Checkpoint) -> None:
    count = 4000
    u = np.random.default_rng(1).random((count, 2))
    first, never = torch.full((count,), 5), torch.ones(count)
    drawn = torch.tensor([ids[1] for ids in sequences(checkpoint.model, first, never, u)])
    p = next_logits(checkpoint, [5]).softmax(-1)
    expected = count * p
    chi = float(((torch.bincount(drawn, minlength=VOCAB) - expected) ** 2 / expected).sum())
    assert chi < VOCAB - 1 + 5 * (2 * (VOCAB - 1)) ** 0.5
    few = torch.tensor([i[1] for i in sequences(checkpoint.model, first, never, u, top_k=3)])
    assert set(few.tolist()) == set(p.topk(3).indices.tolist())


def test_a_sequence_ends_before_the_token_that_ends_texts(checkpoint: Checkpoint) -> None:
    u = np.random.default_rng(2).random((40, 9))
    first, greedy = torch.arange(40) + 4, torch.full((40,), 3)
    free = list(sequences(checkpoint.model, first, greedy, u))
    stop = free[0][4]
    stopped = list(sequences(checkpoint.model, first, greedy, u, stops=frozenset((stop,))))
    for whole, cut in zip(free, stopped, strict=True):
        inside = [t for t in range(1, 9) if whole[t] == stop]
        assert cut == (whole[: inside[0]] if inside else whole)
    assert len(stopped[0]) <= 4


@pytest.mark.parametrize("kept", [0, 3, 10, 14, 20, 25])
def test_an_interrupted_file_goes_on_to_the_same_bytes(
    checkpoint: Checkpoint, request_: SampleRequest, kept: int
) -> None:
    sample(request_, checkpoint, show=False)
    whole = Path(request_.output).read_bytes()
    parts = whole.splitlines(keepends=True)
    half = parts[kept][: len(parts[kept]) // 2] if kept < len(parts) else b""
    Path(request_.output).write_bytes(b"".join(parts[:kept]) + half)
    sample(replace(request_, resume=True), checkpoint, show=False)
    assert Path(request_.output).read_bytes() == whole


def test_seeds_differ_and_a_seed_is_the_same(
    checkpoint: Checkpoint, request_: SampleRequest
) -> None:
    found = []
    for seed in (0, 0, 1):
        sample(replace(request_, seed=seed, overwrite=True), checkpoint, show=False)
        found.append(lines(request_))
    assert found[0] == found[1] != found[2]


def test_blocks_of_training_are_read_from_it(
    checkpoint: Checkpoint, request_: SampleRequest
) -> None:
    sample(request_, checkpoint, show=False)
    blocks = token_blocks(request_.output, None, seq_len=8, vocab_size=VOCAB)
    flat = [token for ids in lines(request_) for token in ids]
    assert blocks.ids[:4].reshape(-1).tolist() == flat[:32]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seq_len": 1}, "seq_len=1 is not possible"),
        ({"seq_len": 33}, "pass 2 to 32"),
        ({"num_sequences": 0}, "num_sequences=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"top_k": 0}, "top_k=0"),
        ({"seed": -1}, "seed=-1"),
        ({"output": "x.txt"}, "is to be a .jsonl file"),
        ({"resume": True, "overwrite": True}, "contradict"),
    ],
)
def test_wrong_numbers_are_told_in_one_sentence(
    checkpoint: Checkpoint, request_: SampleRequest, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        sample(replace(request_, **change), checkpoint, show=False)
    assert "\n" not in str(caught.value)


def test_a_file_is_neither_overwritten_nor_mixed(
    checkpoint: Checkpoint, request_: SampleRequest, model_dir: Path
) -> None:
    sample(request_, checkpoint, show=False)
    with pytest.raises(UsageError, match="--resume to go on"):
        sample(request_, checkpoint, show=False)
    with pytest.raises(UsageError, match="made with seed=0, and seed=1"):
        sample(replace(request_, resume=True, seed=1), checkpoint, show=False)
    settings_path(Path(request_.output)).unlink()
    with pytest.raises(UsageError, match=r"samples.settings.json, which says how"):
        sample(replace(request_, resume=True), checkpoint, show=False)
    quantized = load_checkpoint(model_dir, device="cpu", w_bits=2)
    with pytest.raises(UsageError, match="is quantized, and the text"):
        sample(replace(request_, overwrite=True), quantized, show=False)
