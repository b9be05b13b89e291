"""Hub ids, through a cache laid out as huggingface_hub does and without a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from spectra.checkpoint import describe, load_checkpoint
from spectra.checkpoint.hub import looks_like_id
from spectra.checkpoint.plan import NOT_HERE
from spectra.errors import CheckpointError
from spectra.quant import SavedQuantization, spec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(llama: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    """A cache that holds org/model at the branches main and step3000; nothing can be fetched."""
    root = tmp_path / "hub"
    repo = root / "models--org--model"
    shutil.copytree(llama, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    for branch in ("main", "step3000"):
        (repo / "refs" / branch).write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repo / "snapshots" / COMMIT


def test_from_the_cache(cache: Path, llama: Path) -> None:
    ckpt = load_checkpoint("org/model", device="cpu")
    assert ckpt.meta.path == "org/model"
    assert (ckpt.meta.revision, ckpt.meta.step) == ("main", None)
    assert ckpt.meta.sha256 == load_checkpoint(llama, device="cpu").meta.sha256
    assert f"read from the hub at commit {COMMIT}" in ckpt.meta.notes
    assert ckpt.tokenizer is not None


def test_a_revision_tells_the_step(cache: Path) -> None:
    meta = load_checkpoint("org/model", revision="step3000", device="cpu").meta
    assert (meta.revision, meta.step) == ("step3000", 3000)


def test_tokenizer_of_another_hub_model(cache: Path, llama: Path) -> None:
    (llama / "tokenizer.json").unlink()
    assert load_checkpoint(llama, device="cpu").tokenizer is None
    assert load_checkpoint(llama, tokenizer="org/model", device="cpu").tokenizer is not None


def test_described_without_weights(cache: Path) -> None:
    full = describe("org/model")
    assert full.format == "safetensors"
    (cache / "model.safetensors").unlink()
    seen = describe("org/model")
    assert (seen.format, seen.stored_dtype, seen.weight_bytes) == ("hub", "float32", 0)
    assert (seen.parameters, seen.linear) == (full.parameters, full.linear)
    with pytest.raises(CheckpointError, match=r"holds config\.json but no weights"):
        load_checkpoint("org/model", device="cpu")


def test_quantization_is_described_without_weights(cache: Path) -> None:
    (cache / "model.safetensors").unlink()
    config = cache / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"w_bits": 2}))
    seen = describe("org/model")
    assert (seen.refusal, seen.notes[-1]) == ("", NOT_HERE)
    assert seen.qat is not None
    assert seen.qat.spec == spec("paretoq", w_bits=2)
    SavedQuantization(spec=spec("lsq", w_bits=4), step=7).save(cache)
    seen = describe("org/model")
    assert (seen.refusal, seen.notes[-1]) == ("", NOT_HERE)
    assert seen.qat is not None
    assert (seen.qat.source, seen.qat.spec, seen.step) == ("spectra", spec("lsq", w_bits=4), 7)
    assert "w_bits=4, not 2" in describe("org/model", w_bits=2).refusal


def test_not_in_the_cache(cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(CheckpointError, match=r"is not in the cache .*\(HF_HUB_OFFLINE is set\)"):
        load_checkpoint("org/other")
    with pytest.raises(CheckpointError, match=r"at revision 'step9' is not in the cache"):
        load_checkpoint("org/model", revision="step9")
    (tmp_path / "modle").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"'model' is not a local path.*did you mean modle"):
        load_checkpoint("model")


def response(status: int) -> Any:
    """What the errors of the hub client read of an HTTP response, whichever library made it."""
    request = SimpleNamespace(url="https://huggingface.co", method="GET")
    return SimpleNamespace(status_code=status, headers={}, request=request)


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (errors.RepositoryNotFoundError("x", response=response(404)), "the hub has no such model"),
        (errors.GatedRepoError("x", response=response(403)), "accept its terms on the hub and set"),
        (errors.RevisionNotFoundError("x", response=response(404)), "has no revision 'v1'"),
        (errors.HfHubHTTPError("x", response=response(503)), "it answered 503"),
        (errors.LocalEntryNotFoundError("x"), r"cannot be asked \(no connection\)"),
        (ConnectionError("x"), r"cannot be asked \(no connection\)"),
        (errors.HFValidationError("Bad id.\nmore"), "the hub client refused: Bad id[.]$"),
    ],
)
def test_what_the_hub_may_say(monkeypatch: Any, error: Exception, match: str) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint("org/model", revision="v1")
    assert str(caught.value).startswith("ckpt='org/model' is not a local path, and ")


@pytest.mark.parametrize(
    "error", [PermissionError(13, "x"), NotADirectoryError(20, "x"), OSError(28, "x")]
)
def test_a_cache_that_cannot_be_written(monkeypatch: Any, error: OSError) -> None:
    """Of a home directory that is read-only, or is none."""

    def fail(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"cannot be fetched into .*; set HF_HOME to one"):
        load_checkpoint("org/model")


def test_only_one_format_is_fetched(llama: Path, monkeypatch: Any) -> None:
    asked: list[list[str]] = []

    def fetch(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(llama)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    load_checkpoint("org/model", device="cpu")
    patterns = [pattern for patterns in asked for pattern in patterns]
    assert "model*.safetensors" in patterns
    assert not any(".bin" in pattern for pattern in patterns)


@pytest.mark.parametrize("name", ["gpt2", "org/name-1.5b", "EleutherAI/pythia-70m"])
def test_ids(name: str) -> None:
    assert looks_like_id(name)


@pytest.mark.parametrize(
    "name", ["/abs", "./rel", "a/b/c", "~/x", "a b", "x.gguf", "org/model.safetensors", "", "a//b"]
)
def test_no_ids(name: str) -> None:
    assert not looks_like_id(name)
