"""`spectra estimate`: checkpoint and text in, record, table and figure out."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from spectra import checkpoint
from spectra.cli.arguments import parse, say
from spectra.errors import RecordError, SpectraError, UsageError
from spectra.estimation import Request, estimate
from spectra.record import Spectrum

DESCRIPTION = """\
The eigenvalue density of a checkpoint's Hessian by stochastic Lanczos quadrature, written as a
record after every probe. Every number has an interval.

The default protocol spends its products where the error is. One probe an operator: in n dimensions
a probe's error is √(2F(1 − F)/(n + 2)), below a thousandth from a million parameters on, so further
probes buy almost nothing. Batches show how much the spectrum depends on the data; steps are the
resolution: m steps cannot see details finer than about the spectral range times π/m near zero, and
a near-zero mass that is not resolved is reported as the interval it is."""

EPILOG = """\
examples:
  spectra estimate --ckpt tiny --data stdlib --output results/tiny
  spectra estimate --ckpt runs/w2 --steps all --data wiki.txt --output results/w2
  spectra estimate --ckpt HuggingFaceTB/SmolLM2-135M --data wiki.txt --seq_len 256 --output out
  spectra estimate --ckpt tiny --protocol winq --seq_len 256 --output results/tiny-reference"""


@dataclass(frozen=True)
class Arguments(Request):
    """The fields of `Request`, with several checkpoints and steps."""

    ckpt: list[str] = field(  # type: ignore[assignment]
        default_factory=list,
        metadata={"help": "Checkpoints: 'tiny' (built in), hub ids, directories, GGUF files."},
    )
    steps: str | None = field(
        default=None,
        metadata={"help": "Checkpoints of a run: all, or a list of steps as 200,400,800."},
    )
    figure: bool = field(default=True, metadata={"help": "Draw spectrum.png beside the record."})


def run(arguments: Sequence[str]) -> int:
    """Run the verb; return 1 if one of several checkpoints failed."""
    asked = parse(
        Arguments, arguments, prog="spectra estimate", description=DESCRIPTION, epilog=EPILOG
    )
    if not asked.ckpt:
        raise UsageError("--ckpt is missing; pass a checkpoint, for example --ckpt tiny.")
    jobs = _jobs(asked)
    failed = []
    for number, request in enumerate(jobs, start=1):
        if len(jobs) > 1:
            say(f"[{number}/{len(jobs)}] {request.ckpt} -> {request.output}")
        try:
            _one(request, arguments, figure=asked.figure, several=len(jobs) > 1)
        except SpectraError as error:
            if len(jobs) == 1:
                raise
            failed.append(request.ckpt)
            say(f"spectra estimate: {request.ckpt}: {error}")
    if failed:
        say(f"{len(failed)} of {len(jobs)} checkpoints failed: {', '.join(failed)}")
        return 1
    return 0


def _jobs(asked: Arguments) -> list[Request]:
    common: dict[str, Any] = {
        f.name: getattr(asked, f.name) for f in fields(Request) if f.name != "ckpt"
    }
    base = Request(ckpt="", **common)
    places: list[tuple[str, str]] = []
    for ckpt in asked.ckpt:
        name = _safe_name(ckpt)
        if asked.steps is None:
            places.append((ckpt, name))
        else:
            found = checkpoint.series(ckpt, _step_list(asked.steps))
            places += [(str(path), f"{name}/step-{step}") for step, path in found]
    if len(places) == 1 and asked.steps is None:
        ckpt, name = places[0]
        return [replace(base, ckpt=ckpt, output=asked.output or f"results/{name}")]
    root = Path(asked.output or "results")
    return [replace(base, ckpt=ckpt, output=str(root / name)) for ckpt, name in places]


def _step_list(text: str) -> Any:
    if text == "all":
        return "all"
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"steps={text!r} must be 'all' or a list as 200,400,800.") from None


def _safe_name(ckpt: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-._" else "-" for c in Path(ckpt).name or ckpt)
    return kept.strip(".-") or "checkpoint"


def _one(request: Request, arguments: Sequence[str], *, figure: bool, several: bool) -> None:
    output = Path(str(request.output))
    try:
        spectrum = estimate(request)
    except KeyboardInterrupt:
        say(_how_to_resume(output, arguments))
        raise
    except SpectraError as error:
        began = not isinstance(error, (UsageError, RecordError))
        if began and _finished(output):
            raise type(error)(f"{error} {_how_to_resume(output, arguments)}") from None
        raise
    _report(spectrum, output, figure=figure, brief=several)


def _finished(output: Path) -> int:
    from spectra import record

    try:
        return record.load(output).finished
    except SpectraError:
        return 0


def _how_to_resume(output: Path, arguments: Sequence[str]) -> str:
    count = _finished(output)
    if not count:
        return "No probe had finished; nothing was lost."
    kept = [a for a in arguments if a not in ("--resume", "--overwrite")]
    command = shlex.join(["spectra", "estimate", *kept, "--resume"])
    return f"{count} finished probes are kept in {output}; go on with: {command}"


def _report(spectrum: Spectrum, output: Path, *, figure: bool, brief: bool) -> None:
    import analysis

    for line in analysis.summary_lines(spectrum):
        if brief and not line.strip():
            continue
        print(line)
    print(f"record  {output}")
    if figure:
        drawn = analysis.plot_record(spectrum)
        for path in analysis.save_figure(drawn, output / "spectrum.png", [spectrum]):
            print(f"figure  {path}")
