"""Runs several commands in one process: `verbs.py estimate … + table …`.

Each command's exit code follows on stderr, as `exit 0`.
"""

from __future__ import annotations

import sys

from spectra.cli.main import main

AND = "+"


def run(words: list[str]) -> None:
    """Run the commands that AND separates."""
    while words:
        end = words.index(AND) if AND in words else len(words)
        try:
            code: object = main(words[:end])
        except SystemExit as stop:
            code = stop.code
        print("exit", code, file=sys.stderr, flush=True)
        words = words[end + 1 :]


if __name__ == "__main__":
    run(sys.argv[1:])
