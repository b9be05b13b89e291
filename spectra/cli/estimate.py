"""`spectra estimate`: checkpoint and text in, record, table and figure out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from spectra.cli.arguments import parse, say
from spectra.cli.jobs import Job, jobs, refuse_occupied
from spectra.cli.parts import check_kind, estimate_part, parts_of
from spectra.cli.resuming import loaded, nothing_new, telling
from spectra.errors import NumericalWarning, SpectraError, UsageError
from spectra.estimation import Request, estimate
from spectra.estimation.pipeline import Opened, check, open_checkpoint
from spectra.estimation.request import resolve
from spectra.parallel import world
from spectra.record import Spectrum, holding
from spectra.record.doubts import DATA

DESCRIPTION = """\
The eigenvalue density of a checkpoint's Hessian by stochastic Lanczos quadrature, written as a
record after every probe. Every number has an interval.

The default protocol spends its products where the error is. One probe an operator: in n dimensions
a probe's error is √(2F(1 − F)/(n + 2)), below a thousandth from a million parameters on, so further
probes buy almost nothing. Batches show how much the spectrum depends on the data; steps are the
resolution: m steps cannot see details finer than about the spectral range times π/m near zero, and
a near-zero mass that is not resolved is reported as the interval it is.

An estimate that --tol asks for ends when it is reached or --max_hvps products are spent; the exit
code is 0 either way, and `adaptive.stopped` in the record is "reached" or why not.

Several checkpoints (--ckpt A B, --steps all, --per layer) make a record each; what fails is told at
the end and the rest goes on. The same command with --resume finishes what is unfinished and skips
what is done; a record made with other settings is refused by the name of what differs.

