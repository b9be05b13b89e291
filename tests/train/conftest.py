from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from spectra.train import DEFAULTS, TrainRequest

VOCAB, WIDTH, SEQ_LEN = 48, 16, 12


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama on disk, without a tokenizer."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token ids with something to learn: each follows from the one before, but for noise."""
    rng = np.random.default_rng(0)
    ids = [0]
    for _ in range(6000):
        ids.append((5 * ids[-1] + 7) % VOCAB if rng.random() < 0.8 else int(rng.integers(VOCAB)))
    path = tmp_path_factory.mktemp("data") / "ids.npy"
    np.save(path, np.array(ids, dtype=np.int64))
    return path


Ask = Callable[..., tuple[TrainRequest, Any]]


@pytest.fixture
def ask(model_dir: Path, tokens: Path, tmp_path: Path) -> Ask:
    """Return request and arguments of a short run; keywords go to whichever has the field."""

    def make(output: str = "run", **options: Any) -> tuple[TrainRequest, Any]:
        own = {
            "model": str(model_dir),
            "data": str(tokens),
            "seq_len": SEQ_LEN,
            "eval_blocks": 4,
            "w_bits": 2,
        }
        names = TrainRequest.__dataclass_fields__
        own |= {key: value for key, value in options.items() if key in names}
        others = {key: value for key, value in options.items() if key not in names}
        arguments: dict[str, Any] = DEFAULTS | {
            "output_dir": str(tmp_path / output),
            "max_steps": 8,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 4,
            "logging_steps": 2,
            "save_steps": 4,
            "eval_steps": 4,
            "use_cpu": True,
            "report_to": "none",
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
        }
        return TrainRequest(**own), TrainingArguments(**(arguments | others))

    return make
