"""Quantizers by name. A quantizer is one file of `spectra.quant.quantizers`, found by itself."""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import fields
from typing import Any, TypeVar

from spectra.errors import UsageError, nearest
from spectra.quant.quantizer import Quantizer

_KNOWN: dict[str, type[Quantizer]] = {}
_PACKAGE = "spectra.quant.quantizers"

Q = TypeVar("Q", bound=type[Quantizer])


def register(cls: Q) -> Q:
    """Class decorator: make a quantizer known under its `name`."""
    known = _KNOWN.setdefault(cls.name, cls)
    if known.__qualname__ != cls.__qualname__ or known.__module__ != cls.__module__:
        raise UsageError(
            f"the quantizer name {cls.name!r} is taken by {known.__module__}.{known.__qualname__};"
            " choose another."
        )
    return cls


def quantizer_names() -> tuple[str, ...]:
    """Return the names of all quantizers, sorted."""
    package = importlib.import_module(_PACKAGE)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{_PACKAGE}.{module.name}")
    return tuple(sorted(_KNOWN))


def get_quantizer(name: str, **options: Any) -> Quantizer:
    """Return the quantizer `name` with its options.

    Raises:
        UsageError: If there is none of that name, or it has no such option or value.
    """
    allowed = [field.name for field in fields(_class_of(name))]
    for option in options:
        if option not in allowed:
            raise UsageError(
                f"the quantizer {name!r} has no option {option!r}{nearest(option, allowed)}; it "
                f"has {', '.join(allowed) or 'none'}."
            )
    return _KNOWN[name](**options)


def parse_options(name: str, text: str) -> dict[str, Any]:
    """Return options of the quantizer `name` from "policy=mean,history=32", typed as it has them.

    A value may hold commas ("only=*gate_proj,*up_proj"): an option begins where a name and = do.

    Raises:
        UsageError: If one is no assignment, or a value is not of the option's type. Unknown options
            are left to `get_quantizer`.
    """
    kinds = {field.name: type(field.default) for field in fields(_class_of(name))}
    found: dict[str, Any] = {}
    for part in re.split(r",(?=\s*\w+\s*=)", text):
        option, _, value = (word.strip() for word in part.partition("="))
        if not (option and value):
            raise UsageError(
                f"quantizer='{name}:{text}' assigns nothing in {part!r}; write options as in "
                "efficientqat:group_size=128,codes=fixed."
            )
        if option in found:
            raise UsageError(f"the option {option} of {name!r} is given twice; give it once.")
        found[option] = _typed(option, value, kinds.get(option, str))
    return found


def _typed(option: str, value: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
        return kind(value)
    except (ValueError, KeyError):
        raise UsageError(
            f"{option}={value!r} is not of type {kind.__name__}; pass such a value."
        ) from None


def _class_of(name: str) -> type[Quantizer]:
    known = quantizer_names()
    if name not in known:
        raise UsageError(
            f"quantizer {name!r} is not known{nearest(name, known)}; pass one of "
            f"{', '.join(known)}."
        )
    return _KNOWN[name]
