"""`--config FILE.yaml`: a mapping of option names to values, and nothing else that YAML can do.

No tags, so nothing is made but plain values; no anchors, whose aliases let a few hundred bytes
stand for gigabytes; no nesting beyond a list of values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from spectra.errors import UsageError
from spectra.record.jsonfile import read_bounded

LARGEST = 1 << 20  # bytes


class _Plain(yaml.SafeLoader):
    """Refuses anchors, aliases, and a name that is given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.YAMLError("anchors and aliases are not read; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.YAMLError(f"{key.value[:80]!r} is given twice; keep one of the lines")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def read_config(path: Path) -> dict[str, Any]:
    """Return option name -> value: a text, a number, a truth value, None, or a list of these.

    Raises:
        UsageError: If the file cannot be read, or is not such a mapping.
    """
    where = f"config={str(path)!r}"
    try:
        content = yaml.load(read_bounded(path, largest=LARGEST).decode(), _Plain)
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror}.") from None
    # A date that does not exist, a number that overflows: constructors raise what they like.
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
    ) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"{where} is not YAML: {first}.") from None
    except RecursionError:
        raise UsageError(f"{where} is not YAML: it is nested too deeply.") from None
    if not isinstance(content, dict):
        raise UsageError(f"{where} must be a mapping of option names to values.")
    plain = (str, int, float, type(None))
    for key, value in content.items():
        listed = value if isinstance(value, list) else [value]
        if not isinstance(key, str) or not all(isinstance(one, plain) for one in listed):
            raise UsageError(
                f"{where}: {str(key)[:80]!r} is not an option with a value, or a list of values; "
                "write NAME: VALUE."
            )
    return content
