"""PyTorch files (.bin, .pth): what they hold, opened so that nothing in them runs.

A pickle is a program. torch's restricted loader (`weights_only`) runs none of its code, but obeys
in what takes memory and time, so the program is looked at first, by its operations alone:

    it names nothing but what a state dict is made of (tensors, their storages and types);
    few tuples are used twice: a tuple of two references to one of two references … is hashed,
        or printed, in 2^depth steps;
    no archive member is compressed or listed twice, and members are no larger than the file.

Then it is opened on the meta device, where storages have sizes and no memory, and a tensor must not
be larger than the file: strides of zero make terabytes of one number.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from spectra.checkpoint.quiet import first_line
from spectra.errors import CheckpointError

NAMES = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch (\w+Storage|Size|u?int\d+|float\w+|bfloat16|bool|complex\d+|device)"
    r"|torch\.storage (Untyped|Typed)Storage"
)
# What states of training hold besides: numbers of numpy's generator, settings of optimizers.
STATES = re.compile(
    rf"{NAMES.pattern}"
    r"|numpy\.(_?core\.multiarray) (_reconstruct|scalar)|numpy (ndarray|dtype)|_codecs encode"
    r"|numpy\.dtypes \w+DType|numpy\.random\._pickle \w+|collections (defaultdict|Counter)"
    r"|builtins (set|dict|list|int|float|complex)|torch device"
)
MAGICS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
PARTS = 5  # pickles at the head of a file from before torch 1.6
SHARED = 8  # names of one tensor, as tied weights are, beyond which a file only pretends to size
AGAIN = 16  # uses of tuples after their first
PROGRAM = 1 << 28  # bytes; a tensor takes about 200
TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
PUTS, GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}


def open_state(path: Path) -> dict[str, torch.Tensor]:
    """Return names -> tensors of a PyTorch file on the meta device.

    Raises:
        CheckpointError: If it is damaged, no state dict, or a pickle of more than that.
    """
    check_program(path)
    try:
        state = torch.load(path, map_location="meta", weights_only=True, mmap=zipped(path))
    except Exception as error:  # the unpickler's own errors, and whatever damaged bytes lead to
        raise _damaged(path, first_line(error)) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise CheckpointError(
            f"{str(path)!r} is not a state dict (names to tensors); save the model with "
            "save_pretrained."
        )
    size, total = path.stat().st_size, 0
    for name, tensor in state.items():
        if tensor.layout != torch.strided:
            raise CheckpointError(f"{str(path)!r}: the tensor {name} is sparse; save it dense.")
        wanted = tensor.numel() * tensor.itemsize
        total += wanted
        if wanted > size or total > SHARED * size:
            raise CheckpointError(
                f"{str(path)!r} has {size:,} bytes and a tensor {name} of shape "
                f"{tuple(tensor.shape)}, which it cannot hold; copy or download it again."
            )
    return state


def check_program(path: Path, names: re.Pattern[str] = NAMES) -> None:
    """Refuse a PyTorch file whose pickles do more than name and shape tensors.

    Args:
        path: The file.
        names: "MODULE NAME" of what they may name.

    Raises:
        CheckpointError: If it does, or is damaged so that this cannot be told.
    """
    try:
        if zipped(path):
            _check_archive(path, names)
            return
        with path.open("rb") as handle:
            if handle.read(2) not in MAGICS:
                raise _damaged(path, "it begins as neither a zip archive nor a pickle")
            handle.seek(0)
            for _ in range(PARTS):
                _check_operations(path, handle, names)
    except CheckpointError:
        raise
    except Exception as error:  # zipfile and pickletools raise what damaged bytes lead to
        raise _damaged(path, first_line(error)) from None


def zipped(path: Path) -> bool:
    """Return whether it is a zip archive, which can be mapped; older files are read whole."""
    with path.open("rb") as handle:
        return handle.read(2) == b"PK"


def _check_archive(path: Path, names: re.Pattern[str]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        sizes = sum(member.file_size for member in members)
        if len({m.filename for m in members}) < len(members) or sizes > path.stat().st_size:
            raise _damaged(path, "its members are listed twice, or larger than the file")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError(
                f"{str(path)!r} is a compressed archive, which torch never writes; save the model "
                "again as safetensors."
            )
        programs = [m for m in members if m.filename.rpartition("/")[2] == "data.pkl"]
        if len(programs) != 1 or programs[0].file_size > PROGRAM:
            raise _damaged(path, "it holds no data.pkl, several, or a huge one")
        with archive.open(programs[0]) as handle:
            _check_operations(path, handle, names)


def _check_operations(path: Path, handle: IO[bytes], names: re.Pattern[str]) -> None:
    tuples: set[int] = set()
    memo, again, before, strings = 0, 0, "", ["", ""]
    for operation, argument in _operations(handle):
        if operation in {"GLOBAL", "STACK_GLOBAL", "INST"}:
            name = " ".join(strings[-2:]) if operation == "STACK_GLOBAL" else str(argument)
            if names.fullmatch(name) is None:
                raise _code(path, name)
        elif operation in {"DUP", "LONG4", "EXT1", "EXT2", "EXT4", "PERSID"}:
            raise _code(path, operation)
        elif operation in PUTS or operation == "MEMOIZE":
            place = memo if operation == "MEMOIZE" else int(argument)
            memo += 1
            (tuples.add if before in TUPLES else tuples.discard)(place)
        elif operation in GETS and int(argument) in tuples:
            again += 1
            if again > AGAIN:
                raise _code(path, "tuples that are used again and again")
        elif isinstance(argument, str):
            strings = [strings[-1], argument]
        if operation not in PUTS | {"MEMOIZE"}:
            before = operation


def _operations(handle: IO[bytes]) -> Iterator[tuple[str, Any]]:
    for operation, argument, _ in pickletools.genops(handle):
        yield operation.name, argument


def _code(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{str(path)!r} is a pickle of more than tensors, which could run code when read, and is "
        f"refused ({what}); save the model again as safetensors."
    )


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{str(path)!r} is damaged or no PyTorch file: {why}; copy it again.")
