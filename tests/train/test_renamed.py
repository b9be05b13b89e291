"""Families whose parameters transformers renames on saving: every tensor is resumed and loaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPTNeoXConfig, NemotronHConfig

import spectra
from spectra.checkpoint.renaming import load_state, module_names
from spectra.errors import CheckpointError
from spectra.train import train
from tests.train.conftest import VOCAB, Ask
from tests.train.weights import same, weights

COMMON = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": VOCAB}
FAMILIES: dict[str, Any] = {
    "gpt_neox": lambda: GPTNeoXConfig(
        **COMMON, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32
    ),
    "nemotron_h": lambda: NemotronHConfig(
        **COMMON,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        mamba_num_heads=4,
        mamba_head_dim=16,
        ssm_state_size=16,
        n_groups=1,
        num_hidden_layers=2,
        layers_block_type=["attention", "mlp"],
    ),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    AutoModelForCausalLM.from_config(FAMILIES[request.param]()).save_pretrained(path)
    return path


def test_a_resumed_run_goes_on_from_its_checkpoint(ask: Ask, family: Path) -> None:
    options: dict[str, Any] = {"model": str(family), "max_steps": 4, "save_steps": 2}
    whole = train(*ask("whole", **options))
    request, arguments = ask("parts", **options)
    train(request, arguments)
    shutil.rmtree(arguments.output_dir + "/checkpoint-4")
    (Path(arguments.output_dir) / "spectra_training.json").unlink()
    resumed = train(replace(request, resume=True), ask("parts", **options)[1])
    assert same(weights(whole.output), weights(resumed.output))
    assert not same(weights(whole.output / "checkpoint-2"), weights(whole.output / "checkpoint-4"))
    assert whole.final == resumed.final
    found = spectra.load_checkpoint(whole.output / "checkpoint-4", device="cpu")
    assert found.qat is not None
    assert found.qat.scales == "stored"
    stored = load_file(whole.output / "checkpoint-4" / "model.safetensors")
    held = found.model.state_dict()
    for name, tensor in stored.items():
        assert torch.equal(tensor, held[name]), name


def test_scales_under_the_names_of_the_first_release_are_read(ask: Ask, family: Path) -> None:
    """A Trainer of one's own saves them so."""
    run = train(*ask("own", model=str(family), max_steps=2, save_steps=2)).output / "checkpoint-2"
    ours = spectra.load_checkpoint(run, device="cpu")
    plain = ours.model.save_pretrained(run / "first")  # with the names of the first release
    assert plain is None
    for path in run.glob("*.json"):
        if not (run / "first" / path.name).exists():
            shutil.copy(path, run / "first")
    names = set(load_file(run / "first" / "model.safetensors"))
    theirs = spectra.load_checkpoint(run / "first", device="cpu")
    assert theirs.qat is not None
    assert theirs.qat.spec == ours.qat.spec
    assert same(theirs.model.state_dict(), ours.model.state_dict())
    own = set(ours.model.state_dict())
    assert {module_names(ours.model)(name) for name in names} <= own


def test_a_tensor_without_a_place_and_a_parameter_without_a_tensor_are_refused(
    family: Path, tmp_path: Path
) -> None:
    model = spectra.load_checkpoint(family, device="cpu").model
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_state(model, state, "here")
    first = next(iter(state))
    with pytest.raises(CheckpointError, match="lacks 1 of the model's tensors"):
        load_state(model, {n: t for n, t in state.items() if n != first}, "here")
    with pytest.raises(CheckpointError, match="1 tensors that the model has no place for"):
        load_state(model, state | {"strange.weight": torch.zeros(2)}, "here")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_state(model, state | {first: torch.zeros(1, 1, 1)}, "here")
    save_file(state, tmp_path / "state.safetensors")
    load_state(model, load_file(family / "model.safetensors"), "here")
