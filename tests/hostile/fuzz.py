"""Fuzzing of every reader: `python -m tests.hostile.fuzz --minutes 10`.

Each reader (tests/hostile/readers.py) takes its turn. Where atheris is installed (the extra `fuzz`)
libFuzzer guides it by the coverage of this package and of what it calls to parse; else, or with
`--engine plain`, valid inputs are mutated without guidance. What crashes, hangs for a minute,
takes a gibibyte or says what a terminal would obey is written to tests/hostile/corpus/READER, which
the tests replay. Prints executions and crashes of each reader, and exits with 1 if there were any.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
SLICE = 20  # executions between looks at the clock
WORST = 3  # seconds: what takes longer is named


def main() -> int:
    """Fuzz, and print a line for each reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="In all.")
    parser.add_argument("--readers", nargs="*", help="Names; all without it.")
    parser.add_argument("--seed", type=int, default=None, help="Of the mutations.")
    parser.add_argument("--engine", choices=("auto", "atheris", "plain"), default="auto")
    asked = parser.parse_args()
    there = importlib.util.find_spec("atheris") is not None
    engine = asked.engine if asked.engine != "auto" else "atheris" if there else "plain"
    print("engine:", engine if there else "plain mutation (atheris is not installed)", flush=True)
    readers = _load(engine)
    names = asked.readers or list(readers)
    seed = random.randrange(2**31) if asked.seed is None else asked.seed
    head = f"{'reader':<14}{'executions':>11}{'accepted':>10}{'a second':>10}{'crashes':>9}"
    print(f"{head}   seed {seed}", flush=True)
    total = crashes = 0
    for name in names:
        found = _turn(readers[name], asked.minutes / len(names), seed, engine)
        total, crashes = total + found["executions"], crashes + len(found["crashes"])
        rate = found["executions"] / max(found["seconds"], 1e-9)
        print(
            f"{name:<14}{found['executions']:>11,}{found['accepted']:>10,}{rate:>10.1f}"
            f"{len(found['crashes']):>9}",
            flush=True,
        )
        for what in found["crashes"]:
            print(f"    {what}", flush=True)
    print(f"{'all':<14}{total:>11,}{'':>20}{crashes:>9}")
    return 1 if crashes else 0


def _load(engine: str) -> dict[str, Any]:
    """Return the readers, instrumented for coverage if they are to be guided by it."""
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["spectra", "analysis"]):
            from tests.hostile.readers import READERS
    else:
        from tests.hostile.readers import READERS
    import torch

    torch.set_num_threads(1)
    return dict(READERS)


def _turn(reader: Any, minutes: float, seed: int, engine: str) -> dict[str, Any]:
    """Fuzz one reader in a process of its own, which a crash of a library may end."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_memory()) as directory:
        said, noise = Path(directory) / "said", Path(directory) / "noise"
        child = os.fork()
        if child == 0:
            for path, stream in ((said, 1), (noise, 2)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
            code = 1
            try:
                _child(reader, minutes, seed, engine, Path(directory))
                code = 0
            except SystemExit:
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        lines = said.read_text(errors="replace").splitlines()
        lines = [line for line in lines if line.startswith('{"executions"')]
        if lines:
            return dict(json.loads(lines[-1]))
        last = " | ".join(noise.read_text(errors="replace").strip().splitlines()[-3:])
    facts = {"executions": 0, "accepted": 0, "seconds": time.monotonic() - started}
    return facts | {"crashes": [f"the process ended with {status}: {last}"]}


class Counter:
    """Runs inputs of one reader and keeps what fails, each kind of failure once."""

    def __init__(self, reader: Any, minutes: float) -> None:
        self.reader, self.end = reader, time.monotonic() + 60 * minutes
        self.started = time.monotonic()
        self.executions = self.accepted = 0
        self.crashes: dict[str, str] = {}

    def run(self, data: bytes) -> None:
        """Read one input."""
        from tests.hostile.limits import TooSlowError, within

        self.executions += 1
        try:
            with within():
                self.accepted += self.reader.run(data)
        except (Exception, TooSlowError) as error:
            where = traceback.extract_tb(error.__traceback__)
            own = [f for f in where if "/spectra/" in f.filename or "/analysis/" in f.filename]
            place = own[-1] if own else where[-1]
            what = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            if what not in self.crashes:
                self.crashes[what] = str(error)[:200]
                name = hashlib.sha256(data).hexdigest()[:16]
                (CORPUS / self.reader.name).mkdir(parents=True, exist_ok=True)
                (CORPUS / self.reader.name / name).write_bytes(data)

    @property
    def over(self) -> bool:
        """Whether the time is."""
        return time.monotonic() > self.end

    def report(self) -> str:
        """Return one line of JSON."""
        said = [f"{what}: {why!r}" for what, why in self.crashes.items()]
        seconds = time.monotonic() - self.started
        facts = {"executions": self.executions, "accepted": self.accepted, "seconds": seconds}
        return json.dumps(facts | {"crashes": said})


def _child(reader: Any, minutes: float, seed: int, engine: str, place: Path) -> None:
    reader.prepare(place / "files")
    if not any([reader.run(data) for data in reader.valid]):
        raise AssertionError(f"no valid input of {reader.name} is read")
    (_guided if engine == "atheris" else _plain)(Counter(reader, minutes), seed, place)


def _plain(counter: Counter, seed: int, _: Path) -> None:
    from tests.hostile.mutate import mutate

    rng, valid = random.Random(f"{seed} {counter.reader.name}"), counter.reader.valid
    kept = sorted(p.read_bytes() for p in (CORPUS / counter.reader.name).glob("*"))
    while not counter.over:
        for _ in range(SLICE):
            counter.run(mutate(rng.choice(valid + kept), rng, valid))
    print(counter.report(), flush=True)


def _guided(counter: Counter, seed: int, directory: Path) -> None:
    import atheris

    from tests.hostile.mutate import mutate

    seeds, valid = directory / "seeds", counter.reader.valid
    seeds.mkdir()
    for number, data in enumerate(valid):
        (seeds / str(number)).write_bytes(data)

    def one(data: bytes) -> None:
        if counter.over:
            print(counter.report(), flush=True)
            sys.stdout.flush()
            raise SystemExit
        counter.run(data)

    def change(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        chance = rng.random()
        if chance < 0.5:  # what libFuzzer keeps drifts away from what is valid
            return mutate(rng.choice(valid), rng, valid)[:most]
        return mutate(data, rng, valid)[:most] if chance < 0.75 else atheris.Mutate(data, most)

    longest = 2 * max(map(len, valid)) + 1000
    words = [sys.argv[0], str(seeds), f"-seed={seed % 2**31}", f"-max_len={longest}"]
    words += ["-rss_limit_mb=0", "-timeout=0", "-len_control=0", "-verbosity=0"]
    atheris.Setup(words, one, custom_mutator=change)
    atheris.Fuzz()


def _memory() -> str | None:
    """Return a directory in memory, where there is one: inputs are written by the thousand."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


Engine = Callable[[Counter, int, Path], None]

if __name__ == "__main__":
    sys.exit(main())