Under torchrun every process takes a share of the probes (whole batches where there are enough),
each on a GPU of its own; the record is the one that a single process makes, and either may resume
the other. --share vectors or parameters puts all of them on one operator, whose Lanczos basis, or
whose weights too, do not fit one device."""

EPILOG = """\
examples:
  spectra estimate --ckpt tiny --data stdlib --output results/tiny
  spectra estimate --ckpt runs/w2 --steps all --data wiki.txt --output results/w2
  spectra estimate --ckpt runs/w2 --steps all --per layer --output results/w2-layers --resume
  spectra estimate --ckpt HuggingFaceTB/SmolLM2-135M --data wiki.txt --seq_len 256 --output out
  spectra estimate --ckpt tiny --tol 0.02 --tau 0.1 --max_hvps 6000 --output results/tiny-adaptive
  torchrun --nproc-per-node 4 -m spectra estimate --ckpt runs/w2 --data wiki.txt --output results/w2
  spectra estimate --ckpt tiny --protocol winq --seq_len 256 --output results/tiny-reference"""


@dataclass(frozen=True)
class Arguments(Request):
    """The fields of `Request`, with several checkpoints, their steps and parts."""

    ckpt: list[str] = field(  # type: ignore[assignment]
        default_factory=list,
        metadata={"help": "Checkpoints: 'tiny' (built in), hub ids, directories, GGUF files."},
    )
    steps: str | None = field(
        default=None,
        metadata={"help": "Checkpoints of a run: all, or a list of steps as 200,400,800."},
    )
    per: str | None = field(
        default=None,
        metadata={"help": "layer, module: a record each of the transformer blocks or modules."},
    )
    sharp: bool = field(
        default=False,
        metadata={"help": "Print shares with sharp edges and node sums as well (always recorded)."},
    )
    figure: bool = field(default=True, metadata={"help": "Draw spectrum.png beside the record."})


def run(arguments: Sequence[str]) -> int:
    """Run the verb; return 1 if one of several records failed."""
    with world().together():
        asked, base = _asked(arguments)
        found, failed = jobs(asked.ckpt, asked.steps, asked.output)
        if not (asked.resume or asked.overwrite):
            refuse_occupied(found, parts=asked.per is not None)
    several = len(found) + len(failed) > 1 or asked.per is not None
    sweep = _Sweep(
        arguments, base, asked.per, figure=asked.figure, several=several, sharp=asked.sharp
    )
    for ckpt, error in failed.items():
        sweep.fail(ckpt, error)
    for number, job in enumerate(found, start=1):
        if len(found) > 1:
            say(f"[{number}/{len(found)}] {job.ckpt} -> {job.output}")
        sweep.run(job)
    return sweep.close()


def _asked(arguments: Sequence[str]) -> tuple[Arguments, Request]:
    """Return what is asked, and the part of it that all checkpoints have in common."""
    asked = parse(
        Arguments, arguments, prog="spectra estimate", description=DESCRIPTION, epilog=EPILOG
    )
    if not asked.ckpt:
        raise UsageError("--ckpt is missing; pass a checkpoint, for example --ckpt tiny.")
    common: dict[str, Any] = {
        f.name: getattr(asked, f.name) for f in fields(Request) if f.name != "ckpt"
    }
    base = Request(ckpt="", **common)
    check_kind(asked.per)
    check(resolve(base))
    return asked, base


class _Sweep:
    """Estimates of one command: one after the other, past those that fail."""

    def __init__(
        self,
        arguments: Sequence[str],
        base: Request,
        per: str | None,
        *,
        figure: bool,
        several: bool,
        sharp: bool,
    ) -> None:
        self.arguments, self.base, self.per = arguments, base, per
        self.figure, self.several, self.sharp = figure, several, sharp
        self.made, self.skipped = 0, 0
        self.data: str | None = None  # hash of the text of the first record
        self.failed: list[tuple[str, str]] = []

    def run(self, job: Job) -> None:
        """Estimate a checkpoint, or each of its parts."""
        request = replace(self.base, ckpt=job.ckpt, output=str(job.output))
        if self.per is None:
            self._guarded(job.ckpt, job.output, lambda: estimate(request))
            return
        opened: list[Opened] = []
        if not self._attempt(job.ckpt, lambda: opened.append(open_checkpoint(request))):
            return
        parts = parts_of(opened[0], self.per)
        for number, part in enumerate(parts, start=1):
            place = job.output / part.name
            say(f"[{number}/{len(parts)}] {part.name}: {len(part.names)} parameters -> {place}")
            self._guarded(
                f"{job.ckpt} {part.name}",
                place,
                lambda part=part, place=place: estimate_part(  # type: ignore[misc]
                    opened[0], part, str(self.per), place
                ),
            )

    def fail(self, name: str, error: Exception) -> None:
        """Note a failure and say it."""
        self.failed.append((name, str(error)))
        say(f"spectra estimate: {name}: {error}")

    def close(self) -> int:
        """Say how it went; return the exit code."""
        total = self.made + self.skipped + len(self.failed)
        if self.several and total > 1:
            parts = [f"{self.made} estimated"]
            parts += [f"{self.skipped} finished before"] if self.skipped else []
            say(f"{total} records: {', '.join(parts)}, {len(self.failed)} failed")
        if not self.failed:
            return 0
        what = "checkpoints" if self.per is None else "records"
        say(f"{len(self.failed)} of {total} {what} failed:")
        for name, reason in self.failed:
            say(f"  {name}: {reason}")
        return 1

    def _attempt(self, name: str, work: Callable[[], Any]) -> bool:
        """Do some work; whether it succeeded. What is not one of several raises."""
        try:
            work()
        except SpectraError as error:
            if not self.several:
                raise
            self.fail(name, error)
            return False
        except Exception as error:
            if not self.several:
                raise
            # Not foreseen, so its place matters; hours of other records matter more.
            logging.getLogger("spectra").exception("%s", name)
            self.fail(name, RuntimeError(f"{type(error).__name__}: {error}"))
            return False
        return True

    def _guarded(self, name: str, output: Path, work: Callable[[], Spectrum]) -> None:
        before = loaded(output) if self.base.resume else None

        def whole() -> None:
            spectrum = telling(work, output, self.arguments, several=self.several)
            done = before is not None and nothing_new(before, spectrum)
            self._compare_data(spectrum, output)
            self.skipped, self.made = self.skipped + done, self.made + (not done)
            with world().together():
                if world().speaks:
                    self._tell(spectrum, output, done=done)

        self._attempt(name, whole)

    def _compare_data(self, spectrum: Spectrum, output: Path) -> None:
        """Note in a record that its text is not that of the first of its series."""
        now = spectrum.metadata["data"].get("sha256")
        if self.data in (None, now) or not world().speaks:
            self.data = self.data or now
            return
        message = (
            f"{DATA}: the text changed between the records of this series ({self.data[:12]} in the "
            f"first, {now[:12]} here): what differs between them is not the checkpoint's alone"
        )
        if message not in spectrum.metadata["warnings"]:
            spectrum.metadata["warnings"].append(message)
            with holding(output):
                spectrum.save(output)
            warnings.warn(message, NumericalWarning, stacklevel=2)

    def _tell(self, spectrum: Spectrum, output: Path, *, done: bool) -> None:
        if done:
            say(f"{output}: finished before, by the same request; nothing was run")
        if done and self.several:
            print(f"record  {output}")
        else:
            _report(spectrum, output, figure=self.figure, brief=self.several, sharp=self.sharp)


def _report(spectrum: Spectrum, output: Path, *, figure: bool, brief: bool, sharp: bool) -> None:
    import analysis
    from analysis.adaptive import adaptive_lines

    for line in [*analysis.summary_lines(spectrum, sharp=sharp), *adaptive_lines(spectrum)]:
        if brief and not line.strip():
            continue
        print(line)
    print(f"record  {output}")
    if figure:
        drawn = analysis.plot_record(spectrum)
        for path in analysis.save_figure(drawn, output / "spectrum.png", [spectrum]):
            print(f"figure  {path}")
