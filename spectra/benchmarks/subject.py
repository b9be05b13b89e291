"""What a benchmark runs on: a checkpoint, or a Llama or GPT-2 of any size with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from spectra.checkpoint import load_checkpoint
from spectra.data import Batch, token_batches
from spectra.errors import UsageError, nearest

SHAPES: dict[str, dict[str, int]] = {
    "llama-5m": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 5,
                 "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096},
    "llama-20m": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6,
                  "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096},
    "llama-2m-deep": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 12,
                      "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 256},
    "gpt2-5m": {"n_embd": 256, "n_layer": 6, "n_head": 8, "vocab_size": 4096},
    "llama-3.2-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode and token batches."""

    name: str
    model: Any
    batches: tuple[Batch, ...]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(iter(self.model.parameters())).device
        return device


def load(
    name: str,
    *,
    seq_len: int,
    batch_size: int,
    num_batches: int = 1,
    device: str = "auto",
    dtype: str = "float32",
) -> Subject:
    """Return a checkpoint on the built-in text, or a shape of `SHAPES` on random tokens.

    Raises:
        UsageError: If the name is neither.
    """
    if name in SHAPES:
        return _random(name, seq_len, batch_size, num_batches, device, dtype)
    if name.startswith(("llama-", "gpt2-")):
        raise UsageError(
            f"model={name!r} is not a shape{nearest(name, SHAPES)}; pass one of "
            f"{', '.join(SHAPES)}, or a checkpoint."
        )
    found = load_checkpoint(name, device=device, dtype=dtype)
    data = token_batches(
        "stdlib", found.tokenizer, seq_len=seq_len, batch_size=batch_size, num_batches=num_batches
    )
    return Subject(name, found.model, tuple(data))


def _random(
    name: str, seq_len: int, batch_size: int, num_batches: int, device: str, dtype: str
) -> Subject:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    shape, longest = SHAPES[name], max(seq_len, 2048)
    place = "cuda" if device == "auto" and torch.cuda.is_available() else device
    torch.manual_seed(0)
    with torch.device("cpu" if place == "auto" else place):
        model: Any
        if "n_embd" in shape:
            model = GPT2LMHeadModel(GPT2Config(**shape, n_positions=longest))
        else:
            model = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=longest))
        model = model.to(getattr(torch, dtype)).eval()
    drawn = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(num_batches):
        ids = torch.randint(shape["vocab_size"], (batch_size, seq_len), generator=drawn)
        batches.append(Batch(ids, ids.clone()))
    return Subject(name, model, tuple(batches))
