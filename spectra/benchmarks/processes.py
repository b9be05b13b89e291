"""Throughput of several processes of one thread each over one process of one thread.

torchrun starts the processes; in every round the first one does the whole work by itself while the
others wait, and then all share it. The two stand in turns within one program, so that what else the
machine does slows both alike. Beside the ratio of times stands that of processor seconds (of the
process that took most), which an idle machine would come near to. The work is a batch, or a probe,
for each process; starting and loading are no part of it, what is checked once a record only where
it says so.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spectra import curvature
from spectra.benchmarks.subject import load
from spectra.benchmarks.timing import once
from spectra.errors import SpectraError
from spectra.estimation import SLQSettings, engine
from spectra.parallel import world
from spectra.record import Spectrum

WORK = (("batches", False), ("probes", False), ("batches", True))


def measure(
    model: str, seq_len: int, steps: int, rounds: int, processes: int
) -> list[dict[str, Any]]:
    """Return rows (what is shared, with checks or without, seconds, ratio of times).

    Raises:
        SpectraError: If the processes fail.
    """
    with tempfile.TemporaryDirectory() as place:
        found = Path(place) / "rows.json"
        asked = json.dumps([model, seq_len, steps, rounds, str(found)])
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        done = subprocess.run(
            [sys.executable, "-m", *launcher, "-m", __name__, asked],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not found.exists():
            raise SpectraError(f"{processes} processes failed:\n{done.stderr[-2000:]}")
        rows: list[dict[str, Any]] = json.loads(found.read_text(encoding="utf-8"))
    return rows


def work(model: str, seq_len: int, steps: int, rounds: int, found: str) -> None:
    """Do the work of one of the processes; the first one writes the rows."""
    group = world()
    torch.set_num_threads(1)
    rows = []
    with group.together():
        place = group.device("auto")
        subject = load(model, seq_len=seq_len, batch_size=1, num_batches=group.size, device=place)
        for what, check in WORK:
            count = group.size if what == "batches" else 1
            H = curvature.hessian(subject.model, list(subject.batches[:count]))
            probes = group.size if what == "probes" else 1
            settings = SLQSettings(num_probes=probes, lanczos_steps=steps, check=check)
            times: dict[str, list[float]] = {"one": [], "all": [], "one cpu": [], "all cpu": []}
            made: dict[str, Spectrum] = {}

            def alone(H: Any = H, settings: Any = settings, made: Any = made) -> None:
                made["one"] = engine.run(H, settings, progress=False)

            def shared(H: Any = H, settings: Any = settings, made: Any = made) -> None:
                made["all"] = engine.run(H, settings, progress=False, ranks=group)

            for number in range(rounds + 1):  # a first round is thrown away
                for name, job in (("one", alone), ("all", shared)):
                    group.gather(None)
                    began = time.process_time()
                    runs = name == "all" or group.speaks
                    seconds = once(job, H.device) if runs else 0.0
                    cpu = max(group.gather(time.process_time() - began))
                    if number:
                        times[name].append(seconds)
                        times[f"{name} cpu"].append(cpu)
            if group.speaks:
                same = np.array_equal(made["one"].alphas, made["all"].alphas)
                rows.append(_row(what, check, group.size, times, same))
    if group.speaks:
        Path(found).write_text(json.dumps(rows), encoding="utf-8")


def _row(
    what: str, check: bool, processes: int, times: dict[str, list[float]], same: bool
) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(times["one"], times["all"], strict=True)]
    cpu = [a / b for a, b in zip(times["one cpu"], times["all cpu"], strict=True)]
    return {
        "shared": f"{processes} {what}",
        "checks": check,
        "seconds_of_one": statistics.median(times["one"]),
        f"seconds_of_{processes}": statistics.median(times["all"]),
        "throughput": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "throughput_cpu": statistics.median(cpu),
        "equal": bool(same),
    }


if __name__ == "__main__":
    work(*json.loads(sys.argv[1]))
