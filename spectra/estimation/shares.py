"""Who runs which probes where several ranks share an estimate, and what each leaves on disk.

*Shares.* The places (batch, probe) that are missing are cut, in their order, into as many runs of
equal length as there are ranks. A batch's probes stay together but for those at a cut, so that at
most one graph a rank is built twice; where there are as many batches as ranks, or a multiple, every
rank has whole batches. Probes that share one product (`block_size`) are not separated. A probe
depends on (seed, batch, probe) alone, so it does not matter who runs it.

*On disk.* One writer a file. After every block of probes each rank but the first writes what it has
to `spectrum.rank-R.TOKEN.npz` beside the record, in the form of the record; rank 0 writes the
record itself, with what it finds of the others in it. When the run ends the record holds everything
and the files go. What a run that was ended by force has left is taken over by the next one with
`--resume`, of however many ranks. The token is drawn anew for every start.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from spectra import record
from spectra.errors import RecordError
from spectra.estimation.store import ProbeStore
from spectra.record import Spectrum

PATTERN = "spectrum.rank-*.npz"

Places = list[tuple[int, list[int]]]  # a batch and some of its probes


def share_out(missing: Places, block_size: int, ranks: int) -> list[Places]:
    """Return the places of every rank.

    Args:
        missing: The batches whose probes are missing, and which.
        block_size: Probes that share one product.
        ranks: How many ranks there are.
    """
    blocks = [
        (batch, probes[first : first + block_size])
        for batch, probes in missing
        for first in range(0, len(probes), block_size)
    ]
    at_work = max(1, min(ranks, len(blocks)))
    cuts = [len(blocks) * rank // at_work for rank in range(at_work + 1)]
    # The longer shares come last: rank 0, which has the first place, makes the checks as well.
    shares = [_joined(blocks[a:b]) for a, b in pairwise(cuts)]
    return shares + [[] for _ in range(ranks - at_work)]


def _joined(blocks: Sequence[tuple[int, list[int]]]) -> Places:
    found: Places = []
    for batch, probes in blocks:
        if found and found[-1][0] == batch:
            found[-1][1].extend(probes)
        else:
            found.append((batch, list(probes)))
    return found


def draw_token() -> str:
    """Return a name for one start of a run."""
    return secrets.token_hex(4)


def write_share(store: ProbeStore, output: Path, rank: int, token: str) -> None:
    """Write what rank `rank` has."""
    record.save_arrays(store.snapshot(), output / PATTERN.replace("*", f"{rank}.{token}"))


def found_shares(output: Path) -> list[Path]:
    """Return what ranks of runs have left in `output`."""
    return sorted(output.glob(PATTERN))


def remove_shares(output: Path) -> None:
    """Remove what ranks have left, once the record holds it."""
    for path in found_shares(output):
        path.unlink(missing_ok=True)


class Incoming:
    """The files of the other ranks of this start, read again where they have changed."""

    def __init__(self, output: Path, token: str) -> None:
        self.output, self.token = output, token
        self._seen: dict[Path, int] = {}

    def new(self) -> list[Spectrum]:
        """Return what has come since the last call."""
        found = []
        for path in self.output.glob(PATTERN.replace("*", f"*.{self.token}")):
            try:
                written = path.stat().st_mtime_ns
                if self._seen.get(path) != written:
                    found.append(record.load(path))
                    self._seen[path] = written
            except (OSError, RecordError):
                continue  # its rank tells at the end what it has
        return found


def merge(store: ProbeStore, other: Spectrum) -> int:
    """Take over what `other` has beyond `store`; return the steps of the probes so gained.

    Cost: products of all probes, the longest time, the highest peak. Checks that are made once a
    record are rank 0's; those of a batch, and the largest of those of a run, are joined.
    """
    _, probes, steps = other.alphas.shape
    gained = (other.steps > 0) & (store.steps[:, :probes] == 0)
    for name in ("alphas", "betas"):
        getattr(store, name)[:, :probes, :steps][gained] = getattr(other, name)[gained]
    store.steps[:, :probes][gained] = other.steps[gained]
    known = np.isfinite(other.losses) & ~np.isfinite(store.losses)
    for name in ("losses", "grad_norms", "tokens"):
        getattr(store, name)[known] = getattr(other, name)[known]
    cost, theirs = store.metadata["cost"], other.metadata["cost"]
    new = int(other.steps[gained].sum())
    cost["hvps"] += new
    for name in ("seconds", "peak_bytes"):
        cost[name] = max(cost[name], theirs[name])
    _merge_checks(store.metadata, other.metadata)
    return new


def _merge_checks(mine: dict[str, Any], other: dict[str, Any]) -> None:
    checks, theirs = mine["checks"], other["checks"]
    zeros = theirs.get("structural_zero_fractions")
    if zeros is not None:
        ours = checks.setdefault("structural_zero_fractions", [None] * len(zeros))
        ours[:] = [a if a is not None else b for a, b in zip(ours, zeros, strict=True)]
        known = [share for share in ours if share is not None]
        checks["structural_zero_fraction"] = sum(known) / len(known)
    if "condensed_error" in theirs:
        known_error = float(checks.get("condensed_error") or 0.0)
        checks["condensed_error"] = max(known_error, theirs["condensed_error"])
    if theirs.get("few_tokens") and checks.get("few_tokens"):
        return  # said once a record
    for name, value in theirs.items():
        if name not in checks:
            checks[name] = copy.deepcopy(value)
    for name in ("warnings", "notes"):
        told = mine.setdefault(name, [])
        told += [message for message in other.get(name, []) if message not in told]


def joined(found: Sequence[Spectrum]) -> Spectrum:
    """Return one record of several of the same run, the first one's metadata in it."""
    batches, _, steps = found[0].alphas.shape
    probes = max(one.steps.shape[1] for one in found)
    first = copy.deepcopy(found[0].metadata)
    store = ProbeStore(batches, probes, steps, first)
    store.take_over(found[0])
    for one in found[1:]:
        merge(store, one)
    first["estimator"]["num_probes"] = probes
    return store.snapshot()
