"""Names of files in a locale that is not UTF-8.

Python gives a file name to the system in the encoding of the locale; libraries written in Rust
(tokenizers) give it as UTF-8, whatever the locale. Where the two are different bytes, they are
different files: such a name is refused before hours are spent on what could not be saved.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from spectra.errors import UsageError


def check_name(what: str, path: str | Path) -> None:
    """Refuse a path that is not the same file to all libraries.

    Args:
        what: The option that it was given as.
        path: Of a file or directory, absent or not.

    Raises:
        UsageError: If it is not, with the locale's encoding.
    """
    try:
        same = os.fsencode(path) == str(path).encode()
    except UnicodeEncodeError:
        same = False
    if not same:
        raise UsageError(
            f"{what}={str(path)!r} has letters that libraries cannot name where file names are in "
            f"{sys.getfilesystemencoding()}; set PYTHONUTF8=1, or choose a name without them."
        )
