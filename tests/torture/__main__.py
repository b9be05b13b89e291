"""Run the torture and print what survived: `python -m tests.torture --kills 200 --seed 0`."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.torture.warm import warm


def main() -> int:
    """Run it; return 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="Kills over all verbs (200).")
    parser.add_argument("--signals", type=int, default=20, help="SIGTERM and SIGINT in turn (20).")
    parser.add_argument("--faults", type=int, default=3, help="Places of each fault (3).")
    parser.add_argument("--seed", type=int, default=0, help="Of instants and places (0).")
    parser.add_argument("--only", default="", help="Verbs whose name holds this.")
    asked = parser.parse_args()
    warm()
    from tests.torture.faults import attempts
    from tests.torture.kills import Reference, torture
    from tests.torture.verbs import toys

    root = Path(tempfile.mkdtemp(prefix="torture-"))
    began, lost = time.monotonic(), 0
    try:
        verbs = [verb for verb in toys(root) if asked.only in verb.name]
        references = [Reference(v, root / f"verb-{k}") for k, v in enumerate(verbs)]
        _row("killed by -9", "survived", "runs", "redone a kill", "of", "seconds")
        totals = [0, 0]
        for verb, reference in zip(verbs, references, strict=True):
            kills = round(asked.kills * verb.share)
            score = torture(reference, kills, random.Random(f"{asked.seed} {verb.name}"))
            _tell(verb.name, score)
            totals = [totals[0] + score.survived, totals[1] + score.tried]
            lost += len(score.lost)
        _row("all", f"{totals[0]}/{totals[1]}")
        for verb, reference in zip(verbs, references, strict=True):
            if verb.name in ("estimate, states", "train, winq") and asked.signals:
                draw = random.Random(f"{asked.seed} signals {verb.name}")
                both = (signal.SIGTERM, signal.SIGINT)
                score = torture(reference, asked.signals // 2, draw, both)
                _tell(f"{verb.name}: TERM, INT", score)
                lost += len(score.lost)
        if asked.faults:
            _row("fault", "survived")
        for verb, reference in zip(verbs, references, strict=True):
            draw = random.Random(f"{asked.seed} faults {verb.name}")
            for name, survived, tried, wrong in attempts(reference, asked.faults, draw):
                _row(f"{verb.name}: {name}", f"{survived}/{tried}")
                _complain(wrong)
                lost += len(wrong)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"{time.monotonic() - began:.0f} s; {'nothing was lost' if not lost else 'LOST'}")
    return 1 if lost else 0


def _tell(name: str, score: object) -> None:
    from tests.torture.kills import Score

    assert isinstance(score, Score)
    each = f"{score.redone / max(1, score.tried):.1f}"
    cells = (f"{score.survived}/{score.tried}", str(score.runs), each, str(score.steps))
    _row(name, *cells, f"{score.seconds:.1f}")
    _complain(score.lost)


def _complain(wrong: list[str]) -> None:
    for what in wrong:
        print(f"    LOST: {what}", file=sys.stderr, flush=True)


def _row(name: str, *cells: str) -> None:
    print(f"{name:<46}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
