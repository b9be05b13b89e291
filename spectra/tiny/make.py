"""Train the built-in model: `python -m spectra.tiny.make --output spectra/tiny/model`.

A Llama architecture of about one million parameters and a byte-level BPE tokenizer, both trained
on the training part of the `stdlib` corpus (spectra.data.stdlib): AdamW, linear warm-up, cosine
decay to zero. The held-out loss is measured on the held-out part and stands beside the entropy of
the unigram distribution of the same tokens, the loss of a model that ignores all context. Both go
into `figures.json` beside the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectra.data import stdlib

END = "<|endoftext|>"


def train_tokenizer(vocab_size: int) -> Any:
    """Return a byte-level BPE tokenizer with `vocab_size` entries, trained on the training part."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stdlib.documents("train"), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, bos_token=END, clean_up_tokenization_spaces=False
    )


def encode(tokenizer: Any, part: str) -> NDArray[np.int64]:
    """Return the whole of `part` as one stream of token ids, documents joined by the end token."""
    pieces: list[int] = []
    for document in stdlib.documents(part):
        pieces += tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        pieces.append(tokenizer.eos_token_id)
    return np.asarray(pieces, dtype=np.int64)


def build_model(vocab_size: int, end_id: int, seq_len: int, seed: int) -> Any:
    """Return the untrained model: Llama, hidden 128, 4 layers, 4 heads, tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=seq_len,
        tie_word_embeddings=True,
        bos_token_id=end_id,
        eos_token_id=end_id,
        rope_theta=10000.0,
    )
    return LlamaForCausalLM(config)


def unigram_entropy(train: NDArray[np.int64], heldout: NDArray[np.int64], vocab_size: int) -> float:
    """Return the held-out cross-entropy (nats) of the add-one unigram model of `train`."""
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    return float(-np.log(counts / counts.sum())[heldout].mean())


@torch.no_grad()
def heldout_loss(model: Any, ids: NDArray[np.int64], seq_len: int, blocks: int) -> float:
    """Return the mean loss (nats a token) over the first `blocks` blocks of `ids`."""
    model.eval()
    rows = torch.from_numpy(ids[: blocks * seq_len]).view(blocks, seq_len)
    losses = [float(model(input_ids=chunk, labels=chunk).loss) for chunk in rows.split(16)]
    model.train()
    return sum(losses) / len(losses)


def train(model: Any, ids: NDArray[np.int64], heldout: NDArray[np.int64], args: Any) -> None:
    """Train `model` in place on random blocks of `ids`."""
    from tqdm import trange

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=args.weight_decay
    )

    def rate(step: int) -> float:
        warm: float = min(1.0, (step + 1) / args.warmup)
        return warm * 0.5 * (1 + math.cos(math.pi * step / int(args.steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    generator = np.random.default_rng(args.seed)
    bar = trange(args.steps, desc="train tiny")
    for step in bar:
        starts = generator.integers(0, len(ids) - args.seq_len, size=args.batch_size)
        block = torch.from_numpy(np.stack([ids[s : s + args.seq_len] for s in starts]))
        loss = model(input_ids=block, labels=block).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 500 == 499:
            held = heldout_loss(model, heldout, args.seq_len, 64)
            bar.write(f"step {step + 1}: train {loss.item():.4f}, held-out {held:.4f}")


def main(argv: list[str] | None = None) -> None:
    """Train tokenizer and model and write them, with their figures, to `--output`."""
    parser = argparse.ArgumentParser(prog="python -m spectra.tiny.make", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vocab_size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seq_len", type=int, default=256)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--weight_decay", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    start = time.time()
    tokenizer = train_tokenizer(args.vocab_size)
    ids, heldout = encode(tokenizer, "train"), encode(tokenizer, "heldout")
    model = build_model(args.vocab_size, tokenizer.eos_token_id, args.seq_len, args.seed)
    train(model, ids, heldout, args)
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_tokens": len(ids),
        "heldout_tokens": len(heldout),
        "heldout_loss": heldout_loss(model, heldout, args.seq_len, len(heldout) // args.seq_len),
        "heldout_unigram_entropy": unigram_entropy(ids, heldout, args.vocab_size),
        "uniform_entropy": math.log(args.vocab_size),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "minutes": round((time.time() - start) / 60, 1),
        "command": {key: str(value) for key, value in vars(args).items() if key != "output"},
    }
    model.eval()
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    (args.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
