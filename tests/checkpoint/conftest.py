"""Small random checkpoints on disk, each written by transformers itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoint.saved import build, save_tokenizer


@pytest.fixture(scope="session")
def _original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("llama")
    build().save_pretrained(place)
    save_tokenizer(place)
    return place


@pytest.fixture
def llama(_original: Path, tmp_path: Path) -> Path:
    """A fresh copy of a tied Llama checkpoint with a tokenizer, to be damaged at will."""
    return Path(shutil.copytree(_original, tmp_path / "llama"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The same model in several shards with an index."""
    place = tmp_path / "sharded"
    build().save_pretrained(place, max_shard_size="5KB")
    assert len(list(place.glob("model-*.safetensors"))) > 2
    return place


@pytest.fixture
def change() -> Callable[..., None]:
    """Rewrite the weights or the configuration of a checkpoint directory."""

    def rewrite(
        directory: Path,
        tensors: Callable[[dict[str, torch.Tensor]], Any] | None = None,
        **config: Any,
    ) -> None:
        if tensors is not None:
            file = directory / "model.safetensors"
            state = load_file(file)
            tensors(state)
            save_file(state, file, metadata={"format": "pt"})
        if config:
            file = directory / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | config))

    return rewrite
