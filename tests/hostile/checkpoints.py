"""Checkpoints as the fuzzer gives them: one file of a small one is replaced, and it is opened.

The packed formats take two files in one input: the length of config.json (4 bytes), it, and the
weights.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from functools import cache
from pathlib import Path

import torch

from spectra.checkpoint import describe, load_checkpoint
from spectra.checkpoint.architecture import read_json
from spectra.checkpoint.formats.gguf import read_gguf_header
from spectra.checkpoint.locate import locate, stated_step
from spectra.checkpoint.tensors import list_tensors, read_tensors
from spectra.checkpoint.tokenizer import load_tokenizer
from spectra.quant import QuantSpec, SavedQuantization
from spectra.quant.saved import FILE, read_saved
from tests.checkpoint import packing
from tests.checkpoint.quantized import save_public
from tests.checkpoint.saved import build, save_tokenizer


def _save(place: Path) -> Path:
    build().save_pretrained(place)
    return place


@cache
def _bytes(kind: str) -> bytes:
    """Weights and configuration of a packed checkpoint as one input."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "w2g8"
        {
            "efficientqat": lambda: packing.save_efficientqat(place, 2, 8),
            "bitnet": lambda: packing.save_bitnet(place, {}, divides=True),
            "dense": lambda: packing.save_dense(place, 4, 8),
            "converted": lambda: packing.save_torchao_converted(place, 8),
            "public": lambda: save_public(place, 2),
        }[kind]()
        config = (place / "config.json").read_bytes()
        return struct.pack("<I", len(config)) + config + (place / "model.safetensors").read_bytes()


def packed_seeds(place: Path) -> list[bytes]:
    del place
    return [_bytes(kind) for kind in ("efficientqat", "bitnet", "dense", "converted", "public")]


def read_packed(place: Path, data: bytes) -> None:
    length = struct.unpack("<I", data[:4].ljust(4, b"\0"))[0]
    (place / "config.json").write_bytes(data[4 : 4 + length])
    (place / "model.safetensors").write_bytes(data[4 + length :])
    describe(place)
    load_checkpoint(place, device="cpu")


def quantization_seeds(place: Path) -> list[bytes]:
    specs = (
        QuantSpec("paretoq", 2),
        QuantSpec("efficientqat", 4, options=(("group_size", 8),)),
        QuantSpec("hif8", 8, 8),
    )
    facts = {"method": "winq", "step": 100, "resets": 2, "steps_since_reset": 3}
    found = []
    for one in specs:
        SavedQuantization(spec=one, recipe={"seed": 0, "noise_std": 1e-3}, **facts).save(place)  # type: ignore[arg-type]
        found.append((place / FILE).read_bytes())
    _save(place)
    return found


def read_quantization(place: Path, data: bytes) -> None:
    (place / FILE).write_bytes(data)
    stated_step(place)
    read_saved(place)
    describe(place)


def config_seeds(place: Path) -> list[bytes]:
    found = []
    for kind in ("gpt2", "llama"):
        model = build(kind)
        model.save_pretrained(place)
        found.append((place / "config.json").read_bytes())
    extra = {"quantization_config": {"quant_method": "bitnet", "linear_class": "bitlinear"}}
    extra |= {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "w_bits": 2, "kv_bits": 8}
    return [*found, json.dumps(json.loads(found[1]) | extra).encode()]


def read_config(place: Path, data: bytes) -> None:
    (place / "config.json").write_bytes(data)
    read_json(locate(place))
    load_checkpoint(place, device="cpu")
    describe(place)


def header_seeds(place: Path) -> list[bytes]:
    _save(place)
    return [(place / "model.safetensors").read_bytes()]


def read_weights(place: Path, data: bytes) -> None:
    (place / "model.safetensors").write_bytes(data)
    describe(place)
    load_checkpoint(place, device="cpu")


def index_seeds(place: Path) -> list[bytes]:
    build().save_pretrained(place, max_shard_size="5KB")
    return [(place / "model.safetensors.index.json").read_bytes()]


def read_shards(place: Path, data: bytes) -> None:
    (place / "model.safetensors.index.json").write_bytes(data)
    describe(place)
    load_checkpoint(place, device="cpu")


def pickle_seeds(place: Path) -> list[bytes]:
    _save(place)
    (place / "model.safetensors").unlink()
    found = []
    for zipped in (True, False):
        file = place / "pytorch_model.bin"
        state = build().state_dict()
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
        found.append(file.read_bytes())
    return found


def read_pickle(place: Path, data: bytes) -> None:
    (place / "pytorch_model.bin").write_bytes(data)
    where = locate(place)
    read_tensors(where, [tensor.name for tensor in list_tensors(where)])
    load_checkpoint(place, device="cpu")


def params_seeds(place: Path) -> list[bytes]:
    model = build(tie_word_embeddings=False)
    packing.save_consolidated(place, model.state_dict(), model, use_scaled_rope=True)
    return [(place / "params.json").read_bytes()]


def read_params(place: Path, data: bytes) -> None:
    (place / "params.json").write_bytes(data)
    describe(place)
    load_checkpoint(place, device="cpu")


def gguf_seeds(place: Path) -> list[bytes]:
    import gguf

    from tests.checkpoint.test_gguf import SIZES, write

    found = []
    for kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0):
        file = place / "seed.gguf"
        write(file, build(**SIZES), kind)
        found.append(file.read_bytes())
        file.unlink()
    return found


def read_gguf(place: Path, data: bytes) -> None:
    file = place / "model.gguf"
    file.write_bytes(data)
    read_gguf_header(file)
    describe(file)
    load_checkpoint(file, device="cpu")


def tokenizer_seeds(place: Path) -> list[bytes]:
    _save(place)
    save_tokenizer(place)
    tiny = locate("tiny").directory
    shutil.copy(place / "tokenizer_config.json", place / "kept.json")
    return [
        json.dumps({name: json.loads((place / name).read_text()) for name in TOKENIZER}).encode()
        for place in (place, tiny)
    ]


TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def read_tokenizer(place: Path, data: bytes) -> None:
    try:
        both = json.loads(data)
        for name in TOKENIZER:
            (place / name).write_text(json.dumps(both[name]))
    except (ValueError, KeyError, TypeError, RecursionError):
        (place / TOKENIZER[0]).write_bytes(data)
    from spectra.data import token_batches

    words = load_tokenizer(locate(place), None, trust_remote_code=False)[0]
    (place / "some.txt").write_text("hello world, " * 30)
    token_batches(place / "some.txt", words, seq_len=4, num_batches=1)
