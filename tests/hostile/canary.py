"""Code that leaves a trace: a directory that exists only if something in a file was run."""

from __future__ import annotations

import builtins
import os
import subprocess
from pathlib import Path
from typing import Any


class Payload:
    """Pickles as a call; unpickling makes the canary."""

    def __init__(self, canary: Path, how: str = "mkdir") -> None:
        self.canary, self.how = canary, how

    def __reduce__(self) -> Any:
        target = str(self.canary)
        return {
            "mkdir": (os.mkdir, (target,)),
            "system": (os.system, (f"mkdir {target}",)),
            "exec": (builtins.exec, (f"import os; os.mkdir({target!r})",)),
            "popen": (subprocess.Popen, (["mkdir", target],)),
        }[self.how]


class Disguised(dict[str, Any]):
    """A dictionary that unpickles as one and runs code on the way."""

    def __init__(self, canary: Path, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.canary = canary

    def __reduce__(self) -> Any:
        return (dict, (dict(self),), None, None, iter([("canary", Payload(self.canary))]))


def script(canary: Path) -> str:
    """Python source that makes the canary."""
    return f"import os\nos.mkdir({str(canary)!r})\n"


def template(canary: Path) -> str:
    """A jinja template that makes the canary where jinja lets it."""
    return (
        "{% for c in ().__class__.__base__.__subclasses__() %}{% if c.__name__ == 'Popen' %}"
        f"{{{{ c(['mkdir', '{canary}']) }}}}{{% endif %}}{{% endfor %}}"
    )
