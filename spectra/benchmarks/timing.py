"""Times taken in turns, so that what else the machine does slows every candidate alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Work = Callable[[], object]


def in_turns(
    candidates: Mapping[str, Work], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of every candidate in every round; a first round is thrown away."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, work in candidates.items():
            seconds = once(work, device)
            if number:
                times[name].append(seconds)
    return times


def once(work: Work, device: torch.device) -> float:
    """Return the seconds that `work` takes, the device's queue included."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(times: Mapping[str, list[float]], name: str, base: str) -> float:
    """Return the median over rounds of one candidate's time over another's."""
    return statistics.median(
        ours / theirs for ours, theirs in zip(times[name], times[base], strict=True)
    )
