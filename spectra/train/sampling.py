"""Text sampled from a language model, to train a quantized one without any data of its own.

As in LLM-QAT (arXiv 2305.17888, section 3.1): sequence k starts with token k mod V of the
vocabulary, so that each is a beginning; the next tokens are the likeliest ones until the sequence
has 3, 4 or 5 (3 + (k div V) mod 3), which keeps it on a track that means something; all others are
drawn from the model's distribution, until the end-of-text token or `seq_len`.

The draw for position t of sequence k is by inversion, the first token whose cumulative probability
exceeds u_kt, with u_k from a generator of its own, SeedSequence([seed, k]). Logits depend on the
batch in their last digits, so sequences are made in fixed batches; a file holds whole batches, one
sequence a line, each batch written through to the disk, and a run that was interrupted makes the
rest: the same bytes as without the interruption.

Token ids are written, not text: the student sees exactly what the teacher drew, and tokenizing the
text again would not give the same ids.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from spectra.checkpoint import Checkpoint
from spectra.errors import UsageError
from spectra.record.jsonfile import read_json

GREEDY = (3, 4, 5)  # lengths up to which tokens are the likeliest ones
PUBLIC_LENGTH = 2048


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class SampleRequest:
    """What is sampled, and to where."""

    model: str = _option("tiny", "A float model: 'tiny', a hub id, a directory, or a GGUF file.")
    output: str = _option("samples.jsonl", "File of the sequences, .jsonl.")
    num_sequences: int | None = _option(None, "Sequences (one for each token of the vocabulary).")
    seq_len: int | None = _option(
        None, "Tokens of a sequence at most (2048, or what the model was built for)."
    )
    batch_size: int = _option(64, "Sequences made at a time; they depend on it in rare ties.")
    top_k: int | None = _option(
        None, "Draw from the likeliest tokens only; the public code's generator takes 50 (all)."
    )
    seed: int = _option(0, "Of the draws.")
    device: str = _option("auto", "cpu, cuda, cuda:1, mps, or auto.")
    revision: str | None = _option(None, "Branch, tag or commit of a hub id.")
    trust_remote_code: bool = _option(False, "Run code that a checkpoint brings along.")
    resume: bool = _option(False, "Go on with --output.")
    overwrite: bool = _option(False, "Begin --output anew.")


def settings_path(output: Path) -> Path:
    """Return the file beside `output` that says how it was made."""
    return output.with_suffix(".settings.json")


def sample(request: SampleRequest, checkpoint: Checkpoint, *, show: bool = True) -> tuple[int, int]:
    """Write the sequences to `request.output`; return how many there are, and their tokens.

    Args:
        request: What to sample.
        checkpoint: The loaded model.
        show: Whether there is a progress bar.

    Raises:
        UsageError: If a number is out of range, the model is quantized, or the file is there and
            was made otherwise, or neither `resume` nor `overwrite` is asked.
    """
    if checkpoint.qat is not None:
        raise UsageError(
            f"model={request.model!r} is quantized, and the text is to come from a float model; "
            "pass the one it was made from."
        )
    model: Any = checkpoint.model
    vocab = int(model.get_input_embeddings().num_embeddings)
    longest = getattr(model.config, "max_position_embeddings", None) or PUBLIC_LENGTH
    total = vocab if request.num_sequences is None else request.num_sequences
    seq_len = min(PUBLIC_LENGTH, longest) if request.seq_len is None else request.seq_len
    _check(request, total, seq_len, longest)
    output = Path(request.output).expanduser()
    settings = {
        key: value
        for key, value in asdict(request).items()
        if key in ("batch_size", "top_k", "seed")
    } | {"num_sequences": total, "seq_len": seq_len, "model_sha256": checkpoint.meta.sha256}
    done = _begin(request, output, settings)
    stops = _stops(model, checkpoint.tokenizer)
    bar = tqdm(total=total, initial=done, unit="sequence", disable=None if show else True)
    with output.open("a", encoding="utf-8") as handle, bar:
        for start in range(done, total, request.batch_size):
            numbers = range(start, min(start + request.batch_size, total))
            uniforms = np.stack([_uniforms(request.seed, k, seq_len) for k in numbers])
            for ids in sequences(
                model,
                torch.tensor([k % vocab for k in numbers]),
                torch.tensor([GREEDY[k // vocab % len(GREEDY)] for k in numbers]),
                uniforms,
                stops=stops,
                top_k=request.top_k,
            ):
                handle.write(json.dumps({"input_ids": ids}) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
            bar.update(len(numbers))
    with output.open(encoding="utf-8") as handle:
        return total, sum(len(json.loads(line)["input_ids"]) for line in handle)


@torch.no_grad()
def sequences(
    model: Any,
    first: torch.Tensor,
    greedy: torch.Tensor,
    uniforms: NDArray[np.float64],
    *,
    stops: frozenset[int] = frozenset(),
    top_k: int | None = None,
) -> Iterator[list[int]]:
    """Yield one sequence of token ids for each row.

    Args:
        model: A causal language model, in evaluation mode.
        first: First tokens, (B,).
        greedy: Lengths up to which tokens are the likeliest, (B,).
        uniforms: Numbers in [0, 1), (B, T); the one at t draws token t.
        stops: Tokens that end a sequence; they are not part of it.
        top_k: Tokens to draw from; None for all.
    """
    device = next(model.parameters()).device
    draws = torch.from_numpy(uniforms)
    made, cache = first[:, None], None
    ended = torch.zeros(len(first), dtype=torch.bool)
    lengths = torch.full((len(first),), uniforms.shape[1])
    for t in range(1, uniforms.shape[1]):
        found = model(input_ids=made[:, -1:].to(device), past_key_values=cache, use_cache=True)
        cache, logits = found.past_key_values, found.logits[:, -1].double().cpu()
        token = torch.where(t < greedy, logits.argmax(dim=-1), _draw(logits, draws[:, t], top_k))
        stopped = torch.isin(token, torch.tensor(sorted(stops), dtype=token.dtype)) & ~ended
        lengths[stopped] = t
        ended |= stopped
        if bool(ended.all()):
            break
        made = torch.cat((made, token[:, None]), dim=1)
    for row, length in zip(made.tolist(), lengths.tolist(), strict=True):
        yield row[:length]


def _draw(logits: torch.Tensor, u: torch.Tensor, top_k: int | None) -> torch.Tensor:
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    # Scaled by the last entry, which rounding leaves beside 1: no draw falls beyond it.
    return torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True)[:, 0]


def _uniforms(seed: int, k: int, length: int) -> NDArray[np.float64]:
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, k])))
    return generator.random(length)


def _stops(model: Any, tokenizer: Any) -> frozenset[int]:
    found = getattr(tokenizer, "eos_token_id", None)
    if found is None:
        found = getattr(model.config, "eos_token_id", None)
    if found is None:
        return frozenset()
    return frozenset(found) if isinstance(found, list | tuple) else frozenset((int(found),))


def _check(request: SampleRequest, total: int, seq_len: int, longest: int) -> None:
    for name, value in (
        ("num_sequences", total),
        ("batch_size", request.batch_size),
        ("top_k", request.top_k),
    ):
        if value is not None and value < 1:
            raise UsageError(f"{name}={value} is too small; pass at least 1.")
    if not 1 < seq_len <= longest:
        raise UsageError(
            f"seq_len={seq_len} is not possible here; pass 2 to {longest}, the number of positions "
            "that this model was built for."
        )
    if not 0 <= request.seed < 1 << 32:
        raise UsageError(f"seed={request.seed} is out of range; pass an integer from 0 to 2³² − 1.")
    if not request.output.endswith(".jsonl"):
        raise UsageError(f"output={request.output!r} is to be a .jsonl file; name one.")


def _begin(request: SampleRequest, output: Path, settings: dict[str, Any]) -> int:
    """Make `output` hold whole batches, and return how many sequences these are."""
    if request.resume and request.overwrite:
        raise UsageError("resume and overwrite contradict each other; pass one of them.")
    beside = settings_path(output)
    if output.exists() and not (request.resume or request.overwrite):
        raise UsageError(
            f"output={str(output)!r} exists; pass --resume to go on, --overwrite to begin anew, or "
            "another --output."
        )
    if request.resume and output.exists():
        return _go_on(output, beside, settings)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(b"")
        beside.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"output={str(output)!r} cannot be written: {error.strerror}; choose another."
        ) from None
    return 0


def _go_on(output: Path, beside: Path, settings: dict[str, Any]) -> int:
    try:
        then = dict(read_json(beside))
    except (OSError, ValueError, TypeError):
        raise UsageError(
            f"{beside}, which says how output={str(output)!r} was made, cannot be read; pass "
            "--overwrite to begin anew."
        ) from None
    for key, value in settings.items():
        if then.get(key) != value:
            raise UsageError(
                f"output={str(output)!r} was made with {key}={then.get(key)}, and {key}={value} is "
                "asked for now; pass the same, --overwrite, or another --output."
            )
    lines = output.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    done = len(whole)
    if done < settings["num_sequences"]:
        done -= done % settings["batch_size"]
    if len(lines) != done:
        with output.open("r+b") as handle:
            handle.truncate(sum(map(len, whole[:done])))
    return done
