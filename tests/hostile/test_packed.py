"""GGUF files and packed formats that lie: counts, lengths, offsets, types, parts that misfit."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra.checkpoint import describe, load_checkpoint
from spectra.errors import CheckpointError, SpectraError, printable
from spectra.quant import QuantSpec, SavedQuantization
from spectra.quant.saved import FILE
from tests.checkpoint import packing
from tests.checkpoint.saved import build
from tests.hostile.limits import small_peak, tree, within

PEAK = 300 << 20
STRING, ARRAY, U32, F32 = 8, 9, 4, 0


def _text(words: bytes) -> bytes:
    return struct.pack("<Q", len(words)) + words


def _fact(key: bytes, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int, rank: int = -1) -> bytes:
    rank = len(shape) if rank < 0 else rank
    head = _text(name) + struct.pack("<I", rank)
    return head + struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)


def _gguf(
    facts: list[bytes],
    tensors: list[bytes],
    *,
    counts: tuple[int, int] | None = None,
    version: int = 3,
    data: int = 4096,
) -> bytes:
    said = (len(tensors), len(facts)) if counts is None else counts
    head = b"GGUF" + struct.pack("<IQQ", version, *said) + b"".join(facts + tensors)
    return head.ljust(-(-len(head) // 32) * 32, b"\0") + bytes(data)


LLAMA = _fact(b"general.architecture", STRING, _text(b"llama"))
ONE = _tensor(b"a", (32, 32), F32, 0)


def _number(key: bytes, value: int, kind: int = U32) -> bytes:
    return _fact(key, kind, struct.pack("<I" if kind == U32 else "<Q", value))


GGUF: dict[str, tuple[bytes, str]] = {
    "2^63 tensors": (_gguf([LLAMA], [ONE], counts=(2**63, 1)), "truncated|damaged"),
    "2^63 entries": (_gguf([LLAMA], [ONE], counts=(1, 2**63)), "truncated|damaged"),
    "a text of 2^63 bytes": (
        _gguf([_text(b"k") + struct.pack("<IQ", STRING, 2**63)], []),
        "truncated inside its header",
    ),
    "an array of 2^62 numbers": (
        _gguf([LLAMA, _fact(b"k", ARRAY, struct.pack("<IQ", U32, 2**62))], [ONE]),
        "truncated|damaged",
    ),
    "an array of 2^62 texts": (
        _gguf([LLAMA, _fact(b"k", ARRAY, struct.pack("<IQ", STRING, 2**62))], [ONE]),
        "truncated",
    ),
    "an array of arrays": (
        _gguf([LLAMA, _fact(b"k", ARRAY, struct.pack("<IQ", ARRAY, 1))], [ONE]),
        "is damaged",
    ),
    "a type of no number": (_gguf([LLAMA, _fact(b"k", 77, b"1234")], [ONE]), "is damaged"),
    "a tensor of no type": (_gguf([LLAMA], [_tensor(b"a", (32,), 99, 0)]), "is damaged"),
    "a rank of 2^32": (
        _gguf([LLAMA], [_tensor(b"a", (32,), F32, 0, rank=2**32 - 1)]),
        "is damaged",
    ),
    "terabytes": (_gguf([LLAMA], [_tensor(b"a", (10**6, 10**6), F32, 0)]), "is truncated: "),
    "an extent beyond 64 bits": (
        _gguf([LLAMA], [_tensor(b"a", (2**63, 2**63, 4), F32, 0)]),
        "is truncated: ",
    ),
    "an offset beyond the file": (
        _gguf([LLAMA], [_tensor(b"a", (4,), F32, 2**60)]),
        "is truncated: ",
    ),
    "tensors on each other": (
        _gguf([LLAMA], [_tensor(b"t%d" % i, (32, 32), F32, 0) for i in range(1000)]),
        "overlap",
    ),
    "a name twice": (
        _gguf([LLAMA], [_tensor(b"a", (4,), F32, 0), _tensor(b"a", (4,), F32, 32)]),
        "have one name",
    ),
    "no alignment": (_gguf([LLAMA, _number(b"general.alignment", 0)], [ONE]), "is damaged"),
    "an alignment of gigabytes": (
        _gguf([LLAMA, _number(b"general.alignment", 2**31)], [ONE]),
        "is damaged",
    ),
    "an alignment that is a list": (
        _gguf([LLAMA, _fact(b"general.alignment", ARRAY, struct.pack("<IQI", U32, 1, 4))], [ONE]),
        "is damaged",
    ),
    "no architecture": (_gguf([], [ONE]), "is damaged"),
    "an architecture of numbers": (
        _gguf([_number(b"general.architecture", 7)], [ONE]),
        "not accepted",
    ),
    "a billion blocks": (
        _gguf([LLAMA, _number(b"llama.block_count", 10**9)], [ONE]),
        "no model has more than",
    ),
    "a vocabulary of 10^9": (
        _gguf(
            [LLAMA, _number(b"llama.vocab_size", 10**9), _number(b"llama.block_count", 1)], [ONE]
        ),
        "makes a model of",
    ),
    "a name with escapes": (
        _gguf([_fact(b"general.architecture", STRING, _text(b"\x1b[31m\n"))], [ONE]),
        "not accepted",
    ),
    "a name that is no UTF-8": (_gguf([_fact(b"\xff\xfe", U32, b"1234")], [ONE]), "is damaged"),
    "version 2^31": (_gguf([LLAMA], [ONE], version=2**31), "is damaged"),
    "nothing": (b"GGUF", "is truncated|is damaged"),
}


def refused(action: Callable[[], Any], place: Path, expected: str) -> None:
    before = tree(place)
    with within(), small_peak(PEAK), pytest.raises(SpectraError, match=expected) as caught:
        action()
    message = str(caught.value)
    assert message == printable(message)
    assert len(message) < 5000
    assert tree(place) == before


@pytest.mark.parametrize("case", GGUF)
def test_hostile_gguf(tmp_path: Path, case: str) -> None:
    content, expected = GGUF[case]
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    refused(lambda: load_checkpoint(file, device="cpu"), tmp_path, expected)
    with warnings.catch_warnings(), within():
        warnings.simplefilter("ignore")
        try:
            describe(file)
        except CheckpointError as error:
            assert printable(str(error)) == str(error)  # noqa: PT017


State = dict[str, torch.Tensor]
Q = "model.layers.0.self_attn.q_proj"


def _change(change: Callable[[State], Any]) -> Callable[[Path], None]:
    def build(place: Path) -> None:
        file = place / "model.safetensors"
        state = load_file(file)
        change(state)
        save_file({n: t.contiguous() for n, t in state.items()}, file, metadata={"format": "pt"})

    return build


def _fill(name: str, value: float) -> Callable[[Path], None]:
    return _change(lambda state: state[name].fill_(value))


def _shape(name: str, *shape: int) -> Callable[[Path], None]:
    return _change(lambda state: state.update({name: torch.zeros(shape, dtype=state[name].dtype)}))


def _config(**changes: Any) -> Callable[[Path], None]:
    def build(place: Path) -> None:
        file = place / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return build


def _own(**changes: Any) -> Callable[[Path], None]:
    def build(place: Path) -> None:
        SavedQuantization(spec=QuantSpec("rtn", 4), method="baseline").save(place)
        content = json.loads((place / FILE).read_text())
        content["quantization"] |= changes
        (place / FILE).write_text(json.dumps(content))

    return build


def _twice(place: Path) -> None:
    _own()(place)
    _config(quantization_config={"quant_method": "x"})(place)


def _save(kind: str, place: Path) -> None:
    if kind == "efficientqat":
        packing.save_efficientqat(place, 2, 8)
    elif kind == "bitnet":
        packing.save_bitnet(place, {}, divides=True)
    elif kind == "dense":
        packing.save_dense(place, 4, 8)
    elif kind == "torchao":
        packing.save_torchao_converted(place, 8)
    else:
        build().save_pretrained(place)


PACKED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "steps that are no numbers": ("efficientqat", _fill(f"{Q}.scales", float("nan")), "NaN or Inf"),
    "steps without groups": ("efficientqat", _shape(f"{Q}.scales", 0, 16), "shape|groups|layers"),
    "words of another layer": ("efficientqat", _shape(f"{Q}.qweight", 1, 3), "shapes"),
    "zero points of rank 3": ("efficientqat", _shape(f"{Q}.qzeros", 2, 1, 1), "shape"),
    "columns of no group": ("efficientqat", _fill(f"{Q}.g_idx", 10**6), "g_idx puts columns"),
    "columns of another number": ("efficientqat", _shape(f"{Q}.g_idx", 3), "g_idx"),
    "codes of no level": ("bitnet", _fill(f"{Q}.weight", 255), "codes outside"),
    "a scale of zero": ("bitnet", _fill(f"{Q}.weight_scale", 0), "is 0 and divides"),
    "a scale that is no number": ("bitnet", _fill(f"{Q}.weight_scale", float("nan")), "NaN"),
    "a class of a list": (
        "bitnet",
        _config(quantization_config={"quant_method": "bitnet", "linear_class": ["x"]}),
        "linear_class=",
    ),
    "off the grid": ("dense", _fill(f"{Q}.weight", 0.123), "not on the grid|NaN"),
    "a grid of zero": (
        "dense",
        _fill(f"{Q}.weight_scale", 0.0),
        "not on the grid",
    ),
    "a width of no number": (
        "dense",
        _config(
            quantization_config={
                "quant_method": "compressed-tensors",
                "format": "dense",
                "config_groups": {"a": {"weights": {"num_bits": "4"}}},
            }
        ),
        "num_bits='4'",
    ),
    "codes beyond four bits": ("torchao", _fill(f"{Q}.weight", 100), "codes outside"),
    "zeros beyond four bits": ("torchao", _fill(f"{Q}.zeros", 1e9), "zero points outside"),
    "a step of minus one": ("torchao", _fill(f"{Q}.scales", -1.0), "not positive"),
    "two quantizers": ("own", _twice, "would quantize the same weights again"),
    "a quantizer of nobody": ("own", _own(quantizer="../../x"), "is not known"),
    "a quantizer that is a list": ("own", _own(quantizer=["rtn"]), "is not known|quantizer"),
    "a width that is no number": ("own", _own(w_bits=float("nan")), "is no width"),
    "a width beyond any": ("own", _own(w_bits=10**30), "is no width"),
    "an option of code": ("own", _own(options={"__class__": "x"}), "has no option"),
    "a group of minus a billion": (
        "own",
        _own(quantizer="efficientqat", options={"group_size": -(10**9)}),
        "group_size",
    ),
    "a history of a billion": (
        "own",
        _own(quantizer="hif8", w_bits=8, a_bits=8, options={"history": 10**12}),
        "history",
    ),
}


@pytest.mark.parametrize("case", PACKED)
def test_hostile_packed_checkpoint(tmp_path: Path, case: str) -> None:
    kind, change, expected = PACKED[case]
    place = tmp_path / "model"
    _save(kind, place)
    change(place)
    refused(lambda: load_checkpoint(place, device="cpu"), tmp_path, expected)
