"""A row of the table of environments: `python -m tests.environments --python python3.12`.

Makes a virtual environment with the versions asked for, installs the package there from a wheel,
copies the tests to an empty directory, and runs the part of them named below: what depends on the
versions of Python and of the libraries, in minutes on one core. Prints a row of a table, and exits
with 1 if a test failed.

    python -m tests.environments --torch 2.15.0 --transformers 5.23.0
    python -m tests.environments --lowest            # every dependency at its lower bound

Without `--torch`, and so on, pip decides. Builds of torch for CUDA bring gigabytes; `--place` says
where they go for the time of the run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = {
    "products against dense truth": ("curvature/test_hessian.py", "curvature/test_surfaces.py"),
    "attention, for its kernels": ("curvature/test_softmax_attention.py",),
    "Lanczos and probes": ("linalg/test_lanczos.py", "linalg/test_probe_vectors.py"),
    "quantizers": ("quant/test_worked_examples.py", "quant/test_swap.py"),
    "checkpoints": ("checkpoint/test_load.py", "checkpoint/test_own.py"),
    "checkpoints of strangers": ("hostile/test_checkpoints.py",),
    "records": ("record/test_files.py", "analysis/test_load_records.py"),
    "training": ("train/test_training.py",),
    "command line": ("cli/test_commands.py",),
    "figures": ("analysis/test_figures.py",),
    "a notebook": ("project/test_notebooks.py::test_notebook_runs[1_first_spectrum]",),
    "all verbs, offline, without UTF-8, on odd paths": ("environments",),
}
COPIED = ("tests", "notebooks", "README.md", "pyproject.toml")
TOLD = ("torch", "transformers", "numpy", "scipy", "pandas", "matplotlib", "accelerate")


def main() -> int:
    """Make an environment, test in it, and print a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="Its interpreter.")
    parser.add_argument("--torch", help="Its version, as 2.13.0.")
    parser.add_argument("--transformers", help="Its version.")
    parser.add_argument("--lowest", action="store_true", help="All at their lower bounds.")
    parser.add_argument("--with", nargs="*", default=[], dest="more", help="Further requirements.")
    parser.add_argument("--place", help="Where to make it; a temporary directory without it.")
    parser.add_argument("--keep", action="store_true", help="Do not delete it at the end.")
    parser.add_argument("--table", type=Path, help="A file to which the row is added.")
    asked = parser.parse_args()
    pins = lowest() if asked.lowest else {}
    for name in ("torch", "transformers"):
        if version := getattr(asked, name):
            pins[name] = f"{name}=={version}"
    if asked.place is not None:
        Path(asked.place).mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="spectra-environment-", dir=asked.place))
    try:
        started = time.monotonic()
        python = install(place, asked.python, [*pins.values(), *asked.more])
        print(f"installed in {time.monotonic() - started:.0f} s", flush=True)
        row, failed = examine(place, python)
    finally:
        if asked.keep:
            print(f"kept  {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)
    print(row)
    if asked.table is not None:
        with asked.table.open("a", encoding="utf-8") as table:
            table.write(row + "\n")
    return 1 if failed else 0


def lowest() -> dict[str, str]:
    """Return name -> requirement of each dependency at the lowest version that is allowed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {}
    for requirement in project["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,.*)?", requirement).groups()  # type: ignore[union-attr]
        bound += ".0" * (1 - bound.count("."))  # 5 is 5.0, of which the last correction is taken
        found[name] = f"{name}=={bound}.*"
    return found


def install(place: Path, python: str, requirements: list[str]) -> Path:
    """Make a virtual environment in `place`; return its interpreter."""
    subprocess.run([python, "-m", "venv", str(place / "venv")], check=True)
    found = place / "venv" / "bin" / "python"
    words = [str(found), "-m", "pip", "install", "-q", str(ROOT), "pytest", "hypothesis"]
    subprocess.run([*words, *requirements], check=True)
    return found


def examine(place: Path, python: Path) -> tuple[str, bool]:
    """Run the tests in a copy beside the environment; return a row, and whether one failed."""
    copy = place / "copy"
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    told, began = place / "told.xml", time.monotonic()
    chosen = [f"tests/{path}" for paths in TESTS.values() for path in paths]
    # What libraries make of each other is not ours to mend: deprecations are told, no failures.
    kinds = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
    words = [word for kind in kinds for word in ("-W", f"default::{kind}")]
    words += ["-q", "-rfE", "-p", "no:cacheprovider", "--tb", "short", f"--junitxml={told}"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = subprocess.run(
        [str(python), "-m", "pytest", *words, *chosen],
        cwd=copy,
        env=environment | {"OMP_NUM_THREADS": "1"},
        check=False,
    ).returncode
    if code not in (0, 1):
        return "no test was run", True
    counts = ElementTree.parse(told).getroot().find("testsuite").attrib  # type: ignore[union-attr]
    wrong = int(counts["failures"]) + int(counts["errors"])
    passed = int(counts["tests"]) - wrong - int(counts["skipped"])
    cells = [*versions(python), f"{passed} passed, {wrong} failed, {counts['skipped']} skipped"]
    return f"| {' | '.join(cells)} | {time.monotonic() - began:.0f} s |", wrong > 0


def versions(python: Path) -> list[str]:
    """Return the versions of Python and of the libraries in TOLD."""
    code = (
        "import sys; from importlib.metadata import version as v; "
        f"print(sys.version.split()[0], *map(v, {TOLD!r}))"
    )
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()


if __name__ == "__main__":
    sys.exit(main())
