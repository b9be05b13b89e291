"""Block-AP and E2E-QP: what trains, toward what, how far below rounding, and interrupted."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spectra.checkpoint import load_checkpoint
from spectra.data import token_blocks
from spectra.errors import CheckpointError, UsageError
from spectra.quant import prepare, quant_layers, read_saved, spec
from spectra.train import reconstruction, train
from spectra.train.reconstruction import Settings, cosine, reconstruct
from spectra.train.streams import transformer_blocks
from tests.curvature.models import gpt2, llama
from tests.train.conftest import Ask
from tests.train.weights import same, weights

BLOCK: dict[str, Any] = {
    "recipe": "block-ap",
    "quantizer": "efficientqat",
    "calibration_blocks": 16,
    "max_steps": 6,
    "learning_rate": 3e-3,
    "quant_learning_rate": 3e-3,
}
HALF = Settings(weight_rate=3e-3, quant_rate=3e-3, epochs=2, max_steps=0, batch_size=3, seed=0)


def prepared(build: Any = llama, quantizer: str = "efficientqat") -> tuple[Any, Any, torch.Tensor]:
    """A float model, its quantized twin, and token ids (10, 6)."""
    model = build().float()
    plain = copy.deepcopy(model).eval()
    prepare(model, spec(quantizer, w_bits=2))
    ids = torch.randint(
        0, model.config.vocab_size, (10, 6), generator=torch.Generator().manual_seed(0)
    )
    return plain, model, ids


def outputs(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """What each transformer block gives in a forward of the whole model."""
    base = model.base_model
    blocks = base.h if hasattr(base, "h") else base.layers
    found: list[torch.Tensor] = []

    def take(_: Any, args: Any, out: Any) -> None:
        del args
        found.append(out[0] if isinstance(out, tuple) else out)

    handles = [block.register_forward_hook(take) for block in blocks]
    with torch.no_grad():
        model.eval()(input_ids=ids)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("quantizer", ["efficientqat", "paretoq"])
def test_each_block_comes_nearer_to_the_float_block_behind_quantized_ones(
    build: Any, quantizer: str
) -> None:
    plain, model, ids = prepared(build, quantizer)
    first = outputs(model, ids[:9])[0] - outputs(plain, ids[:9])[0]
    results = reconstruct(model, ids, HALF)  # nine of the ten: whole batches of three
    assert [r.steps for r in results] == [6] * len(transformer_blocks(model))
    pairs = zip(outputs(model, ids[:9]), outputs(plain, ids[:9]), strict=True)
    assert results[0].before == pytest.approx(float(first.square().mean()), rel=1e-4)
    for result, (ours, theirs) in zip(results, pairs, strict=True):
        assert result.after == pytest.approx(float((ours - theirs).square().mean()), rel=1e-4)
        assert result.after < 0.97 * result.before
    for layer in quant_layers(model).values():
        torch.testing.assert_close(layer.weight, layer.quantized_weight(), rtol=1e-6, atol=1e-8)
        if layer.zero is not None:
            assert set(layer.zero.unique().tolist()) <= {0, 1, 2, 3}
    linear = {f"{name}.weight" for name in quant_layers(model)}
    for name, parameter in plain.named_parameters():
        assert name in linear or torch.equal(parameter, model.get_parameter(name))
    assert all(p.requires_grad for p in model.parameters())


def test_each_rate_is_that_of_its_parameters() -> None:
    for frozen in ("weight_rate", "quant_rate"):
        _, model, ids = prepared()
        before = copy.deepcopy(quant_layers(model))
        reconstruct(model, ids, replace(HALF, **{frozen: 0.0}))
        for name, layer in quant_layers(model).items():
            same_steps = torch.equal(layer.scale, before[name].scale)
            assert same_steps == (frozen == "quant_rate")
            if frozen == "quant_rate":
                assert not torch.equal(layer.weight, before[name].weight)


def test_the_rates_fall_from_one_to_a_twentieth_by_a_cosine() -> None:
    assert cosine(0, 8) == 1
    assert cosine(4, 8) == pytest.approx((1 + 1 / 20) / 2)
    assert cosine(8, 8) == pytest.approx(1 / 20)


def test_less_text_than_a_batch_and_models_without_blocks_are_refused() -> None:
    _, model, ids = prepared()
    with pytest.raises(UsageError, match="per_device_train_batch_size=3 is more than the blocks"):
        reconstruct(model, ids[:2], HALF)
    plain = torch.nn.Sequential(torch.nn.Linear(4, 4))
    prepare(plain, spec("rtn", w_bits=4))
    with pytest.raises(UsageError, match="Sequential has no single list of transformer blocks"):
        transformer_blocks(plain)


def test_a_run_of_blocks_leaves_what_any_run_leaves(ask: Ask) -> None:
    result = train(*ask(**BLOCK))
    assert result.step == 12
    saved = read_saved(result.output)
    assert saved is not None
    assert (saved.method, saved.step) == ("block-ap", 12)
    assert saved.recipe["quant_learning_rate"] == 3e-3
    entries = [entry for entry in result.log_history if "block" in entry]
    assert [entry["block"] for entry in entries] == [0, 1]
    assert all(entry["error_after"] < entry["error_before"] for entry in entries)
    assert result.weights["quant_error_ratio"] < 1e-6
    loaded = load_checkpoint(result.output, device="cpu")
    assert loaded.qat is not None
    assert (loaded.qat.spec, loaded.qat.scales) == (spec("efficientqat", w_bits=2), "stored")
    stored = weights(result.output)
    for name, layer in quant_layers(loaded.model).items():
        assert layer.scale is not None
        assert layer.zero is not None
        assert torch.equal(layer.scale, stored[f"{name}.scale"])
        assert torch.equal(layer.zero, stored[f"{name}.zero"])


def test_an_interrupted_run_goes_on_with_the_next_block_bit_for_bit(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(*ask("whole", **BLOCK))
    keep, run = reconstruction._train, reconstruction._train

    def stop(runner: Any, index: int, *rest: Any) -> Any:
        if index == 1:
            raise KeyboardInterrupt
        return keep(runner, index, *rest)

    monkeypatch.setattr(reconstruction, "_train", stop)
    with pytest.raises(KeyboardInterrupt):
        train(*ask("cut", **BLOCK))
    trained: list[int] = []

    def count(runner: Any, index: int, *rest: Any) -> Any:
        trained.append(index)
        return run(runner, index, *rest)

    monkeypatch.setattr(reconstruction, "_train", count)
    with pytest.raises(UsageError, match="holds 1 trained blocks; pass --resume"):
        train(*ask("cut", **BLOCK))
    with pytest.raises(UsageError, match=r"with quant_learning_rate=0\.003, and quant_le"):
        train(*ask("cut", **BLOCK | {"quant_learning_rate": 1e-3}, resume=True))
    again = train(*ask("cut", **BLOCK, resume=True))
    assert trained == [1]
    assert again.step == whole.step
    assert same(weights(again.output), weights(whole.output))
    file = sorted((Path(again.output) / "blocks").iterdir())[0]
    file.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is damaged; delete it, and --resume"):
        train(*ask("cut", **BLOCK, resume=True))
    train(*ask("cut", **BLOCK, overwrite=True))
    assert trained == [1, 0, 1]


def test_two_phases_end_far_below_rounding_on_held_out_text(tmp_path: Path, ask: Ask) -> None:
    """`tiny` at 2 bits: nats a token after rounding, after Block-AP, after E2E-QP."""
    words = load_checkpoint("tiny", device="cpu").tokenizer
    text = token_blocks("stdlib", words, seq_len=64, max_blocks=320, vocab_size=1024)
    ids = np.asarray(text.ids).astype(np.int64)
    np.save(tmp_path / "train.npy", ids[32:].reshape(-1))
    np.save(tmp_path / "held.npy", ids[:32].reshape(-1))
    common: dict[str, Any] = {"model": "tiny", "seq_len": 64, "eval_blocks": 32}
    common |= {"data": str(tmp_path / "train.npy"), "eval_data": str(tmp_path / "held.npy")}
    common |= {"save_strategy": "no", "eval_strategy": "no", "save_initial": False}
    rounded = train(*ask("rtn", **common, quantizer="rtn", trainable="scales", max_steps=1))
    first = ask(
        "first", **common | BLOCK | {"max_steps": 24, "calibration_blocks": 64}, logging_steps=99
    )
    blocks = train(*first)
    model = {"model": str(blocks.output), "w_bits": None, "recipe": "e2e-qp"}
    more = {"max_steps": 15, "learning_rate": 3e-4, "per_device_train_batch_size": 8}
    second = train(*ask("second", **common | model | more, logging_steps=99))
    assert blocks.initial["loss"] < rounded.initial["loss"]  # groups against whole rows
    assert blocks.final["loss"] < blocks.initial["loss"] - 0.3
    assert second.initial["loss"] == pytest.approx(blocks.final["loss"], abs=1e-5)
    assert second.final["loss"] < blocks.final["loss"] - 0.02


def test_only_step_sizes_move_and_the_weights_follow(ask: Ask) -> None:
    request, arguments = ask(quantizer="efficientqat", recipe="e2e-qp", learning_rate=1e-3)
    result = train(request, arguments)
    before = load_checkpoint(result.output / "checkpoint-0", device="cpu").model
    after = load_checkpoint(result.output, device="cpu").model
    for (name, old), new in zip(
        quant_layers(before).items(), quant_layers(after).values(), strict=True
    ):
        assert torch.equal(old.codes(), new.codes()), name
        assert torch.equal(old.zero, new.zero)
        assert not torch.equal(old.scale, new.scale)
        assert torch.equal(new.weight, new.quantized_weight())
    moved = {f"{name}.{part}" for name in quant_layers(before) for part in ("weight", "scale")}
    for name, parameter in before.named_parameters():
        assert name in moved or torch.equal(parameter, after.get_parameter(name))
    assert result.final["loss"] < result.initial["loss"]


def test_fixed_integers_resume_bit_for_bit(ask: Ask) -> None:
    options: dict[str, Any] = {"quantizer": "efficientqat", "recipe": "e2e-qp"}
    whole = train(*ask("whole", **options))
    train(*ask("cut", **options))
    cut = whole.output.parent / "cut"
    for path in (cut / "checkpoint-8").iterdir():
        path.unlink()
    (cut / "checkpoint-8").rmdir()
    again = train(*ask("cut", **options, resume=True))
    assert same(weights(again.output), weights(whole.output))


@pytest.mark.parametrize("recipe", ["baseline", "winq"])
@pytest.mark.parametrize("trainable", ["all", "scales"])
def test_its_quantizer_trains_under_every_recipe(ask: Ask, recipe: str, trainable: str) -> None:
    fraction = {"reset_fraction": 0.0 if trainable == "scales" else 0.4} if recipe == "winq" else {}
    result = train(
        *ask(quantizer="efficientqat", recipe=recipe, trainable=trainable, max_steps=20, **fraction)
    )
    assert result.final["loss"] < result.initial["loss"]
    start, end = weights(result.output / "checkpoint-0"), weights(result.output)
    scales = [name for name in start if name.endswith(".scale")]
    assert scales
    assert not any(torch.equal(start[name], end[name]) for name in scales)


def test_settings_that_do_not_belong_together_are_refused(ask: Ask) -> None:
    with pytest.raises(UsageError, match="which the quantizer 'paretoq' at 2 bits does not have"):
        train(*ask(recipe="e2e-qp"))
    with pytest.raises(UsageError, match=r"quant_learning_rate=0\.1 belongs to --recipe block-ap"):
        train(*ask(quant_learning_rate=0.1))
    with pytest.raises(UsageError, match="calibration_blocks=0 is too small"):
        train(*ask(**BLOCK | {"calibration_blocks": 0}))
    with pytest.raises(UsageError, match="gradient_accumulation_steps=2 is not for"):
        train(*ask(**BLOCK, gradient_accumulation_steps=2))
