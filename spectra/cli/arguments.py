"""Dataclass -> flags: `transformers.HfArgumentParser` with our sentences for errors.

Every flag may be written with `-` or `_`. `--config FILE.yaml` gives defaults that explicit flags
override.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from transformers.hf_argparser import HfArgumentParser

from spectra.cli.yamlfile import read_config
from spectra.errors import UsageError, nearest, printable
from spectra.parallel.launched import place

T = TypeVar("T")


class _Parser(HfArgumentParser):  # type: ignore[misc]
    """Raises our UsageError instead of printing the whole usage."""

    def error(self, message: str) -> NoReturn:
        known = [o for o in self._option_string_actions if o.startswith("--")]
        if message.startswith("unrecognized arguments:"):
            wrong = next(iter(message.partition(":")[2].split()), "")  # a blank is an argument too
            raise UsageError(f"{wrong!r} is not an option{nearest(wrong, known)}")
        raise UsageError(f"{message} (see {self.prog} --help)")


def parse(
    kind: type[T], arguments: Sequence[str], *, prog: str, description: str, epilog: str = ""
) -> T:
    """Return an instance of the dataclass `kind` filled from flags and, below them, a YAML file.

    Raises:
        UsageError: If a flag or a key is unknown, or a value does not fit.
    """
    return kind(**parse_values(kind, arguments, prog=prog, description=description, epilog=epilog))


def parse_values(
    kinds: Any,
    arguments: Sequence[str],
    *,
    prog: str,
    description: str,
    epilog: str = "",
    defaults: Mapping[str, Any] | None = None,
    preset: Callable[[str], Mapping[str, Any]] | None = None,
    none_of: Collection[str] = (),
) -> dict[str, Any]:
    """Return the values of the fields of one or several dataclasses, by name.

    What is nearer to the user wins: flags, the YAML file of `--config`, the `--preset`, `defaults`.
    Flags in `none_of` may stand without a value: none of what they list.

    Raises:
        UsageError: If a flag or a key is unknown, or a value does not fit.
    """
    parser = _Parser(
        kinds,
        prog=prog,
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(**dict(defaults or {}))
    for action in parser._actions:
        if action.dest in none_of:
            action.nargs = "*"
        if action.help and action.default not in (None, argparse.SUPPRESS, False, True):
            action.help = f"{action.help} [{action.default}]"
    parser.add_argument("--config", metavar="FILE.yaml", help="Defaults for these flags.")
    arguments = list(arguments)
    config = _value_of("--config", arguments, "the path of a YAML file")
    changed = _apply_config(parser, Path(config)) if config is not None else set()
    if preset is not None:
        chosen = _value_of("--preset", arguments, "a name") or parser.get_default("preset")
        below = {k: v for k, v in preset(chosen).items() if k not in changed} if chosen else {}
        parser.set_defaults(**below)
    parsed: dict[str, Any] = vars(parser.parse_args(arguments))
    parsed.pop("config")
    return parsed


def _value_of(flag: str, arguments: list[str], what: str) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == flag:
            if index + 1 == len(arguments):
                raise UsageError(f"{flag} needs {what}.")
            return arguments[index + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def _apply_config(parser: argparse.ArgumentParser, path: Path) -> set[str]:
    """Make the file's values the defaults; return the names it sets."""
    content = read_config(path)
    actions = {action.dest: action for action in parser._actions}
    changed = set()
    for raw, value in content.items():
        key = raw.replace("-", "_")
        if key not in actions or key in ("help", "config"):
            raise UsageError(f"config key {raw!r} is not an option{nearest(key, actions)}")
        action = actions[key]
        action.required = False
        parser.set_defaults(**{key: _typed(action, raw, value)})
        changed.add(key)
    return changed


def _typed(action: argparse.Action, name: str, value: Any) -> Any:
    several = action.nargs in ("+", "*")
    if value is None and action.default is None:
        return None
    if isinstance(value, list) and not several:
        raise _unfit(name, value)
    kind = action.type if callable(action.type) else str
    converted = [
        _converted(kind, name, one) for one in (value if isinstance(value, list) else [value])
    ]
    return converted if several else converted[0]


def _converted(kind: Callable[[str], Any], name: str, value: Any) -> Any:
    if value is None or (isinstance(value, bool) and kind in (int, float)):
        raise _unfit(name, value)
    try:
        return kind(str(value))
    except (ValueError, OverflowError, argparse.ArgumentTypeError):
        raise _unfit(name, value) from None


def _unfit(name: str, value: Any) -> UsageError:
    return UsageError(
        f"config key {name!r} has the value {str(value)[:200]!r}, which does not fit."
    )


def say(message: str) -> None:
    """Print a message for the person at the terminal, on stderr; of several ranks one speaks."""
    if place().speaks:
        print(printable(message, lines=True), file=sys.stderr, flush=True)
