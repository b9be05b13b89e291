"""Peak memory of a stretch of work: allocated bytes on a GPU, resident set size on the CPU."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil
import torch

INTERVAL = 0.05  # seconds between two readings on the CPU


class PeakMemory:
    """`with PeakMemory(device) as peak: …; peak.bytes` is the largest use so far."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._largest, self._stop = device, 0, threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def bytes(self) -> int:
        """Largest memory use since the start."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        self._read()
        return self._largest

    def _read(self) -> None:
        self._largest = max(self._largest, int(psutil.Process().memory_info().rss))

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._read()
