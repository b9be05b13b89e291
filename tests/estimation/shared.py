"""What two processes do together in the tests of shared estimates; run by torchrun.

python shared.py ROOT CHECKPOINT TOKENS: every estimate goes to a directory of ROOT.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import spectra
from spectra.cli.main import main
from spectra.errors import OutOfMemoryError
from spectra.estimation.runner import Runner
from spectra.parallel import world

SIZES = {"seq_len": 16, "num_batches": 3, "num_probes": 2, "lanczos_steps": 8}
FLAGS = ["--seq_len", "16", "--num_batches", "2", "--lanczos_steps", "6"]
CASES: dict[str, dict[str, Any]] = {
    "batches": {},
    "mean": {"reduce": "mean", "num_probes": 3},
    "blocks": {"num_batches": 1, "num_probes": 5, "block_size": 2},
    "one place": {"num_batches": 1, "num_probes": 1},
    "none kept": {"basis": "none", "check": False},
}


def digest(spectrum: spectra.Spectrum) -> str:
    """Return a hash of everything measured."""
    parts = (spectrum.alphas, spectrum.betas, spectrum.steps, spectrum.losses, spectrum.tokens)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def fail_at(batch: int, probe: int, error: Exception) -> Any:
    """Make rank 1 fail when it comes to a place; return what undoes it."""
    whole = Runner._probe

    def failing(self: Runner, operator: Any, b: int, p: int) -> Any:
        if (world().rank, b, p) == (1, batch, probe):
            raise error
        return whole(self, operator, b, p)

    Runner._probe = failing  # type: ignore[method-assign]
    return lambda: setattr(Runner, "_probe", whole)


def work(root: Path, checkpoint: str, tokens: str) -> dict[str, Any]:
    """Return what this rank has seen."""
    told: dict[str, Any] = {}

    def estimate(name: str, **changes: Any) -> str:
        options = SIZES | changes
        output = None if name == "in memory" else str(root / name)
        try:
            found = spectra.estimate(
                checkpoint, data=tokens, output=output, progress=False, **options
            )
        except spectra.SpectraError as error:
            return f"{type(error).__name__}: {error}"
        return digest(found)

    def verb(name: str, *arguments: str) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*arguments, "--data", tokens, "--output", str(root / name), *FLAGS])
        told[name] = [code, out.getvalue(), err.getvalue()]

    for name, changes in CASES.items():
        told[name] = estimate(name, **changes)
    told["in memory"] = estimate("in memory")
    told["adaptive"] = estimate("adaptive", lanczos_steps=None, num_probes=None, tol=0.1)
    told["begun by one"] = estimate("begun by one", resume=True)
    told["again"] = estimate("batches", resume=True)
    undo = fail_at(2, 1, OutOfMemoryError("a graph of 9 TB does not fit."))
    told["failed"] = estimate("failed")
    told["files"] = sorted(path.name for path in (root / "failed").glob("*.npz"))
    undo()
    undo = fail_at(1, 1, OutOfMemoryError("a graph of 9 TB does not fit."))
    verb("verb", "estimate", "--ckpt", checkpoint, "--num_probes", "2", "--no_figure")
    undo()
    undo = fail_at(1, 0, ZeroDivisionError("of all things"))
    verb("series", "estimate", "--ckpt", checkpoint, f"{root}/nowhere", "--no_figure")
    undo()
    verb("layers", "estimate", "--ckpt", checkpoint, "--per", "layer", "--no_figure")
    told["resumed by two"] = estimate("resumed by two", resume=True)
    return told


if __name__ == "__main__":
    place = Path(sys.argv[1])
    seen = work(place, *sys.argv[2:])
    (place / f"told-{world().rank}.json").write_text(json.dumps(seen))
