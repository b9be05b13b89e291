"""PyTorch files that run code, or take memory or time, when they are opened without care."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.hostile.canary import Disguised, Payload

Build = Callable[[Path, Path], Any]
CODE = "is a pickle of more than tensors, which could run code when read"
BIN = "pytorch_model.bin"


def _weights(place: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    state = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    return state


def _code(how: str, *, zipped: bool = True) -> Build:
    def build(place: Path, canary: Path) -> None:
        state: dict[str, Any] = _weights(place)
        state["extra.weight"] = Payload(canary, how)
        torch.save(state, place / BIN, _use_new_zipfile_serialization=zipped)

    return build


def _bare(protocol: int) -> Build:
    def build(place: Path, canary: Path) -> None:
        _weights(place)
        (place / BIN).write_bytes(pickle.dumps({"w": Payload(canary)}, protocol=protocol))

    return build


def _disguised(place: Path, canary: Path) -> None:
    torch.save(Disguised(canary, _weights(place)), place / BIN)


def _shard(place: Path, canary: Path) -> None:
    state: dict[str, Any] = _weights(place)
    names = list(state)
    torch.save({"a.weight": Payload(canary)}, place / "pytorch_model-00002-of-00002.bin")
    torch.save(state, place / "pytorch_model-00001-of-00002.bin")
    where = dict.fromkeys(names, "pytorch_model-00001-of-00002.bin")
    where["a.weight"] = "pytorch_model-00002-of-00002.bin"
    import json

    index = {"metadata": {}, "weight_map": where}
    (place / f"{BIN}.index.json").write_text(json.dumps(index))


def _consolidated(place: Path, canary: Path) -> None:
    _weights(place)
    (place / "params.json").write_text('{"dim": 16, "n_layers": 2, "n_heads": 2}')
    torch.save({"norm.weight": Payload(canary)}, place / "consolidated.00.pth")


def _archive(place: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> None:
    _weights(place)
    with zipfile.ZipFile(place / BIN, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)


def _bomb(place: Path, canary: Path) -> None:
    """Half a gigabyte of pickle in half a megabyte: deflate knows runs."""
    del canary
    _weights(place)
    with (
        zipfile.ZipFile(place / BIN, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as member,
    ):
        for _ in range(50):
            member.write(bytes(10_000_000))


def _stride_zero(place: Path, canary: Path) -> None:
    state = _weights(place)
    state["model.norm.weight"] = torch.ones(1).expand(10**12)
    torch.save(state, place / BIN)


def _one_storage(place: Path, canary: Path) -> None:
    """A megabyte under ten thousand names."""
    state = _weights(place)
    whole = torch.ones(1 << 18)
    state |= {f"model.layers.{i}.a.weight": whole for i in range(10_000)}
    torch.save(state, place / BIN)


def _huge_bytes(place: Path, canary: Path) -> None:
    program = b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", 10**12) + b"\x85R."
    _archive(place, {"data.pkl": program, "version": b"3\n"})


def _laughs(place: Path, canary: Path) -> None:
    """A key that is a tuple of two references, sixty deep: its hash takes 2^60 steps."""
    program = b"\x80\x02}K\x01K\x02\x86q\x00"
    for i in range(60):
        program += b"h" + bytes([i]) + b"\x86q" + bytes([i + 1])
    program += b"K\x01s."
    _archive(place, {"data.pkl": program, "version": b"3\n"})


def _twice(place: Path, canary: Path) -> None:
    """Two programs of one name: which one is read is up to the reader."""
    _weights(place)
    with zipfile.ZipFile(place / BIN, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr("archive/data.pkl", pickle.dumps({"w": Payload(canary)}, 2))


def _extra(file: str) -> Build:
    """A file beside good weights that no estimate needs."""

    def build(place: Path, canary: Path) -> None:
        torch.save({"state": Payload(canary)}, place / file)

    return build


CASES: dict[str, tuple[Build, str | None]] = {
    "bin, os.mkdir": (_code("mkdir"), CODE),
    "bin, os.system": (_code("system"), CODE),
    "bin, exec": (_code("exec"), CODE),
    "bin, Popen": (_code("popen"), CODE),
    "bin of the old format": (_code("system", zipped=False), "pickle of more than tensors|damaged"),
    "bin, a bare pickle of protocol 2": (_bare(2), CODE),
    "bin, a bare pickle of protocol 4": (_bare(4), CODE),
    "bin, a bare pickle of protocol 0": (_bare(0), "is damaged or no PyTorch file"),
    "bin, in an item of a dictionary": (_disguised, CODE),
    "bin, in the second shard": (_shard, CODE),
    "consolidated.00.pth": (_consolidated, CODE),
    "bin, half a gigabyte compressed": (_bomb, "compressed archive|larger than the file"),
    "bin, a tensor of stride zero": (
        _stride_zero,
        r"a tensor model.norm.weight of shape .* cannot hold",
    ),
    "bin, one storage under many names": (_one_storage, "cannot hold"),
    "bin, a bytearray of a terabyte": (_huge_bytes, CODE),
    "bin, tuples in tuples": (_laughs, "tuples that are used again"),
    "bin, a program listed twice": (_twice, "listed twice"),
    "optimizer.pt beside the weights": (_extra("optimizer.pt"), None),
    "scheduler.pt beside the weights": (_extra("scheduler.pt"), None),
    "rng_state.pth beside the weights": (_extra("rng_state.pth"), None),
    "training_args.bin beside the weights": (_extra("training_args.bin"), None),
    "pytorch_model.bin beside safetensors": (_extra(BIN), None),
}
