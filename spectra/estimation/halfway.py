"""Probes on their way: the Lanczos state of an unfinished one beside the record.

With `save_state_every` N a probe writes its state after every N steps to `lanczos-B-P.safetensors`
(batch B, probe P), in place of the one before, so that a run that is killed goes on inside the
probe, bit for bit on the CPU. The record is written before the first state, with what the run has
settled (basis, checks). A state goes when its probe is in the record. It is as large as the basis
and two vectors; while one takes the place of another both are on the disk.

A state is taken up by a run of the same identity and demands alone. One that is damaged or another
run's is passed over, and so is a disk too full for it: both are said, the probe begins anew or goes
on without.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from spectra.errors import RecordError, UsageError
from spectra.linalg import Lanczos
from spectra.linalg.saved import SavedState, write_state

PATTERN = "lanczos-*.safetensors"
CHECKS = ("product_error_source", "product_error_vectors", "orthogonality_loss")
LARGEST = ("product_error", "condensed_error")  # of several measurements

log = logging.getLogger(__name__)


def found_states(output: Path) -> list[Path]:
    """Return the states in `output`."""
    return sorted(output.glob(PATTERN))


def remove_states(output: Path) -> None:
    """Remove the states in `output`."""
    for path in found_states(output):
        path.unlink(missing_ok=True)


def check_every(every: int | None) -> None:
    """Refuse a number of steps that is none.

    Raises:
        UsageError: If it is not positive.
    """
    if every is not None and every < 1:
        raise UsageError(f"save_state_every={every} is too small; pass at least 1 step.")


class Halfway:
    """Writes and finds the states of one run.

    Args:
        output: Directory of the record.
        every: Steps between two states; 0 to take up what is there and write none.
        whose: What decides the run's numbers, JSON values; a state of another run is not used.
        record: Writes the record as it stands.
    """

    def __init__(
        self, output: Path, every: int, whose: dict[str, Any], record: Callable[[], None]
    ) -> None:
        self.output, self.every = output, every
        self._whose = json.loads(json.dumps(whose))
        self._record, self._recorded, self._full = record, False, False
        self._began, self._spent = time.monotonic(), 0.0

    def begin(self) -> None:
        """Note that a probe begins; the record is there from now on."""
        if not self._recorded:
            self._record()
            self._recorded = True
        self._began, self._spent = time.monotonic(), 0.0

    def save(
        self,
        lanczos: Lanczos,
        place: tuple[int, Sequence[int]],
        checks: dict[str, Any],
        vectors: Sequence[torch.Tensor] | None,
        more: dict[str, Any],
    ) -> None:
        """Write the state of a run, if it is time to.

        Args:
            lanczos: The run.
            place: Its batch and probes.
            checks: The section of the record, as it stands.
            vectors: What a sampler has kept so far; None where nothing is sampled.
            more: What else is to be known, JSON values.
        """
        if not self.every or lanczos.num_steps % self.every or lanczos.finished or self._full:
            return
        about = {
            "whose": self._whose,
            "place": [place[0], list(place[1])],
            "checks": {n: checks[n] for n in (*CHECKS, *LARGEST) if n in checks},
            "sampled": None if vectors is None else len(vectors),
            "seconds": self._spent + time.monotonic() - self._began,
        }
        added = {f"sampled.{k}": vector for k, vector in enumerate(vectors or ())}
        path = self._path(place)
        try:
            write_state(path, lanczos, about | more, added)
        except OSError as error:
            self._full = True
            log.warning(
                "note: the Lanczos state %r cannot be written (%s): going on without; what was "
                "saved before stays",
                str(path),
                error.strerror,
            )

    def take(
        self, lanczos: Lanczos, place: tuple[int, Sequence[int]], checks: dict[str, Any]
    ) -> tuple[dict[str, Any], list[torch.Tensor] | None] | None:
        """Continue `lanczos` from the state of its place, if there is one.

        Returns:
            What was to be known and what a sampler had kept (None where nothing was sampled);
            None where the probe begins at its first step.
        """
        path = self._path(place)
        if not path.is_file():
            return None
        try:
            state = SavedState(path)
            about = state.about
            if (about["whose"], about["place"]) != (self._whose, [place[0], list(place[1])]):
                raise RecordError("it is of another run")
            sampled = about["sampled"]
            vectors = None if sampled is None else [self._vector(state, k) for k in range(sampled)]
            found, spent = dict(about["checks"]), float(about["seconds"])
            state.load_into(lanczos)
        except (RecordError, UsageError, KeyError, TypeError, ValueError) as error:
            log.warning("note: %s is not used (%s); its probe begins anew", path.name, error)
            return None
        for name, value in found.items():
            larger = name in LARGEST and name in checks
            checks[name] = max(checks[name], value) if larger else value
        self._spent = spent
        log.info("%s: going on after step %d", path.name, lanczos.num_steps)
        return about, vectors

    @staticmethod
    def _vector(state: SavedState, index: int) -> torch.Tensor:
        return state.tensor(f"sampled.{index}")

    @property
    def spent(self) -> float:
        """Seconds that an earlier process has spent on this probe."""
        return self._spent

    def forget(self, place: tuple[int, Sequence[int]]) -> None:
        """Remove the state of a probe that the record holds."""
        self._path(place).unlink(missing_ok=True)

    def _path(self, place: tuple[int, Sequence[int]]) -> Path:
        return self.output / PATTERN.replace("*", f"{place[0]}-{place[1][0]}")
