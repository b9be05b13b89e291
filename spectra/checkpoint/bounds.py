"""The size of the model that a configuration asks for, held against the weights that came with it.

A configuration is a few numbers that decide how much memory is taken. Three bounds, each before
what it guards: the numbers themselves (`check_numbers`), since transformers makes lists as long as
some of them say; the modules of the skeleton, counted while it is built (`counted`), since a module
takes memory on any device; and the values of parameters and buffers (`check_fits`), since
transformers fills what is not stored with random numbers.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.modules.module import register_module_module_registration_hook

from spectra.checkpoint.locate import Location
from spectra.errors import CheckpointError

# Numbers that lists and modules are counted by; the largest models have about a hundred blocks.
COUNTED = re.compile(r"layer|block|expert|depth|head|stage|type|n_group|codebook|streams")
MOST = 1 << 20
MODULES = 200_000  # of a model whose weights are not here; the largest have about 80 000
MODULES_EACH, MODULES_LEAST = 64, 10_000  # for each stored tensor, and in any case
PACKED = 32  # values that a stored one may hold, a word of 32 bits
SPARE = 1 << 28  # values that a model may have beyond those stored: a gibibyte of float32
DEEPEST = 100
ATTENTION = re.compile(r"eager|sdpa|flash_attention_\d|flex_attention", re.ASCII)
KERNELS = {
    f"{start}{what}_implementation{end}"
    for start in ("", "_")
    for what in ("attn", "experts")
    for end in ("", "_internal")
}


def check_numbers(name: str, config: Any) -> None:
    """Refuse a configuration with numbers no model has, or that names code of the hub.

    Args:
        name: What the caller gave, for messages.
        config: Content of config.json or params.json, or facts of a GGUF file.

    Raises:
        CheckpointError: With the key and its value.
    """
    for key, value in _leaves(name, config, "", 0):
        if isinstance(value, str):
            if key in KERNELS and ATTENTION.fullmatch(value) is None:
                raise CheckpointError(
                    f"ckpt={name!r} has {key}={value!r} in its configuration, which could fetch "
                    "code from the hub; remove the entry."
                )
        elif type(value) is int and COUNTED.search(key.lower()) and abs(value) > MOST:
            raise CheckpointError(
                f"ckpt={name!r} has {key}={value} in its configuration, and no model has more "
                f"than {MOST:,} there; use the file saved with it."
            )


def _leaves(name: str, value: Any, key: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > DEEPEST:
        raise CheckpointError(
            f"ckpt={name!r} has a configuration nested more than {DEEPEST} deep; use the file "
            "saved with it."
        )
    if isinstance(value, dict):
        for inner, entry in value.items():
            yield from _leaves(name, entry, str(inner), depth + 1)
    elif isinstance(value, list):
        for entry in value:
            yield from _leaves(name, entry, key, depth + 1)
    else:
        yield key, value


class TooManyModulesError(Exception):
    """Raised out of the building of a model."""


@contextlib.contextmanager
def counted(stored: int | None) -> Iterator[None]:
    """Stop the building of a model, in this thread, that has far more modules than tensors.

    Args:
        stored: Number of stored tensors; None where they are not known.

    Raises:
        TooManyModulesError: Out of the block, where the bound is passed.
    """
    most = MODULES if stored is None else MODULES_EACH * stored + MODULES_LEAST
    seen, thread = 0, threading.get_ident()

    def count(*_: Any) -> None:
        nonlocal seen
        seen += threading.get_ident() == thread
        if seen > most:
            raise TooManyModulesError(f"it has more than {most:,} modules")

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def check_fits(location: Location, model: Any, held: int) -> None:
    """Refuse a model that has far more values than its checkpoint stores.

    Args:
        location: The checkpoint, for messages.
        model: Its skeleton.
        held: Values of the plain model that are stored, or at most those of packed layers.

    Raises:
        CheckpointError: With both numbers.
    """
    tensors: dict[int, torch.Tensor] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    wanted = sum(tensor.numel() for tensor in tensors.values())
    if wanted > 2 * held + SPARE:
        raise CheckpointError(
            f"ckpt={location.name!r}: its configuration makes a model of {wanted:,} values, and "
            f"{held:,} are stored; use the config.json saved with it."
        )
