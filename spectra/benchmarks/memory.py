"""Peak memory of a 60-step density, each tool in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import psutil
import torch

from spectra.benchmarks.peers import TOOLS
from spectra.benchmarks.subject import load
from spectra.estimation.peak import PeakMemory


def measure(model: str, seq_len: int, batch_size: int, steps: int) -> list[dict[str, Any]]:
    """Return a row a tool: bytes above what the process held with the model loaded."""
    rows = []
    for tool in TOOLS:
        sizes = [model, str(seq_len), str(batch_size), str(steps)]
        words = [sys.executable, "-W", "ignore", "-m", __name__, tool, *sizes]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            rows.append({"tool": tool, "failed": lines[-1][:160]})
        else:
            rows.append({"tool": tool} | json.loads(done.stdout.splitlines()[-1]))
    return rows


def _child(tool: str, model: str, seq_len: str, batch_size: str, steps: str) -> None:
    subject = load(model, seq_len=int(seq_len), batch_size=int(batch_size))
    made = TOOLS[tool](subject)
    before = psutil.Process().memory_info().rss
    if subject.device.type == "cuda":
        before = torch.cuda.memory_allocated(subject.device)
    with PeakMemory(subject.device) as peak:
        made.density(int(steps))
    print(json.dumps({"peak_bytes": peak.bytes, "above_model_bytes": peak.bytes - before}))


if __name__ == "__main__":
    _child(*sys.argv[1:])
