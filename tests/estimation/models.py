"""A tiny random Llama on disk and batches of random token ids for it."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB = 32


def small_llama(*, hidden=8, intermediate=12, layers=2, seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config)


def random_llama(directory):
    small_llama().save_pretrained(directory)
    return directory


def token_file(path, *, tokens=2048, vocab=VOCAB, seed=0):
    ids = np.random.default_rng(seed).integers(0, vocab, tokens)
    np.save(path, ids)
    return path
