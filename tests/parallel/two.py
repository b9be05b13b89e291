"""Runs a piece of Python in several processes that torchrun starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def launch(size: int, *command: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run `python COMMAND` in `size` processes of one thread each."""
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [*TORCHRUN, str(size), *command],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        timeout=timeout,
    )
