"""`python -m spectra.benchmarks`: run benchmarks, print tables, write JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spectra.benchmarks import (
    default,
    exact,
    gpu,
    growth,
    machine,
    memory,
    modes,
    policies,
    processes,
    product,
    split,
    stream,
    versus,
)
from spectra.benchmarks.subject import SHAPES, load
from spectra.errors import SpectraError

Rows = list[dict[str, Any]]


def _subject(asked: argparse.Namespace) -> Any:
    return load(
        asked.model,
        seq_len=asked.seq_len,
        batch_size=asked.batch_size,
        device=asked.device,
        dtype=asked.dtype,
    )


BENCHMARKS: dict[str, tuple[str, Callable[[argparse.Namespace], Rows]]] = {
    "product": (
        "a product in gradients, and against the rate of a matrix product",
        lambda asked: [product.measure(_subject(asked), asked.rounds)],
    ),
    "versus": (
        "a product and a 60-step density beside other tools",
        lambda asked: versus.measure(_subject(asked), asked.rounds, density=asked.density),
    ),
    "memory": (
        "peak memory of a density, each tool in its own process",
        lambda asked: memory.measure(asked.model, asked.seq_len, asked.batch_size, asked.steps),
    ),
    "modes": (
        "flops and peak bytes of each way to hold a graph, counted",
        lambda asked: modes.measure(_subject(asked)),
    ),
    "exact": (
        "interval width and error a second against the reference procedure, truth known",
        lambda asked: exact.measure(asked.seeds),
    ),
    "stream": (
        "reorthogonalization over the memory stream of its bytes",
        lambda asked: [stream.measure(asked.dim, asked.steps, asked.rounds)],
    ),
    "policies": (
        "ways to keep a long run orthogonal (--steps 1000 for the README's table)",
        lambda asked: policies.measure(asked.dim, asked.steps, asked.policies),
    ),
    "default": (
        "the whole basis against a part or none with more steps, by width in the same time",
        lambda asked: default.measure(_subject(asked), asked.steps),
    ),
    "gpu": (
        "a Llama end to end on one device (--model llama-3.2-1b --seq_len 2048)",
        lambda asked: gpu.measure(_subject(asked), asked.rounds, asked.steps),
    ),
    "split": (
        "float32 products from bfloat16 or TF32 parts: their error, emulated",
        lambda asked: split.measure(_subject(asked), asked.rounds),
    ),
    "growth": (
        "time against tokens, parameters, steps, probes",
        lambda asked: growth.measure(asked.model, asked.shapes, asked.rounds),
    ),
    "processes": (
        "throughput of several processes of one thread over one (--processes)",
        lambda asked: processes.measure(
            asked.model, asked.seq_len, asked.steps, asked.rounds, asked.processes
        ),
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks that were named and return the exit code."""
    asked = _parse(argv)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    place = torch.device("cuda" if asked.device != "cpu" and torch.cuda.is_available() else "cpu")
    found: dict[str, Any] = {"machine": machine.describe(place), "settings": vars(asked)}
    for name in asked.what:
        print(f"{name}: {BENCHMARKS[name][0]}", file=sys.stderr)
        try:
            rows = BENCHMARKS[name][1](asked)
        except SpectraError as error:
            print(f"spectra.benchmarks: {name}: {error}", file=sys.stderr)
            return error.exit_code
        found[name] = rows
        print(_table(rows), end="\n\n", flush=True)
        if asked.output is not None:  # after each: what is measured is kept
            path = Path(asked.output)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    lines = [f"  {name:<9} {text}" for name, (text, _) in BENCHMARKS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m spectra.benchmarks",
        description="Benchmarks:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="+", choices=list(BENCHMARKS))
    parser.add_argument("--model", default="tiny", help=f"a checkpoint, or {', '.join(SHAPES)}")
    parser.add_argument("--shapes", nargs="*", default=["llama-5m"], help="for growth")
    parser.add_argument("--seq_len", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--dim", type=int, default=1_000_000)
    parser.add_argument("--policies", nargs="*", default=[], help="some of them; default all")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=0, help="of torch on the CPU (its own)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--no_density", dest="density", action="store_false")
    parser.add_argument("--output", help="JSON file")
    return parser.parse_args(argv)


def _table(rows: Rows) -> str:
    names = list(dict.fromkeys(key for row in rows for key in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    raise SystemExit(main())
